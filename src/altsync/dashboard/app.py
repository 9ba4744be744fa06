"""The ASGI application: pages, JSON, probes and metrics behind one guard."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import orjson
import psycopg
import structlog
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from altsync.app import Application
from altsync.dashboard import metrics, probes
from altsync.dashboard.access import Access, AccessGuard
from altsync.dashboard.api import Api
from altsync.dashboard.json import answer
from altsync.dashboard.parameters import BadRequest
from altsync.errors import AltsyncError
from altsync.sentences import Exit, describe

logger = structlog.get_logger(__name__)

STATIC = Path(__file__).parent / "static"

#: Bytes of a request's body; the page sends a few hundred.
MAX_BODY = 16 * 1024

_Q = TypeVar("_Q")

Ask = Callable[[Mapping[str, str]], Any]
Do = Callable[[Mapping[str, Any]], Any]


def build_app(app: Application, access: Access) -> AccessGuard:
    """Return the ASGI application. The caller closes ``app``."""
    api = Api(app)
    probe = probes.DatabaseProbe(app)

    def _ask(path: str, ask: Ask) -> Route:
        return _get(path, _probed(probe, ask))

    def _do(path: str, do: Do) -> Route:
        return _post(path, _probed(probe, do))

    inner = Starlette(
        routes=[
            Route("/", _page),
            Mount("/static", StaticFiles(directory=STATIC)),
            Route("/healthz", _alive),
            _readyz(app, probe),
            _metrics(app, probe),
            _ask("/api/session", lambda query: api.session(access.token)),
            _ask("/api/overview", api.overview),
            _ask("/api/throughput", api.throughput),
            _ask("/api/failures", api.failures),
            _ask("/api/operations", api.operations),
            _ask("/api/entity", api.entity),
            _ask("/api/stores", api.stores),
            _ask("/api/choices", api.choices),
            _ask("/api/graph", api.graph),
            _do("/api/retry", api.retry),
            _do("/api/discard", api.discard),
            _do("/api/pause", api.pause),
            _do("/api/resume", api.resume),
            _do("/api/search", api.search),
        ],
        exception_handlers={
            AltsyncError: _explained,
            psycopg.Error: _no_database,
            HTTPException: _refused,
            Exception: _broken,
        },
    )
    return AccessGuard(inner, access)


def _page(request: Request) -> Response:
    return FileResponse(STATIC / "index.html", headers={"cache-control": "no-cache"})


def _probed(probe: probes.DatabaseProbe, ask: Callable[[_Q], Any]) -> Callable[[_Q], Any]:
    """Check PostgreSQL before each call: with a silent server, requests would take every thread."""

    def checked(query: _Q) -> Any:
        probe.check()
        return ask(query)

    return checked


async def _alive(request: Request) -> Response:
    return PlainTextResponse("ok\n")


def _readyz(app: Application, probe: probes.DatabaseProbe) -> Route:
    def endpoint(request: Request) -> Response:
        found = probes.readiness(app, probe)
        return answer(found, 200 if found.ready else 503)

    return Route("/readyz", endpoint)


def _metrics(app: Application, probe: probes.DatabaseProbe) -> Route:
    registry = metrics.registry_of(app, probe)

    def endpoint(request: Request) -> Response:
        body, kind = metrics.exposition(registry, request.headers.get("accept", ""))
        return Response(body, headers={"content-type": kind})

    return Route("/metrics", endpoint)


def _get(path: str, ask: Ask) -> Route:
    def endpoint(request: Request) -> Response:
        return answer(ask(request.query_params))

    return Route(path, endpoint)


def _post(path: str, do: Do) -> Route:
    async def endpoint(request: Request) -> Response:
        body = await _body(request)
        return await run_in_threadpool(lambda: answer(do(body)))

    return Route(path, endpoint, methods=["POST"])


async def _body(request: Request) -> dict[str, Any]:
    """Return the JSON object of a request. Raises ``BadRequest``."""
    raw = bytearray()
    async for chunk in request.stream():
        raw += chunk
        if len(raw) > MAX_BODY:
            raise BadRequest(f"the request is larger than {MAX_BODY} bytes")
    try:
        body = orjson.loads(raw)
    except ValueError:
        raise BadRequest("the request is not JSON") from None
    if not isinstance(body, dict):
        raise BadRequest("the request is not a JSON object")
    return body


async def _explained(request: Request, error: Exception) -> Response:
    return answer({"error": str(error)}, 400 if isinstance(error, BadRequest) else 502)


async def _no_database(request: Request, error: Exception) -> Response:
    failure = describe(error)
    if failure.exit is Exit.ERROR:  # PostgreSQL refused a statement: a defect
        return await _broken(request, error)
    return answer({"error": failure.text}, 403 if failure.exit is Exit.DENIED else 503)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return answer({"error": error.detail}, error.status_code)


async def _broken(request: Request, error: Exception) -> Response:
    logger.error("request.failed", path=request.url.path, exc_info=error)
    return answer({"error": "something went wrong; the dashboard's log says what"}, 500)
