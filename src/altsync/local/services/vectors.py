"""altsync's own small server for the Pinecone API and OpenAI's embeddings."""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from altsync.local.records import RecordBook, write_private
from altsync.local.services.base import LOOPBACK, Service, started
from altsync.local.vectors.admin import VectorsAdmin
from altsync.local.vectors.names import EMBEDDING_MODEL

#: Seconds for an orderly end; requests under way get one.
STOP_SECONDS = 10.0


class Vectors(Service):
    """The vector index and the embedding model behind one port and one key."""

    name: ClassVar[str] = "vectors"
    stop_seconds: ClassVar[float] = STOP_SECONDS

    def __init__(
        self,
        folder: Path,
        book: RecordBook | None = None,
        *,
        host: str = LOOPBACK,
        cancelled: threading.Event | None = None,
        lag: float = 0.0,
    ) -> None:
        super().__init__(folder, book, host=host, cancelled=cancelled)
        self._lag = lag

    @property
    def flavour(self) -> str:
        """Always altsync's own."""
        return f"altsync vectors (Pinecone API + /v1/embeddings, {EMBEDDING_MODEL})"

    @property
    def url(self) -> str:
        """The server's root: Pinecone's control plane."""
        return f"http://{self.host}:{self.port}"

    @property
    def openai_url(self) -> str:
        """The base URL for the OpenAI client."""
        return f"{self.url}/v1"

    @property
    def admin(self) -> VectorsAdmin:
        """Faults and counters of this server."""
        return VectorsAdmin(self.url, self.secret)

    @property
    def env(self) -> Mapping[str, str]:
        """The variables by which clients find this service."""
        return {
            "PINECONE_API_KEY": self.secret,
            "PINECONE_CONTROLLER_HOST": self.url,
            "OPENAI_API_KEY": self.secret,
            "OPENAI_BASE_URL": self.openai_url,
            "ALTSYNC_EMBEDDING_MODEL": EMBEDDING_MODEL,
        }

    def prepare(self) -> None:
        """Leave the key where only the server's account reads it."""
        write_private(self.folder / "api.key", self.secret)

    def command(self) -> list[str]:
        """This Python, and the server's module."""
        options = {
            "--data": str(self.folder / "data"),
            "--host": self.host,
            "--port": str(self.port),
            "--api-key-file": str(self.folder / "api.key"),
            "--lag": str(self._lag),
        }
        flags = [part for option in options.items() for part in option]
        # -P: a data folder must not be searched for Python modules.
        return [sys.executable, "-P", "-m", "altsync.local.vectors", *flags]

    def answers(self) -> bool:
        """Return whether the health page is served."""
        return self.admin.healthy()


def start_vectors(folder: Path, host: str = LOOPBACK, lag: float = 0.0) -> Vectors:
    """A vectors server of its own, answering; ``stop()`` it. Raises ``LocalStackError``.

    ``lag`` is the delay in seconds until a write can be read, as on the real service.
    """
    return started(Vectors(folder, host=host, lag=lag))
