"""Pages that show code for FastAPI and Django: their blocks run in applications of these frameworks."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest

import pgq
from pgq.testing import drain
from tests.plugins.sessions import eventually

ROOT = Path(pgq.__file__).parents[1]
HOWTO = ROOT / "docs" / "howto"
# the LEADER locks of an instance of the service
LEADERS = """
    select count(*) from pg_locks where locktype = 'advisory' and classid::bigint >> 26 = 27
       and database = (select oid from pg_database where datname = current_database())
"""

SETTINGS = """
import os
from psycopg.conninfo import conninfo_to_dict

PGQ_DSN = os.environ["PGQ_DSN"]
NAMES = {"NAME": "dbname", "HOST": "host", "PORT": "port", "USER": "user", "PASSWORD": "password"}
DSN = conninfo_to_dict(PGQ_DSN)
DATABASES = {
    "default": {"ENGINE": "django.db.backends.postgresql", "ATOMIC_REQUESTS": os.environ.get("ATOMIC") == "yes"}
    | {key: DSN.get(name, "") for key, name in NAMES.items()}
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions", "shop"]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]
ROOT_URLCONF = "urls"
SECRET_KEY = "secret"
USE_TZ = True
"""
MODELS = """
from django.conf import settings
from django.db import models

class Purchase(models.Model):
    customer = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE)
    amount = models.IntegerField()
"""
URLS = """
from django.urls import path
from shop.views import buy, fail

urlpatterns = [path("buy", buy), path("fail", fail)]
"""
FAIL = """

def fail(request):
    buy(request)
    raise ZeroDivisionError
"""
VISIT = """
import django
django.setup()
from django.contrib.auth.models import User
from django.core.management import call_command
from django.test import Client
from shop.models import Purchase

call_command("makemigrations", "shop", verbosity=0)
call_command("migrate", verbosity=0)
client = Client(raise_request_exception=False)
client.force_login(User.objects.create(username="c7"))
print(client.get("/buy").status_code, client.get("/fail").status_code, Purchase.objects.count())
"""


def block(page: str, words: str) -> str:
    """The block of Python on a page in which words stand."""
    text = (HOWTO / page).read_text(encoding="utf-8")
    (found,) = (b for b in re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE) if words in b)
    return str(found)


@pytest.fixture
def project(tmp_path: Path, dsn: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of Django with the blocks of the pages."""
    files = {
        "settings.py": SETTINGS,
        "urls.py": URLS,
        "shop/__init__.py": "",
        "shop/models.py": MODELS,
        "shop/views.py": "import pgq\nfrom shop.models import Purchase\n"
        + block("outbox.md", "def buy(request)")
        + FAIL,
        "shop/management/__init__.py": "",
        "shop/management/commands/__init__.py": "",
        "shop/management/commands/run_pgq.py": "from pgq import Maintenance\n" + block("service.md", "class Command"),
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))
    monkeypatch.setenv("DJANGO_SETTINGS_MODULE", "settings")
    monkeypatch.setenv("PGQ_DSN", dsn)
    return tmp_path


def leads(conn: psycopg.Connection[Any]) -> bool:
    """Whether an instance of the service is at work in this database."""
    return conn.execute(LEADERS).fetchone() != (0,)


def test_the_service_in_the_lifespan_of_fastapi(
    dsn: str, conn: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from fastapi.testclient import TestClient

    monkeypatch.setenv("PGQ_DSN", dsn)
    namespace: dict[str, Any] = {"Maintenance": pgq.Maintenance}
    exec(block("service.md", "import FastAPI"), namespace)  # noqa: S102
    with TestClient(namespace["app"]) as client:
        assert client.get("/").status_code == 404
        eventually(lambda: leads(conn))
    eventually(lambda: not leads(conn))


@pytest.mark.usefixtures("project")
def test_the_service_as_a_command_of_django(conn: psycopg.Connection[Any]) -> None:
    with subprocess.Popen([sys.executable, "-m", "django", "run_pgq"], stderr=subprocess.PIPE, text=True) as command:
        try:
            eventually(lambda: leads(conn))
            command.send_signal(signal.SIGTERM)
            _, errors = command.communicate(timeout=60)
        finally:
            command.kill()
    assert command.returncode == 0, errors
    eventually(lambda: not leads(conn))


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("atomic", ["yes", "no"])
def test_the_outbox_in_a_view_of_django(dsn: str, atomic: str, conn: psycopg.Connection[Any]) -> None:
    """With ATOMIC_REQUESTS a view that fails takes back what its outbox has sent."""
    conn.execute("select pgq.create_topic('orders')")
    done = subprocess.run(
        [sys.executable, "-c", VISIT],
        env=os.environ | {"ATOMIC": atomic},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    count = 1 if atomic == "yes" else 2
    assert done.stdout == f"201 500 {count}\n", done.stdout + done.stderr
    records = drain("orders", dsn=dsn, value_deserializer="json")
    assert [(record.key, record.value) for record in records] == [(b"1", {"purchase": n + 1}) for n in range(count)]
