"""Who may ask for what: names, passwords, origins, and the headers of every answer."""

from __future__ import annotations

import base64
import binascii
import hmac
import secrets
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from altsync.config import Settings, is_loopback
from altsync.errors import ConfigurationError

#: Paths that need no password: they say only that the process is up.
OPEN_PATHS = frozenset({"/healthz"})

#: Methods that change nothing.
SAFE_METHODS = frozenset({"GET", "HEAD"})

#: The header that carries the token of ``/api/session``. No other site can set or read it.
TOKEN_HEADER = "x-csrf-token"  # noqa: S105  (a name)

SECURITY_HEADERS = {
    "content-security-policy": (
        "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; "
        "object-src 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


@dataclass(frozen=True, slots=True)
class Access:
    """The rules of one server. ``token`` is made anew at each start."""

    password: str | None
    token: str = field(default_factory=lambda: secrets.token_urlsafe(32))


def access_for(host: str, settings: Settings) -> Access:
    """The rules for a server on ``host``.

    Raises ``ConfigurationError`` for an address beyond loopback without a password.
    """
    secret = settings.altsync_dashboard_password
    if secret is None and not is_loopback(host):
        raise ConfigurationError(
            f"the dashboard on {host} would be reached from other machines: "
            "set ALTSYNC_DASHBOARD_PASSWORD"
        )
    return Access(secret.get_secret_value() if secret else None)


class Guard:
    """The outermost layer: refuses what is not meant for this server, and marks every answer."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return

        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(SECURITY_HEADERS)
                headers.setdefault("cache-control", "no-store")
            await send(message)

        refused = self._refusal(Request(scope))
        await (refused or self._app)(scope, receive, marked)

    def _refusal(self, request: Request) -> Response | None:
        # A page of another site that has its name point here would be sent with that name. With
        # a password it gets nowhere: browsers keep passwords by name.
        if self._access.password is None and not _names_loopback(request.headers.get("host", "")):
            return refuse(403, "ask for this server as localhost or by its loopback address")
        if request.url.path not in OPEN_PATHS and not self._knows_password(request):
            answer = refuse(401, "a password is needed")
            answer.headers["www-authenticate"] = 'Basic realm="altsync", charset="UTF-8"'
            return answer
        if request.method not in SAFE_METHODS:
            return self._refuse_foreign(request)
        # Another site could not read the answer, but it could make the stores work for it.
        if request.headers.get("sec-fetch-site") == "cross-site" and request.url.path != "/":
            return refuse(403, "the request does not come from this page")
        return None

    def _knows_password(self, request: Request) -> bool:
        if self._access.password is None:
            return True
        scheme, _, encoded = request.headers.get("authorization", "").partition(" ")
        try:
            login = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            return False
        _name, _, given = login.partition(b":")
        right = hmac.compare_digest(given, self._access.password.encode())
        return right and scheme.lower() == "basic"

    def _refuse_foreign(self, request: Request) -> Response | None:
        origin = urlsplit(request.headers.get("origin", ""))
        if not origin.netloc or origin.netloc != request.headers.get("host"):
            return refuse(403, "the request does not come from this page")
        given = request.headers.get(TOKEN_HEADER, "")
        if not hmac.compare_digest(given.encode(), self._access.token.encode()):
            return refuse(403, "the token of this page is missing or out of date: load it again")
        return None


def refuse(status: int, sentence: str) -> JSONResponse:
    """An answer that says why not."""
    return JSONResponse({"error": sentence}, status)


def _names_loopback(host: str) -> bool:
    """Whether a Host header names this machine; any port will do, as a tunnel may have its own."""
    try:
        name = urlsplit(f"//{host}").hostname
    except ValueError:
        return False
    return name is not None and is_loopback(name)
