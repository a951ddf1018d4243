"""A waiting queue for concert tickets: whoever asked first gets one, though the payment provider fails now and then.

    python examples/ticket_queue.py

The key of a request is its concert, so all requests for a concert stand in one partition, in the order in which they
came, and `run` works on one of them at a time; on those of other concerts meanwhile. A request whose payment fails is
tried again in place (`RetryPolicy(blocking=True)`): those behind it wait. Without `blocking` it would come again later
from the group's retry topic, and they would overtake it: right for most work, wrong for a queue.

Runs on a PostgreSQL of its own, or in the database that PGQ_DSN names; needs `pip install 'pgq-log[embedded]'`.
"""

import random
import sys
import threading
from itertools import count

from database import database
from psycopg_pool import ConnectionPool

from pgq import Admin, Consumer, ConsumerRecord, Producer, RetryPolicy

TOPIC, CONCERTS, FANS, TICKETS = "ticket-requests", ("helsinki", "lisbon", "vienna"), 25, 10
RETRY = RetryPolicy(max_attempts=20, initial=0.02, multiplier=1.5, maximum=0.5, blocking=True)


class PaymentError(Exception):
    """The payment provider did not answer."""


class PaymentProvider:
    """Fails at every fourth call. Calls with one reference charge once: a request may be tried again after a crash."""

    def __init__(self) -> None:
        self.calls = count(1)
        self.charged: set[str] = set()
        self.failures: list[str] = []

    def charge(self, fan: str, concert: str) -> None:
        if next(self.calls) % 4 == 0:
            self.failures.append(concert)
            raise PaymentError(f"no answer for {fan}")
        self.charged.add(f"{concert}/{fan}")


class BoxOffice:
    def __init__(self, pool: ConnectionPool, provider: PaymentProvider, consumer: Consumer) -> None:
        self.pool = pool
        self.provider = provider
        self.consumer = consumer

    def serve(self, record: ConsumerRecord) -> None:
        """The handler: one request, to be answered once, however often it is delivered."""
        concert, fan = record.key, record.value
        with self.pool.connection() as connection:  # a transaction, rolled back if this raises
            (known, sold) = connection.execute(
                "select count(*) filter (where fan = %s), count(ticket) from answer where concert = %s", [fan, concert]
            ).fetchone() or (0, 0)
            if known:
                return
            ticket = sold + 1 if sold < TICKETS else None
            if ticket is not None:
                self.provider.charge(fan, concert)
            connection.execute("insert into answer values (%s, %s, %s)", [concert, fan, ticket])
        with self.pool.connection() as connection:
            (answers,) = connection.execute("select count(*) from answer").fetchone() or (0,)
        if answers == FANS * len(CONCERTS):
            self.consumer.stop()  # a real one runs until SIGTERM


def ask(arrivals: list[tuple[str, str]]) -> None:
    with Producer(key_serializer="str", value_serializer="str") as producer:
        for concert, fan in arrivals:
            producer.send(TOPIC, fan, key=concert)


def sell(dsn: str) -> int:
    arrivals = [(concert, f"fan-{number:02}") for concert in CONCERTS for number in range(FANS)]
    random.shuffle(arrivals)
    provider = PaymentProvider()
    with Admin() as admin, ConnectionPool(dsn) as pool:
        admin.create_topic(TOPIC, partitions=3)
        with pool.connection() as connection:
            connection.execute("create table answer (concert text, fan text, ticket int, primary key (concert, fan))")
            connection.execute("create unique index on answer (concert, ticket)")

        consumer = Consumer(
            TOPIC,
            group_id="box-office",
            auto_offset_reset="earliest",
            key_deserializer="str",
            value_deserializer="str",
        )
        crowd = threading.Thread(target=ask, args=(arrivals,))
        crowd.start()
        consumer.run(BoxOffice(pool, provider, consumer).serve, retry=RETRY, concurrency=len(CONCERTS))
        crowd.join()

        with pool.connection() as connection:
            query = "select concert, fan from answer where ticket is not null order by concert, ticket"
            sold: list[tuple[str, str]] = connection.execute(query).fetchall()

    in_order = True
    for concert in CONCERTS:
        came = [fan for place, fan in arrivals if place == concert]
        got = [fan for place, fan in sold if place == concert]
        in_order = in_order and got == came[:TICKETS]
        print(f"{concert:9} {len(got)} of {len(came)} got a ticket: {' '.join(fan[4:] for fan in got)}")
        print(f"{'':9} in the order of arrival: {' '.join(fan[4:] for fan in came)}")
    once = provider.charged == {f"{concert}/{fan}" for concert, fan in sold}
    retried = consumer.metrics()["records_retried_total"]
    print(f"payment failed {len(provider.failures)} times, and was tried again {retried:.0f} times")
    print(f"the first {TICKETS} got them" if in_order and once else "somebody JUMPED the queue")
    return 0 if in_order and once else 1


if __name__ == "__main__":
    with database() as dsn:
        sys.exit(sell(dsn))
