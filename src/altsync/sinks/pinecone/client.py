"""The clients of Pinecone's SDK: each call within one timeout, each error translated."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache, wraps
from importlib import import_module
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

import httpx
import pinecone
import structlog
from pinecone import ResponseInfo, RetryConfig, ServerlessSpec

from altsync import deadline
from altsync.catalogue.current import entity_types
from altsync.deadline import SharedClient
from altsync.entities import EntityType
from altsync.errors import SinkFailure, seconds_of
from altsync.operations import ErrorKind
from altsync.ownership import Ownership

log = structlog.get_logger(__name__)

T = TypeVar("T")

P = ParamSpec("P")
C = TypeVar("C", bound="Client")

#: Private modules of the SDK: the types of its answers, and their parser.
ANSWERS = (
    "pinecone._internal.adapters.indexes_adapter",
    "pinecone._internal.adapters.vectors_adapter",
)

PARSER = "pinecone._internal.adapters._decode"

#: Held by the thread that prepares the parser.
_KNOWING = threading.Lock()

#: Held during each call when the parser could not be prepared.
_ONE_AT_A_TIME = threading.Lock()

NOT_IN_TIME = "Pinecone did not answer in time"


class _Clients:
    """The SDK's clients: one for indexes, and one for the data of each."""

    def __init__(self, control: pinecone.Pinecone) -> None:
        self.control = control
        self.handles: dict[EntityType, pinecone.Index] = {}
        self.opening = threading.Lock()

    def close(self) -> None:
        for handle in self.handles.values():
            handle.close()
        self.control.close()


def index_names(prefix: str) -> dict[EntityType, str]:
    """Return the name of each type's index, which begins with ``prefix``."""
    return {
        kind: f"{prefix}-{kind.index_name}" if prefix else kind.index_name
        for kind in entity_types()
    }


def limited(
    method: Callable[Concatenate[C, P], T],
) -> Callable[Concatenate[C, P], T]:
    """Run a method of the sink, with all its requests, within the timeout of one call."""

    @wraps(method)
    def call(self: C, *args: P.args, **kwargs: P.kwargs) -> T:
        return self.within_limit(lambda: method(self, *args, **kwargs))

    return cast("Callable[Concatenate[C, P], T]", call)


class Client(ABC):
    """Clients of the SDK that every call of a sink goes through."""

    def __init__(
        self,
        api_key: str,
        *,
        host: str | None,
        timeout: float,
        dimensions: int,
        cloud: str,
        region: str,
        prefix: str = "",
        hosts: Mapping[str, str] | None = None,
    ) -> None:
        with _KNOWING:
            self._parallel = bool(prepare_answer_types())
        self._api_key = api_key
        self._hosts = dict(hosts or {})
        self._timeout = timeout
        self._dimensions = dimensions
        self._spec = ServerlessSpec(cloud=cloud, region=region)

        def clients() -> _Clients:
            # Retries wait in PostgreSQL, where every worker sees them.
            retries = RetryConfig(max_retries=0)
            return _Clients(
                pinecone.Pinecone(api_key=api_key, host=host, timeout=timeout, retry_config=retries)
            )

        self._shared = SharedClient(clients, _Clients.close)
        self._own = threading.local()
        self._positions = Positions()
        self._names = index_names(prefix)
        self._tags: dict[str, tuple[float, Mapping[str, str]]] = {}
        self.belong_to(None)

    @abstractmethod
    def belong_to(self, ownership: Ownership | None) -> None:
        """Set the installation. Writes to the indexes of another one are refused."""

    def within_limit(self, work: Callable[[], T]) -> T:
        """Run ``work`` within the timeout. Raises ``SinkFailure`` when it takes longer.

        A nested call runs within the limit of the outer call.
        """
        if getattr(self._own, "clients", None) is not None:
            return work()

        def run(clients: _Clients) -> T:
            self._own.clients = clients  # no other call uses this thread
            if self._parallel:
                return work()
            with _ONE_AT_A_TIME:
                deadline.check()
                return work()

        try:
            return self._shared.call(self._timeout, run)
        except TimeoutError:
            raise SinkFailure(
                ErrorKind.SINK, NOT_IN_TIME, outcome_unknown=True, timed_out=True
            ) from None

    @property
    def _clients(self) -> _Clients:
        """The clients of this call."""
        clients: _Clients = getattr(self._own, "clients", None) or self._shared.current
        return clients

    @property
    def _handles(self) -> dict[EntityType, pinecone.Index]:
        return self._clients.handles

    @property
    def _client(self) -> pinecone.Pinecone:
        return self._clients.control

    @contextmanager
    def _translated_errors(self) -> Iterator[None]:
        """Translate every error of the SDK to ``SinkFailure``."""
        try:
            yield
        except pinecone.PineconeError as error:
            if isinstance(error, pinecone.NotFoundError):
                self._handles.clear()  # the index is gone or moved: look it up again
            raise translate(error) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            # The SDK does not wrap all errors of httpx: a broken encoding, for example.
            reason = f"Pinecone answered in no known form: {error}"
            raise SinkFailure(ErrorKind.SINK, reason, outcome_unknown=True) from error

    def close(self) -> None:
        """Close the connections."""
        self._shared.close()


@cache
def prepare_answer_types() -> list[str]:
    """Prepare the parser for each of the SDK's answers in one thread; return their names.

    The parser prepares a type at its first use, and crashes the process when two threads do so at
    once (msgspec 0.22: a null pointer in ``StructInfo``). Return none for an SDK whose types are
    in other modules: its calls run one at a time.
    """
    gone = moved()
    if gone:
        log.warning("pinecone.one_call_at_a_time", missing=gone)
        return []
    decode_response = import_module(PARSER).decode_response
    kinds = {
        one
        for adapter in map(import_module, ANSWERS)
        for one in vars(adapter).values()
        if isinstance(one, type) and hasattr(one, "__struct_fields__")
    }
    for kind in kinds:
        with suppress(pinecone.PineconeError, TypeError):  # some are never parsed
            decode_response(b"{}", kind)
    return sorted(kind.__name__ for kind in kinds)


def moved() -> list[str]:
    """Return the private names of the SDK that this release of it lacks."""
    gone = []
    for module in (*ANSWERS, PARSER):
        try:
            found = import_module(module)
        except ImportError:
            gone.append(module)
            continue
        if module == PARSER and not hasattr(found, "decode_response"):
            gone.append(f"{module}.decode_response")
    return gone


def without_retries(index: pinecone.Index) -> pinecone.Index:
    """Disable the SDK's retries of an index handle, which has no option for it.

    Three retries of a request that times out would outlive the lease. A later SDK may keep its
    transport elsewhere: then the retries stay.
    """
    client = getattr(getattr(index, "_http", None), "_client", None)
    transport = getattr(client, "_transport", None)
    if isinstance(getattr(transport, "_config", None), RetryConfig):
        transport._config = RetryConfig(max_retries=0)  # type: ignore[union-attr]
    return index


def committed(info: ResponseInfo | None) -> int | None:
    """Return the log sequence number of a write, None where the server did not say."""
    return None if info is None else info.lsn_committed


class Positions(threading.local):
    """The log sequence number of this thread's last answer.

    The SDK (10.2) returns nothing from ``delete``, so the header is read from its HTTP client. A
    later SDK may keep its client elsewhere: then deletions have no position, and the next upsert to
    the namespace has one.
    """

    last: int | None = None

    def follow(self, index: pinecone.Index) -> pinecone.Index:
        """Note the answers to writes of an index from now on."""
        client: Any = getattr(index, "_http", None)
        post: Callable[..., httpx.Response] | None = getattr(client, "post", None)
        if post is not None:

            def noted(*args: Any, **options: Any) -> httpx.Response:
                response = post(*args, **options)
                self.last = committed(ResponseInfo(raw_headers=dict(response.headers)))
                return response

            with suppress(AttributeError):
                client.post = noted
        return index


def translate(error: pinecone.PineconeError) -> SinkFailure:
    """Return the failure that an error of the SDK stands for."""
    match error:
        case pinecone.PineconeTimeoutError():
            return SinkFailure(ErrorKind.SINK, NOT_IN_TIME, outcome_unknown=True, timed_out=True)
        case pinecone.PineconeConnectionError():
            return SinkFailure(
                ErrorKind.SINK, f"no connection to Pinecone: {error}", outcome_unknown=True
            )
        case pinecone.RateLimitError():
            return SinkFailure(
                ErrorKind.SINK, f"Pinecone: {error}", throttled=True, retry_after=_wait(error)
            )
        case pinecone.ServiceError():
            return SinkFailure(
                ErrorKind.SINK,
                f"Pinecone: {error}",
                outcome_unknown=True,
                timed_out=True,
                retry_after=_wait(error),
            )
        case pinecone.ApiError() if error.status_code in (400, 413, 422):
            large = error.status_code == 413
            return SinkFailure(ErrorKind.ITEM, f"Pinecone: {error}", throttled=large)
        case pinecone.ApiError():
            return SinkFailure(ErrorKind.SINK, f"Pinecone: {error}")
        case pinecone.PineconeValueError() | pinecone.PineconeTypeError():
            return SinkFailure(ErrorKind.ITEM, f"Pinecone's client: {error}")
        case _:
            return SinkFailure(
                ErrorKind.UNKNOWN, f"{type(error).__name__}: {error}", outcome_unknown=True
            )


def _wait(error: pinecone.ApiError) -> float | None:
    headers = {name.lower(): value for name, value in (error.headers or {}).items()}
    return seconds_of(headers.get("retry-after"))
