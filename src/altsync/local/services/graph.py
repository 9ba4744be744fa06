"""A graph database that speaks Neo4j's Bolt protocol: ArcadeDB, with the Java it brings along."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import ClassVar

from altsync.local import ports
from altsync.local.errors import LocalStackError
from altsync.local.processes import Launch
from altsync.local.records import write_private
from altsync.local.services.base import Service, started

USER = "root"
DATABASE = "altsync"

#: Megabytes of Java heap; resident it is 180 MB idle and about 320 MB under load.
HEAP_MEGABYTES = 512


class Graph(Service):
    """An ArcadeDB server; clients use the ``neo4j`` driver with ``database="altsync"``."""

    name: ClassVar[str] = "graph"
    #: Bolt, and the HTTP port that the server opens in any case.
    port_count: ClassVar[int] = 2

    heap_megabytes: int = HEAP_MEGABYTES

    @cached_property
    def flavour(self) -> str:
        """For example ``ArcadeDB 26.10.2 (Bolt)``."""
        try:
            release = version("arcadedb-embedded").partition(".post")[0]
        except PackageNotFoundError as error:
            raise _missing() from error
        return f"ArcadeDB {release} (Bolt)"

    @property
    def url(self) -> str:
        """The Bolt address; ``auth`` has the credentials."""
        return f"bolt://{self.host}:{self.port}"

    @property
    def auth(self) -> tuple[str, str]:
        """User and password."""
        return USER, self.secret

    @property
    def env(self) -> Mapping[str, str]:
        """The variables by which clients find this service."""
        return {
            "NEO4J_URI": self.url,
            "NEO4J_USERNAME": USER,
            "NEO4J_PASSWORD": self.secret,
            "NEO4J_DATABASE": DATABASE,
        }

    def prepare(self) -> None:
        """Leave the password where only the server's account reads it."""
        write_private(self.folder / "root.password", self.secret)
        (self.folder / "tmp").mkdir(mode=0o700, exist_ok=True)

    @contextmanager
    def launching(self) -> Iterator[Launch]:
        """With a locale of UTF-8: Java cannot open a path with an umlaut in the locale C."""
        yield Launch(self.command(), environment={"LC_ALL": "C.UTF-8"})

    def command(self) -> list[str]:
        """Java with the host named for every listener: the default is every interface."""
        package = _package()
        settings = {
            "server.rootPath": str(self.folder),
            "server.rootPasswordPath": str(self.folder / "root.password"),
            "server.httpIncomingHost": self.host,
            "server.httpIncomingPort": str(self.record.ports[1]),
            "server.defaultDatabases": f"{DATABASE}[{USER}]",
            "server.plugins": "Bolt:com.arcadedb.bolt.BoltProtocolPlugin",
            "bolt.host": self.host,
            "bolt.port": str(self.port),
            # Committed means on disk; costs about a tenth of the writes.
            "txWalFlush": "1",
        }
        return [
            str(package / "jre" / "bin" / "java"),
            f"-Xmx{self.heap_megabytes}m",
            # The smallest collector: the heap is small and the machine often is.
            "-XX:+UseSerialGC",
            "-XX:-UsePerfData",
            # Native libraries are unpacked there, and /tmp may forbid to run what it holds.
            f"-Djava.io.tmpdir={self.folder / 'tmp'}",
            "-cp",
            str(package / "jars" / "*"),
            *(f"-Darcadedb.{name}={value}" for name, value in settings.items()),
            "com.arcadedb.server.ArcadeDBServer",
        ]

    def answers(self) -> bool:
        """Return whether the driver gets an answer from altsync's database."""
        if not ports.accepts(self.port, self.host):
            return False
        import neo4j

        try:
            with (
                neo4j.GraphDatabase.driver(
                    self.url, auth=self.auth, connection_timeout=5
                ) as driver,
                driver.session(database=DATABASE) as session,
            ):
                return session.run("RETURN 1 AS one").single() is not None
        except (neo4j.exceptions.Neo4jError, neo4j.exceptions.DriverError):
            return False


def start_graph(folder: Path, heap_megabytes: int = HEAP_MEGABYTES) -> Graph:
    """A graph server of its own, answering; ``stop()`` it. Raises ``LocalStackError``."""
    service = Graph(folder)
    service.heap_megabytes = heap_megabytes
    return started(service)


def _package() -> Path:
    spec = importlib.util.find_spec("arcadedb_embedded")
    if spec is None or spec.origin is None:
        raise _missing()
    return Path(spec.origin).parent


def _missing() -> LocalStackError:
    return LocalStackError("the graph server is not installed: pip install 'altsync[local]'")
