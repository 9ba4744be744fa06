"""altsync's server for Pinecone's API and OpenAI's embeddings."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from altsync.local.records import write_private
from altsync.local.services.base import LOOPBACK, Service, started
from altsync.local.vectors.admin import VectorsAdmin
from altsync.local.vectors.names import EMBEDDING_MODEL


class Vectors(Service):
    """The vector index and the embedding model, on one port and with one key."""

    name: ClassVar[str] = "vectors"
    stop_seconds: ClassVar[float] = 10.0

    #: Seconds until a write can be read, as on the real service.
    lag: float = 0.0

    @property
    def flavour(self) -> str:
        """The server and its model."""
        return f"altsync vectors (Pinecone API + /v1/embeddings, {EMBEDDING_MODEL})"

    @property
    def url(self) -> str:
        """The URL of Pinecone's control plane."""
        return f"http://{self.host}:{self.port}"

    @property
    def openai_url(self) -> str:
        """The base URL for the OpenAI client."""
        return f"{self.url}/v1"

    @property
    def admin(self) -> VectorsAdmin:
        """The client for faults and counters of this server."""
        return VectorsAdmin(self.url, self.secret)

    @property
    def env(self) -> Mapping[str, str]:
        """The environment variables with the address and key of this service."""
        return {
            "PINECONE_API_KEY": self.secret,
            "PINECONE_CONTROLLER_HOST": self.url,
            "OPENAI_API_KEY": self.secret,
            "OPENAI_BASE_URL": self.openai_url,
            "ALTSYNC_EMBEDDING_MODEL": EMBEDDING_MODEL,
        }

    def prepare(self) -> None:
        """Write the key into a file that only this account reads."""
        write_private(self.folder / "api.key", self.secret)

    def command(self) -> list[str]:
        """Return the command that runs the server's module with this Python."""
        options = {
            "--data": str(self.folder / "data"),
            "--host": self.host,
            "--port": str(self.port),
            "--api-key-file": str(self.folder / "api.key"),
            "--lag": str(self.lag),
        }
        flags = [part for option in options.items() for part in option]
        # -P: Python must not import modules from the data folder.
        return [sys.executable, "-P", "-m", "altsync.local.vectors", *flags]

    def answers(self) -> bool:
        """Return whether the server answers ``/_health``."""
        return self.admin.healthy()


def start_vectors(folder: Path, host: str = LOOPBACK, lag: float = 0.0) -> Vectors:
    """Start a vector server. The caller stops it. Raises ``LocalStackError``."""
    service = Vectors(folder, host=host)
    service.lag = lag
    return started(service)
