"""The ASGI application: keys, faults and counters around every operation."""

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
from altsync.local.vectors.namespaces import NamespacePlane
from altsync.local.vectors.stats import Stats
from altsync.local.vectors.store import Store
from altsync.local.vectors.wire import Answer, Ask, Effects, Job, Refused, Vendor

#: Bytes of any request; upserts have a smaller limit of their own.
MAX_BODY = 64 * 1024 * 1024

#: Bytes of a body that is understood in the event loop; larger ones would hold up the others.
INLINE_BODY = 16 * 1024

Prepare = Callable[[Ask], Job]


@dataclass(frozen=True)
class Operation:
    """One endpoint: its name for rules and counters, and what understands its requests."""

    name: str
    prepare: Prepare
    vendor: Vendor


class Gate:
    """What every request passes: the key, the counters, and the faults in force."""

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
            self._authenticate(request, operation.vendor)
            ask = await _asked(request)
            self.stats.bytes[operation.name] += len(ask.body)
            job = await _prepared(operation, ask)
        except Refused as refused:
            self.stats.failures[operation.name] += 1
            return _refusal(refused, operation.vendor)
        except ClientDisconnect:
            return Response()  # the client is gone
        return await self._carry_out(operation, job, request)

    def admit(self, request: Request) -> None:
        """Let an admin request in, with the key: accounts share loopback. Raises ``Refused``."""
        self._authenticate(request, wire.pinecone_data)

    async def _carry_out(self, operation: Operation, job: Job, request: Request) -> Response:
        plan = self.faults.plan(job.call)
        fault = plan.fault
        corruption = fault if fault and fault.kind in CORRUPTIONS else None
        effects = Effects(self._lag if plan.lag is None else plan.lag, corruption)
        self.stats.injected.update(f"{operation.name}:{kind}" for kind in plan.kinds)
        if plan.latency:
            await asyncio.sleep(plan.latency)
        if fault is None or corruption is not None:
            return await self._answer(operation, job, effects)
        return await self._go_wrong(operation, job, effects, fault, request)

    async def _answer(self, operation: Operation, job: Job, effects: Effects) -> Response:
        try:
            answer = await run_in_threadpool(job.run, effects)
        except Refused as refused:
            self.stats.failures[operation.name] += 1
            return _refusal(refused, operation.vendor)
        self._count(operation, answer)
        body = await run_in_threadpool(answer.encoded)
        return Response(body, answer.status, media_type="application/json")

    async def _go_wrong(
        self, operation: Operation, job: Job, effects: Effects, fault: FaultRule, request: Request
    ) -> Response:
        match fault.kind:
            case "hang":
                await asyncio.sleep(fault.seconds)
            case "timeout_after_apply":
                await self._answer(operation, job, effects)
                await asyncio.sleep(fault.seconds)
            case "apply_late":
                late = asyncio.create_task(_later(job, effects, fault.seconds))
                self._late.add(late)
                late.add_done_callback(self._late.discard)
        if fault.kind == "status" or (fault.kind == "apply_late" and fault.status):
            return _refusal(wire.refusal_of(fault), operation.vendor)
        request.scope["state"]["transport"].abort()
        await asyncio.sleep(0)  # lets the server see it, so that it does not try to answer
        return Response()

    def _authenticate(self, request: Request, vendor: Vendor) -> None:
        """Compare the key in constant time. Raises ``Refused``, which never shows it."""
        if vendor is wire.openai:
            scheme, _, given = request.headers.get("authorization", "").partition(" ")
            given = given if scheme.lower() == "bearer" else ""
        else:
            given = request.headers.get("api-key", "")
        if not hmac.compare_digest(given.encode(), self._key):
            what = "Incorrect API key provided." if given else "No API key was provided."
            raise Refused(401, what)

    def _count(self, operation: Operation, answer: Answer) -> None:
        self.stats.records[operation.name] += answer.records
        if answer.tokens:
            self.stats.tokens += answer.tokens


async def _later(job: Job, effects: Effects, seconds: float) -> Answer:
    await asyncio.sleep(seconds)
    return await run_in_threadpool(job.run, effects)


async def _asked(request: Request) -> Ask:
    if int(request.headers.get("content-length", 0)) > MAX_BODY:
        raise Refused(413, f"The request is larger than {MAX_BODY} bytes")
    query = request.query_params
    return Ask(
        path=request.path_params,
        query={name: query.getlist(name) for name in query},
        body=await request.body(),
        origin=f"http://{request.headers.get('host', request.url.netloc)}",
    )


async def _prepared(operation: Operation, ask: Ask) -> Job:
    if len(ask.body) <= INLINE_BODY:
        return operation.prepare(ask)
    return await run_in_threadpool(operation.prepare, ask)


def _refusal(refused: Refused, vendor: Vendor) -> Response:
    return _json(vendor(refused), refused.status, refused.headers)


def _json(payload: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    body = orjson.dumps(payload)
    return Response(body, status, headers=headers, media_type="application/json")


def build_app(store: Store, gate: Gate) -> Starlette:
    """The application over a store, behind a gate."""
    return Starlette(routes=[*_operations(store, gate), *_admin(gate)])


def _operations(store: Store, gate: Gate) -> list[Route]:
    control, data = ControlPlane(store), DataPlane(store)
    namespaces, embeddings = NamespacePlane(store), EmbeddingsPlane()
    one, names = f"{INDEX_PATH}/{{index}}", f"{INDEX_PATH}/{{index}}/namespaces"
    table: list[tuple[str, str, str, Prepare, Vendor]] = [
        ("POST", "/indexes", "pinecone.create_index", control.create, wire.pinecone_control),
        ("GET", "/indexes", "pinecone.list_indexes", control.list_all, wire.pinecone_control),
    ]
    for method, name, prepare in (
        ("GET", "pinecone.describe_index", control.describe),
        ("PATCH", "pinecone.configure_index", control.configure),
        ("DELETE", "pinecone.delete_index", control.delete),
    ):
        table.append((method, "/indexes/{index}", name, prepare, wire.pinecone_control))
    for method, path, name, prepare in (
        ("POST", f"{one}/vectors/upsert", "pinecone.upsert", data.upsert),
        ("POST", f"{one}/query", "pinecone.query", data.query),
        ("GET", f"{one}/vectors/fetch", "pinecone.fetch", data.fetch),
        (
            "POST",
            f"{one}/vectors/fetch_by_metadata",
            "pinecone.fetch_by_metadata",
            data.fetch_by_metadata,
        ),
        ("POST", f"{one}/vectors/delete", "pinecone.delete", data.delete),
        ("POST", f"{one}/vectors/update", "pinecone.update", data.update),
        ("GET", f"{one}/vectors/list", "pinecone.list", data.list_ids),
        ("POST", f"{one}/describe_index_stats", "pinecone.stats", data.stats),
        ("POST", names, "pinecone.create_namespace", namespaces.create),
        ("GET", names, "pinecone.list_namespaces", namespaces.list_all),
        ("GET", f"{names}/{{namespace:path}}", "pinecone.describe_namespace", namespaces.describe),
        ("DELETE", f"{names}/{{namespace:path}}", "pinecone.delete_namespace", namespaces.delete),
    ):
        table.append((method, path, name, prepare, wire.pinecone_data))
    for method, path, name, prepare in (
        ("POST", "/v1/embeddings", "openai.embeddings", embeddings.embeddings),
        ("GET", "/v1/models", "openai.models", embeddings.models),
        ("GET", "/v1/models/{model:path}", "openai.models", embeddings.models),
    ):
        table.append((method, path, name, prepare, wire.openai))
    return [
        _route(gate, method, path, Operation(name, prepare, vendor))
        for method, path, name, prepare, vendor in table
    ]


def _route(gate: Gate, method: str, path: str, operation: Operation) -> Route:
    async def endpoint(request: Request) -> Response:
        return await gate.serve(operation, request)

    return Route(path, endpoint, methods=[method])


def _admin(gate: Gate) -> list[Route]:
    async def faults(request: Request) -> Response:
        try:
            gate.admit(request)
            if request.method == "PUT":
                raw = orjson.loads(await request.body())
                if not isinstance(raw, list):
                    raise ValueError("the rules must be a list")
                seed = int(request.query_params.get("seed", "0"))
                gate.faults.replace([rule_from_json(one) for one in raw], seed)
            elif request.method == "DELETE":
                gate.faults.replace([])
        except Refused as refused:
            return _refusal(refused, wire.pinecone_data)
        except ValueError as error:
            return _json({"error": str(error)}, 400)
        return _json(gate.faults.to_json())

    async def stats(request: Request) -> Response:
        try:
            gate.admit(request)
        except Refused as refused:
            return _refusal(refused, wire.pinecone_data)
        if request.method == "POST":
            gate.stats = Stats()
        return _json(gate.stats.to_json())

    async def health(_request: Request) -> Response:
        return _json({"status": "ok"})

    return [
        Route("/_faults", faults, methods=["GET", "PUT", "DELETE"]),
        Route("/_stats", stats, methods=["GET", "POST"]),
        Route("/_health", health, methods=["GET"]),
    ]
