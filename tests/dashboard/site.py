"""A dashboard that serves, and what tests ask it."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

from altsync.app import Application
from altsync.config import Settings, read_settings
from altsync.dashboard import serve
from altsync.dashboard.access import Access
from altsync.dashboard.app import build_app
from altsync.local.services.vectors import Vectors
from altsync.local.vectors.names import EMBEDDING_MODEL

#: Seconds that one answer may take on a busy machine.
TIMEOUT = 60.0


@dataclass(frozen=True)
class Answer:
    """An answer of the server."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, which must be JSON."""
        return json.loads(self.body)

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode()


@dataclass(frozen=True)
class Site:
    """A running dashboard."""

    url: str
    app: Application
    access: Access

    @property
    def host(self) -> str:
        """Return the Host header of browsers."""
        return urlsplit(self.url).netloc

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One request with exactly these headers, and a Host unless they name one."""
        connection = http.client.HTTPConnection(self.host, timeout=TIMEOUT)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            sent = {"Host": self.host, **(headers or {})}
            if body is not None:
                sent["Content-Length"] = str(len(body))
            for name, value in sent.items():
                connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            return Answer(
                answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
            )
        finally:
            connection.close()

    def get(self, path: str, /, headers: Mapping[str, str] | None = None, **query: Any) -> Answer:
        """A GET with a query."""
        return self.ask("GET", f"{path}?{urlencode(query)}" if query else path, headers=headers)

    def post(self, path: str, body: Any, headers: Mapping[str, str] | None = None) -> Answer:
        """A POST as the page makes it; ``headers`` change that."""
        own = {"Origin": self.url.rstrip("/"), "X-CSRF-Token": self.access.token}
        return self.ask("POST", path, json.dumps(body).encode(), {**own, **(headers or {})})


@contextmanager
def serving(app: Application, access: Access | None = None) -> Iterator[Site]:
    """A dashboard on a free port of loopback, in a thread of this process."""
    access = access or Access(None)
    with serve.listen("127.0.0.1", 0) as socket:
        server = serve.server_of(build_app(app, access))
        thread = threading.Thread(target=server.run, args=([socket],), daemon=True)
        thread.start()
        try:
            yield Site(serve.address_of(socket), app, access)
        finally:
            server.should_exit = True
            thread.join(TIMEOUT)


def settings_for(database_url: str, **more: Any) -> Settings:
    """Settings that name this database, and nothing of the machine's."""
    return read_settings(_env_file=None, database_url=database_url, **more)


def local_services(server: Vectors) -> dict[str, Any]:
    """Settings that lead to the local vectors server."""
    return {
        "pinecone_api_key": server.secret,
        "pinecone_controller_host": server.url,
        "openai_api_key": server.secret,
        "openai_base_url": server.openai_url,
        "altsync_embedding_model": EMBEDDING_MODEL,
    }
