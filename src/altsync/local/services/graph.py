"""ArcadeDB, a graph database with Neo4j's Bolt protocol, from a wheel that includes Java."""

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

#: Megabytes of Java heap. The process has 180 MB resident when idle, about 320 MB under load.
HEAP_MEGABYTES = 512


class Graph(Service):
    """An ArcadeDB server. Clients use the ``neo4j`` driver with ``database="altsync"``."""

    name: ClassVar[str] = "graph"
    #: Bolt, and HTTP, which the server always opens.
    port_count: ClassVar[int] = 2

    @cached_property
    def flavour(self) -> str:
        """The name and version, as in ``ArcadeDB 26.10.2 (Bolt)``."""
        try:
            release = version("arcadedb-embedded").partition(".post")[0]
        except PackageNotFoundError as error:
            raise _missing() from error
        return f"ArcadeDB {release} (Bolt)"

    @property
    def url(self) -> str:
        """The Bolt address. ``auth`` has user and password."""
        return f"bolt://{self.host}:{self.port}"

    @property
    def auth(self) -> tuple[str, str]:
        """User and password."""
        return USER, self.secret

    @property
    def env(self) -> Mapping[str, str]:
        """The environment variables with the address and password of this service."""
        return {
            "NEO4J_URI": self.url,
            "NEO4J_USERNAME": USER,
            "NEO4J_PASSWORD": self.secret,
            "NEO4J_DATABASE": DATABASE,
        }

    def prepare(self) -> None:
        """Write the password into a file that only this account reads."""
        write_private(self.folder / "root.password", self.secret)
        (self.folder / "tmp").mkdir(mode=0o700, exist_ok=True)

    @contextmanager
    def launching(self) -> Iterator[Launch]:
        """Set a UTF-8 locale: in the locale C, Java cannot open paths with other letters."""
        yield Launch(self.command(), environment={"LC_ALL": "C.UTF-8"})

    def command(self) -> list[str]:
        """Return the command. It names the host of each listener: the default is all interfaces."""
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
            # A committed write is on disk. This costs about a tenth of the writes.
            "txWalFlush": "1",
        }
        return [
            str(package / "jre" / "bin" / "java"),
            f"-Xmx{HEAP_MEGABYTES}m",
            # The collector that needs the least memory.
            "-XX:+UseSerialGC",
            "-XX:-UsePerfData",
            # Native libraries are unpacked there. /tmp may be mounted noexec.
            f"-Djava.io.tmpdir={self.folder / 'tmp'}",
            "-cp",
            str(package / "jars" / "*"),
            *(f"-Darcadedb.{name}={value}" for name, value in settings.items()),
            "com.arcadedb.server.ArcadeDBServer",
        ]

    def answers(self) -> bool:
        """Return whether altsync's database answers the driver."""
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


def start_graph(folder: Path) -> Graph:
    """Start a graph server. The caller stops it. Raises ``LocalStackError``."""
    return started(Graph(folder))


def _package() -> Path:
    spec = importlib.util.find_spec("arcadedb_embedded")
    if spec is None or spec.origin is None:
        raise _missing()
    return Path(spec.origin).parent


def _missing() -> LocalStackError:
    return LocalStackError("the graph server is not installed: pip install 'altsync[local]'")
