"""The ASGI application: the key, faults and counters around every operation."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from altsync.local.vectors import wire
from altsync.local.vectors.control import INDEX_PATH, ControlPlane
from altsync.local.vectors.dataplane import DataPlane
from altsync.local.vectors.embeddings import EmbeddingsPlane
from altsync.local.vectors.faults import CORRUPTIONS, FaultRule, Faults, rule_from_json
from altsync.local.vectors.indexes import Indexes
from altsync.local.vectors.stats import Stats
from altsync.local.vectors.wire import Answer, ApiRequest, Effects, Job, Refused, Vendor

#: Bytes of any request. Upserts have a smaller limit.
MAX_BODY = 64 * 1024 * 1024

#: Bytes of a body that is parsed in the event loop. A larger one would delay other requests.
INLINE_BODY = 16 * 1024

Prepare = Callable[[ApiRequest], Job]


@dataclass(frozen=True)
class Operation:
    """One endpoint: its name for rules and counters, and the function that checks a request."""

    name: str
    prepare: Prepare
    vendor: Vendor


class Handler:
    """Checks the key of each request, applies the active faults, and counts."""

    def __init__(self, key: str, *, lag: float) -> None:
        self.faults = Faults()
        self.stats = Stats()
        self._key = key.encode()
        self._lag = lag
        self._late: set[asyncio.Task[Answer]] = set()

    async def serve(self, operation: Operation, request: Request) -> Response:
        """Answer one request."""
        self.stats.requests[operation.name] += 1
        try:
            self.authenticate(request, operation.vendor)
            read = await _read(request)
            self.stats.bytes[operation.name] += len(read.body)
            if len(read.body) <= INLINE_BODY:
                job = operation.prepare(read)
            else:
                job = await run_in_threadpool(operation.prepare, read)
        except Refused as refused:
            self.stats.failures[operation.name] += 1
            return _refusal(refused, operation.vendor)
        except ClientDisconnect:
            return Response()
        return await self._carry_out(operation, job, request)

    def authenticate(self, request: Request, vendor: Vendor = wire.pinecone_data) -> None:
        """Compare the key in constant time. Raises ``Refused``, which does not contain it."""
        if vendor is wire.openai:
            scheme, _, given = request.headers.get("authorization", "").partition(" ")
            given = given if scheme.lower() == "bearer" else ""
        else:
            given = request.headers.get("api-key", "")
        if not hmac.compare_digest(given.encode(), self._key):
            what = "Incorrect API key provided." if given else "No API key was provided."
            raise Refused(401, what)

    async def _carry_out(self, operation: Operation, job: Job, request: Request) -> Response:
        plan = self.faults.plan(job.call)
        fault = plan.fault
        corruption = fault if fault and fault.kind in CORRUPTIONS else None
        lag = self._lag if plan.lag is None else plan.lag
        effects = Effects(lag, corruption, "bare" in plan.kinds)
        self.stats.injected.update(f"{operation.name}:{kind}" for kind in plan.kinds)
        if plan.latency:
            await asyncio.sleep(plan.latency)
        if fault is None or corruption is not None:
            return await self._answer(operation, job, effects)
        return await self._fail(operation, job, effects, fault, request)

    async def _answer(self, operation: Operation, job: Job, effects: Effects) -> Response:
        try:
            answer = await run_in_threadpool(job.run, effects)
        except Refused as refused:
            self.stats.failures[operation.name] += 1
            return _refusal(refused, operation.vendor)
        self.stats.records[operation.name] += answer.records
        self.stats.tokens += answer.tokens
        body = await run_in_threadpool(answer.encoded)
        headers = {} if effects.bare else dict(answer.headers)
        return Response(body, answer.status, headers, media_type="application/json")

    async def _fail(
        self, operation: Operation, job: Job, effects: Effects, fault: FaultRule, request: Request
    ) -> Response:
        match fault.kind:
            case "hang":
                await asyncio.sleep(fault.seconds)
            case "timeout_after_apply":
                await self._answer(operation, job, effects)
                await asyncio.sleep(fault.seconds)
            case "apply_late":
                late = asyncio.create_task(_run_later(job, effects, fault.seconds))
                self._late.add(late)
                late.add_done_callback(self._late.discard)
        if fault.kind == "status" or (fault.kind == "apply_late" and fault.status):
            return _refusal(wire.refusal_of(fault), operation.vendor)
        request.scope["state"]["transport"].abort()
        await asyncio.sleep(0)  # uvicorn notices the closed connection, and sends no answer
        return Response()


async def _run_later(job: Job, effects: Effects, seconds: float) -> Answer:
    await asyncio.sleep(seconds)
    return await run_in_threadpool(job.run, effects)


async def _read(request: Request) -> ApiRequest:
    if int(request.headers.get("content-length", 0)) > MAX_BODY:
        raise Refused(413, f"The request is larger than {MAX_BODY} bytes")
    query = request.query_params
    return ApiRequest(
        path=request.path_params,
        query={name: query.getlist(name) for name in query},
        body=await request.body(),
        origin=f"http://{request.headers.get('host', request.url.netloc)}",
    )


def _refusal(refused: Refused, vendor: Vendor) -> Response:
    return _json(vendor(refused), refused.status, refused.headers)


def _json(payload: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    body = orjson.dumps(payload)
    return Response(body, status, headers=headers, media_type="application/json")


def build_app(indexes: Indexes, handler: Handler) -> Starlette:
    """Return the application over some indexes."""
    return Starlette(routes=[*_operations(indexes, handler), *_admin(indexes, handler)])


def _operations(indexes: Indexes, handler: Handler) -> list[Route]:
    control, data, embeddings = ControlPlane(indexes), DataPlane(indexes), EmbeddingsPlane()
    root, index = "/indexes", f"{INDEX_PATH}/{{index}}"
    namespace = f"{index}/namespaces/{{namespace:path}}"
    table: dict[Vendor, tuple[tuple[str, str, str, Prepare], ...]] = {
        wire.pinecone_control: (
            ("POST", root, "pinecone.create_index", control.create),
            ("GET", root, "pinecone.list_indexes", control.list_all),
            ("GET", f"{root}/{{index}}", "pinecone.describe_index", control.describe),
            ("PATCH", f"{root}/{{index}}", "pinecone.configure_index", control.configure),
            ("DELETE", f"{root}/{{index}}", "pinecone.delete_index", control.delete),
        ),
        wire.pinecone_data: (
            ("POST", f"{index}/vectors/upsert", "pinecone.upsert", data.upsert),
            ("POST", f"{index}/query", "pinecone.query", data.query),
            ("GET", f"{index}/vectors/fetch", "pinecone.fetch", data.fetch),
            ("POST", f"{index}/vectors/delete", "pinecone.delete", data.delete),
            ("GET", f"{index}/vectors/list", "pinecone.list", data.list_ids),
            ("POST", f"{index}/describe_index_stats", "pinecone.stats", data.stats),
            ("DELETE", namespace, "pinecone.delete_namespace", data.delete_namespace),
        ),
        wire.openai: (
            ("POST", "/v1/embeddings", "openai.embeddings", embeddings.embeddings),
            ("GET", "/v1/models/{model:path}", "openai.models", embeddings.model),
        ),
    }
    return [
        _route(handler, method, path, Operation(name, prepare, vendor))
        for vendor, endpoints in table.items()
        for method, path, name, prepare in endpoints
    ]


def _route(handler: Handler, method: str, path: str, operation: Operation) -> Route:
    async def endpoint(request: Request) -> Response:
        return await handler.serve(operation, request)

    return Route(path, endpoint, methods=[method])


def _admin(indexes: Indexes, handler: Handler) -> list[Route]:
    async def faults(request: Request) -> Response:
        try:
            handler.authenticate(request)
            if request.method == "PUT":
                raw = orjson.loads(await request.body())
                if not isinstance(raw, list):
                    raise ValueError("the rules must be a list")
                seed = int(request.query_params.get("seed", "0"))
                handler.faults.replace([rule_from_json(one) for one in raw], seed)
            elif request.method == "DELETE":
                handler.faults.replace([])
        except Refused as refused:
            return _refusal(refused, wire.pinecone_data)
        except ValueError as error:
            return _json({"error": str(error)}, 400)
        return _json(handler.faults.to_json())

    async def stats(request: Request) -> Response:
        try:
            handler.authenticate(request)
        except Refused as refused:
            return _refusal(refused, wire.pinecone_data)
        if request.method == "POST":
            handler.stats = Stats()
        return _json(handler.stats.to_json())

    async def flush(request: Request) -> Response:
        try:
            handler.authenticate(request)
        except Refused as refused:
            return _refusal(refused, wire.pinecone_data)
        await run_in_threadpool(indexes.flush)
        return _json({})

    async def health(_request: Request) -> Response:
        return _json({"status": "ok"})

    return [
        Route("/_faults", faults, methods=["GET", "PUT", "DELETE"]),
        Route("/_stats", stats, methods=["GET", "POST"]),
        Route("/_flush", flush, methods=["POST"]),
        Route("/_health", health, methods=["GET"]),
    ]
