"""A real PostgreSQL server for tests, with a database for each of them.

It survives its own crash, which a test brings about, but no power cut: fsync is off.
"""

import contextlib
import itertools
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psycopg

from tests.system.needs import missing

_PATIENCE = 60.0


def programs() -> Path:
    """Where the server's are; Debian keeps them off the path. Ends the test without them."""
    found = [*Path("/usr/lib/postgresql").glob("*/bin/postgres")]
    if program := shutil.which("postgres"):
        found.append(Path(program))
    if not found:
        missing("PostgreSQL is missing; to run this test: apt-get install postgresql")
    return found[-1].parent


class Server:
    """One server in a folder of its own, on a socket there and on `addresses`."""

    def __init__(
        self,
        addresses: str = "",
        port: int = 5432,
        within: Sequence[str] = (),
        *,
        safe: bool = False,
        more: Sequence[str] = (),
    ) -> None:
        """Make the folder and start, by the command `within` that becomes another one.

        `safe`: a commit survives a power cut; `more` settings. Ends the test where there is no
        PostgreSQL.
        """
        self._settings = [] if safe else ["-F", "-c", "full_page_writes=off"]
        self._settings += [word for setting in more for word in ("-c", setting)]
        self._bin = programs()
        self.folder = Path(tempfile.mkdtemp(prefix="i2vd-postgres-"))
        self._numbers = itertools.count(1)
        self._addresses, self._port = addresses, port
        self._within = within
        self._as_user: list[str] = []
        if os.getuid() == 0:  # it refuses to run as root
            shutil.chown(self.folder, "postgres", "postgres")
            self._as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"]
        self._run("initdb", "-D", "data", "-A", "trust", "-U", "postgres", "-E", "UTF8",
                  "--locale=C", "--no-sync", "--no-instructions")  # fmt: skip
        with (self.folder / "data" / "pg_hba.conf").open("a") as access:
            access.write("host all all all trust\n")
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        log = (self.folder / "log").open("ab")
        with log:
            self._process = subprocess.Popen(
                [*self._within, *self._as_user, self._bin / "postgres", "-D", self.folder / "data",
                 "-k", self.folder, "-h", self._addresses, "-p", str(self._port),
                 *self._settings, "-c", "shared_buffers=64MB", "-c", "max_connections=200"],
                cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        end = time.monotonic() + _PATIENCE
        while True:
            try:
                self.connect("postgres").close()
                return
            except psycopg.OperationalError:
                if self._process.poll() is not None or time.monotonic() > end:
                    raise AssertionError((self.folder / "log").read_text()) from None
                time.sleep(0.05)

    def stop(self, how: str = "immediate") -> None:
        """End it: "immediate" as a crash would, "fast" in order."""
        self._run("pg_ctl", "stop", "-D", "data", "-m", how, "-w")
        self._process.wait(_PATIENCE)

    def close(self) -> None:
        """End it, and remove all."""
        if self._process.poll() is None:
            self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def connect(self, database: str) -> psycopg.Connection:
        """A connection of the superuser, for what i2vd does not do."""
        return psycopg.connect(
            host=str(self.folder),
            port=self._port,
            user="postgres",
            dbname=database,
            autocommit=True,
        )

    def fresh(self) -> str:
        """The name of a new, empty database."""
        name = f"test{next(self._numbers)}"
        with self.connect("postgres") as db:
            db.execute(f"create database {name}")  # type: ignore[arg-type]
        return name

    def url(self, database: str, host: str | None = None) -> str:
        """As in `queue.url`: by the socket, or at the address `host`."""
        where = f"host={self.folder}&port={self._port}" if host is None else ""
        at = "" if host is None else f"{host}:{self._port}"
        return f"postgresql+psycopg://postgres@{at}/{database}" + (f"?{where}" if where else "")

    def drop(self, database: str) -> None:
        """Remove a database, whoever is connected."""
        with self.connect("postgres") as db:
            db.execute(f"drop database {database} with (force)")  # type: ignore[arg-type]

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [*self._as_user, self._bin / program, *arguments],
            cwd=self.folder, check=True, capture_output=True, text=True,
        )  # fmt: skip


@contextlib.contextmanager
def serving(addresses: str = "", port: int = 5432, within: Sequence[str] = ()) -> Iterator[Server]:
    """A server for a while."""
    server = Server(addresses, port, within)
    try:
        yield server
    finally:
        server.close()
