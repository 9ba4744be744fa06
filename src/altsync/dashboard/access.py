"""Access to the dashboard: host names, passwords, origins, and headers of every answer."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

import structlog
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from altsync.addresses import is_loopback
from altsync.config import Settings
from altsync.errors import ConfigurationError
from altsync.logins import generated_login

logger = structlog.get_logger(__name__)

#: Paths that need no password: they answer only that the process runs.
OPEN_PATHS = frozenset({"/healthz"})

#: Paths that need no generated password: scrapers and probes have no browser.
OPEN_WITHOUT_SETTING = OPEN_PATHS | {"/readyz", "/metrics"}

#: The file of ALTSYNC_HOME with the generated password.
LOGIN_FILE = "dashboard.auth"

#: The cookie of a browser that signed in with the link. The port is appended.
COOKIE = "altsync_session"

#: Delay in seconds after the first wrong password. Each further one doubles it.
FIRST_DELAY = 0.25
LONGEST_DELAY = 8.0

#: Seconds without a wrong password after which a client's count starts again.
FORGET_AFTER = 600.0

#: Greatest number of clients whose failures are counted, and of answers delayed at one time.
MOST_CLIENTS = 1024
MOST_WAITING = 64

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
    """The password and secrets of one server. ``token`` and ``link_key`` change at each start.

    ``generated``: altsync generated the password; ``LOGIN_FILE`` holds it.
    """

    password: str | None
    token: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    generated: bool = False
    link_key: str = field(default_factory=lambda: secrets.token_urlsafe(32))

    @property
    def session(self) -> str:
        """Return the cookie's value. A restart with the same password keeps browsers signed in."""
        password = (self.password or "").encode()
        return hmac.new(password, b"altsync dashboard session", hashlib.sha256).hexdigest()

    def link(self, url: str) -> str:
        """Return the address that signs a browser in."""
        return f"{url}?token={self.link_key}" if self.generated else url


def access_for(host: str, settings: Settings) -> Access:
    """Return the access to a server on ``host``, on loopback with a generated password.

    Raises ``ConfigurationError`` for an address beyond loopback without a password.
    """
    secret = settings.altsync_dashboard_password
    if secret is not None:
        return Access(secret.get_secret_value())
    if not is_loopback(host):
        raise ConfigurationError(
            f"the dashboard on {host} would be reached from other machines: "
            "set ALTSYNC_DASHBOARD_PASSWORD"
        )
    login = generated_login(settings.altsync_home / LOGIN_FILE)
    return Access(login.partition(":")[2], generated=True)


class WrongPasswords:
    """The counts of wrong passwords by client. Each one delays the next answer longer."""

    def __init__(
        self,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sleep = sleep
        self._clock = clock
        self._clients: OrderedDict[str, tuple[int, float]] = OrderedDict()
        self._waiting = 0

    async def note(self, client: str, path: str) -> Response:
        """Log a wrong password, wait, and return the answer."""
        count, last = self._clients.pop(client, (0, 0.0))
        now = self._clock()
        count = 1 if now - last > FORGET_AFTER else count + 1
        self._clients[client] = (count, now)
        if len(self._clients) > MOST_CLIENTS:
            self._clients.popitem(last=False)
        logger.warning("access.refused", client=client, path=path, failures=count)
        delay = min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** min(count - 1, 16))
        if self._waiting >= MOST_WAITING:
            answer = refuse(429, "too many wrong passwords: wait before the next one")
            answer.headers["retry-after"] = f"{delay:.0f}"
            return answer
        self._waiting += 1
        try:
            await self._sleep(delay)
        finally:
            self._waiting -= 1
        return _ask_for_password()


class AccessGuard:
    """The outermost ASGI layer: it refuses requests, and adds headers to every answer."""

    def __init__(
        self, app: ASGIApp, access: Access, failures: WrongPasswords | None = None
    ) -> None:
        self._app = app
        self._access = access
        self._failures = failures or WrongPasswords()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(SECURITY_HEADERS)
                headers.setdefault("cache-control", "no-store")
            await send(message)

        refused = await self._refusal(Request(scope))
        await (refused or self._app)(scope, receive, send_with_headers)

    async def _refusal(self, request: Request) -> Response | None:
        # DNS rebinding: another site's name may point here. A set password is enough protection,
        # as browsers keep passwords by host name.
        chosen = self._access.password is not None and not self._access.generated
        if not chosen and not _names_loopback(request.headers.get("host", "")):
            return refuse(403, "ask for this server as localhost or by its loopback address")
        open_paths = OPEN_WITHOUT_SETTING if self._access.generated else OPEN_PATHS
        if self._access.password is not None and request.url.path not in open_paths:
            refused = await self._sign_in(request)
            if refused is not None:
                return refused
        if request.method not in SAFE_METHODS:
            return self._refuse_foreign(request)
        # Another site could not read the answer, but it could cause load on the stores.
        if request.headers.get("sec-fetch-site") == "cross-site" and request.url.path != "/":
            return refuse(403, "the request does not come from this page")
        return None

    async def _sign_in(self, request: Request) -> Response | None:
        """Return None when the request is signed in. The right password is never delayed."""
        by_link = request.url.path == "/" and "token" in request.query_params
        if by_link and request.method in SAFE_METHODS and self._access.generated:
            if _same(request.query_params["token"], self._access.link_key):
                # Redirect: the token must not stay in the address or the history.
                signed_in = RedirectResponse("/", 303)
                signed_in.set_cookie(
                    _cookie_name(request), self._access.session, httponly=True, samesite="strict"
                )
                return signed_in
            return await self._note_wrong_password(request)
        login = request.headers.get("authorization")
        cookie = _cookie(request)
        if login is not None and self._knows_password(login):
            return None
        if cookie is not None and _same(cookie, self._access.session):
            return None
        if login is not None or cookie is not None:
            answer = await self._note_wrong_password(request)
            if cookie is not None:
                # Delete the cookie: the browser would send it with each request.
                answer.delete_cookie(_cookie_name(request), httponly=True, samesite="strict")
            return answer
        return _ask_for_password()

    async def _note_wrong_password(self, request: Request) -> Response:
        client = request.client.host if request.client else ""
        return await self._failures.note(client, request.url.path)

    def _knows_password(self, login: str) -> bool:
        scheme, _, encoded = login.partition(" ")
        try:
            sent = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            return False
        _name, _, given = sent.partition(b":")
        right = hmac.compare_digest(given, (self._access.password or "").encode())
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
    """Return an error response."""
    return JSONResponse({"error": sentence}, status)


def _ask_for_password() -> Response:
    answer = refuse(
        401,
        "a password is needed: open the link that altsync dashboard printed, or give the password "
        f"of ALTSYNC_DASHBOARD_PASSWORD or of the file {LOGIN_FILE} in ALTSYNC_HOME",
    )
    answer.headers["www-authenticate"] = 'Basic realm="altsync", charset="UTF-8"'
    return answer


def _same(given: str, right: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "replace"), right.encode())


def _cookie_name(request: Request) -> str:
    # Browsers send the cookies of a host to all of its ports.
    return f"{COOKIE}_{request.scope['server'][1]}"


def _cookie(request: Request) -> str | None:
    try:
        found = SimpleCookie(request.headers.get("cookie", "")).get(_cookie_name(request))
    except CookieError:
        return None
    return None if found is None else found.value


def _names_loopback(host: str) -> bool:
    """Return whether a Host header names this machine. A tunnel may have another port."""
    try:
        name = urlsplit(f"//{host}").hostname
    except ValueError:
        return False
    return name is not None and is_loopback(name)
