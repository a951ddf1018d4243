"""A crawler: URLs are records, eight threads fetch pages, what fails is tried again, what is hopeless is set aside.

    python examples/web_crawler.py

Shows `run` with a concurrency, retries with a growing delay, `Reject`, and dead letters. A web server in this process
has 60 pages that link to each other: some answer 503 twice, one always, and one link leads nowhere. Each page that is
found for the first time becomes a row and a record, in one transaction, so each is fetched, and none for ever: the row
says that the URL is known, whichever pages link to it, and however often the handler is called for one page.

Runs on a PostgreSQL of its own, or in the database that PGQ_DSN names; needs `pip install 'pgq-log[embedded]'`.
"""

import re
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar
from urllib.error import HTTPError
from urllib.request import urlopen

from database import database, wait_until
from psycopg_pool import ConnectionPool

import pgq
from pgq import Admin, Consumer, ConsumerRecord, Reject, RetryPolicy

TOPIC, GROUP, WORKERS, PAGES = "urls", "crawlers", 8, 60
# Seconds in production: initial=30, maximum=3600 are the defaults.
RETRY = RetryPolicy(max_attempts=4, initial=0.1, multiplier=2)
NEW_ONES = "insert into page (url) select unnest(%s::text[]) on conflict do nothing returning url"


class Site(BaseHTTPRequestHandler):
    """Page n links to 2n, 2n + 1, home, and some that make trouble."""

    requests: ClassVar[Counter[str]] = Counter()

    def do_GET(self) -> None:
        self.requests[self.path] += 1
        number = int(self.path.removeprefix("/page/")) if re.fullmatch(r"/page/\d+", self.path) else None
        if number is None and self.path != "/overloaded":
            self.answer(404)
        elif number is None or (number % 10 == 7 and self.requests[self.path] <= 2):
            self.answer(503)
        else:
            links = ["/page/1", *(f"/page/{n}" for n in (2 * number, 2 * number + 1) if n <= PAGES)]
            links += ["/missing"] * (number == 5) + ["/overloaded"] * (number % 20 == 0)
            self.answer(200, " ".join(f'<a href="{link}">' for link in links))

    def answer(self, status: int, body: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        """Print no line a request."""


class Crawler:
    def __init__(self, site: str, pool: ConnectionPool) -> None:
        self.site = site
        self.pool = pool

    def find(self, urls: set[str], fetched: str | None = None) -> None:
        """Make a row and a record of each URL that is new."""
        with self.pool.connection() as connection, pgq.outbox(connection, value_serializer="str") as outbox:
            # sorted, and its own row last: so no two pages wait for each other, whatever links they share
            for (url,) in connection.execute(NEW_ONES, [sorted(urls)]).fetchall():
                outbox.send(TOPIC, url)
            connection.execute("update page set links = %s where url = %s", [len(urls), fetched])

    def fetch(self, record: ConsumerRecord) -> None:
        """The handler. What it raises is retried by the policy, but for Reject: no attempt would help."""
        try:
            with urlopen(self.site + record.value, timeout=10) as response:
                page = response.read().decode()
        except HTTPError as error:
            if error.code == 404:
                raise Reject("404: there is no such page") from error
            raise
        self.find(set(re.findall(r'href="([^"]+)"', page)), fetched=record.value)


def crawl(site: str, dsn: str) -> int:
    started = time.perf_counter()
    with Admin() as admin, ConnectionPool(dsn, max_size=WORKERS + 1) as pool:
        admin.create_topic(TOPIC, partitions=4)
        with pool.connection() as connection:
            connection.execute("create table page (url text primary key, links int)")
        crawler = Crawler(site, pool)
        crawler.find({"/page/1"})
        consumer = Consumer(
            TOPIC,
            group_id=GROUP,
            auto_offset_reset="earliest",
            value_deserializer="str",
            auto_commit_interval_ms=100,  # what has failed goes to the retry topic with the next commit
        )

        def is_done() -> bool:
            hopeless = len(admin.list_dead_letters(TOPIC))
            with pool.connection() as connection:
                (missing,) = connection.execute("select count(*) from page where links is null").fetchone() or (0,)
            return bool(missing == hopeless)

        def watch() -> None:
            try:
                wait_until(lambda: ended.is_set() or is_done(), "each page is fetched or a dead letter")
            finally:
                consumer.stop()

        ended, watcher = threading.Event(), threading.Thread(target=watch)
        watcher.start()
        consumer.run(crawler.fetch, retry=RETRY, concurrency=WORKERS)  # until stop(), SIGTERM or Ctrl-C
        ended.set()
        watcher.join()

        with pool.connection() as connection:
            (fetched,) = connection.execute("select count(links) from page").fetchone() or (0,)
        again = consumer.metrics()["records_retried_total"]
        print(f"fetched {fetched} pages with {WORKERS} threads in {time.perf_counter() - started:.1f} s")
        print(f"{again:.0f} failures were tried again")
        for letter in sorted(admin.list_dead_letters(TOPIC), key=lambda letter: letter.value or b""):
            print(f"dead letter: {(letter.value or b'').decode()} after {letter.attempts}: {letter.last_error}")
        return 0 if fetched == PAGES else 1


def main() -> int:
    with database() as dsn, ThreadingHTTPServer(("127.0.0.1", 0), Site) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            return crawl(f"http://127.0.0.1:{server.server_port}", dsn)
        finally:
            server.shutdown()


if __name__ == "__main__":
    sys.exit(main())
