"""Requests, answers and errors on the wire, in the shapes of the two vendors."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from altsync.local.vectors.faults import Call, FaultRule


class Refused(Exception):
    """A request that is answered with an error. The text never holds a key."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.retry_after = retry_after

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the error answer."""
        return {} if self.retry_after is None else {"Retry-After": f"{self.retry_after:g}"}


@dataclass(frozen=True)
class Ask:
    """A request as the operations see it."""

    path: Mapping[str, str]
    query: Mapping[str, Sequence[str]]
    body: bytes
    #: Scheme, host and port that the client used, so that it is sent on to the same.
    origin: str

    def json(self) -> dict[str, Any]:
        """The body as an object. Raises ``Refused``."""
        try:
            value = orjson.loads(self.body or b"{}")
        except orjson.JSONDecodeError as error:
            raise Refused(400, f"Invalid JSON: {error}") from error
        if not isinstance(value, dict):
            raise Refused(400, "The request body must be a JSON object")
        return value

    def one(self, name: str) -> str:
        """A query parameter, or the empty string."""
        return next(iter(self.query.get(name, ())), "")


@dataclass(frozen=True)
class Answer:
    """A successful answer, and what the counters should know of it."""

    payload: Any = field(default_factory=dict)
    status: int = 200
    records: int = 0
    tokens: int = 0

    def encoded(self) -> bytes:
        """The payload; float32 rows are printed as short as they can be read back exactly."""
        return orjson.dumps(self.payload, option=orjson.OPT_SERIALIZE_NUMPY)


@dataclass(frozen=True)
class Effects:
    """What faults change about an operation that is carried out."""

    lag: float = 0.0
    corruption: FaultRule | None = None


@dataclass(frozen=True)
class Job:
    """A request that was found correct: what it is about, and how to do it, in any thread."""

    call: Call
    run: Callable[[Effects], Answer]


#: gRPC's numbers, which Pinecone's data plane puts into its errors.
GRPC_CODES = {
    400: 3,
    401: 16,
    403: 7,
    404: 5,
    408: 4,
    409: 6,
    413: 11,
    429: 8,
    500: 13,
    501: 12,
    503: 14,
    504: 4,
}

#: Names that Pinecone's control plane puts into its errors.
CONTROL_CODES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    402: "PAYMENT_REQUIRED",
    403: "FORBIDDEN",
    404: "NOT_FOUND",
    409: "ALREADY_EXISTS",
    412: "FAILED_PRECONDITION",
    429: "RESOURCE_EXHAUSTED",
    500: "UNKNOWN",
    503: "UNAVAILABLE",
}

#: ``type`` and ``code`` of OpenAI's errors.
OPENAI_CODES: dict[int, tuple[str, str | None]] = {
    401: ("invalid_request_error", "invalid_api_key"),
    404: ("invalid_request_error", "model_not_found"),
    429: ("requests", "rate_limit_exceeded"),
    500: ("server_error", None),
    503: ("server_error", None),
}

Vendor = Callable[[Refused], dict[str, Any]]


def pinecone_data(error: Refused) -> dict[str, Any]:
    """An error of an index."""
    return {"code": GRPC_CODES.get(error.status, 2), "message": error.message, "details": []}


def pinecone_control(error: Refused) -> dict[str, Any]:
    """An error about indexes."""
    code = error.code or CONTROL_CODES.get(error.status, "UNKNOWN")
    return {"error": {"code": code, "message": error.message}, "status": error.status}


def openai(error: Refused) -> dict[str, Any]:
    """An error of the embeddings."""
    kind, code = OPENAI_CODES.get(error.status, ("invalid_request_error", None))
    if error.code in ("insufficient_quota", "max_tokens_per_request"):
        kind = error.code
    return {
        "error": {
            "message": error.message,
            "type": kind,
            "param": error.param,
            "code": error.code or code,
        }
    }


#: What a fault's error says when the rule does not name a message.
FAULT_MESSAGES = {
    400: "The request was refused by a fault rule",
    401: "Invalid API key",
    403: "Forbidden",
    404: "Not found",
    429: "Too many requests: the request rate limit is exceeded",
    500: "The server had an error while processing the request",
    503: "The service is unavailable",
}


def refusal_of(rule: FaultRule) -> Refused:
    """The error that a fault rule asks for."""
    status = rule.status or 500
    message = rule.message or FAULT_MESSAGES.get(status, f"Error {status} by a fault rule")
    if rule.code == "insufficient_quota" and rule.message is None:
        message = "You exceeded your current quota, please check your plan and billing details."
    return Refused(status, message, code=rule.code, retry_after=rule.retry_after)


def page_token(last: str) -> str:
    """The token of the page that comes after this name."""
    return base64.urlsafe_b64encode(last.encode()).decode()


def page_start(token: str) -> str:
    """The name after which a page begins. Raises ``Refused``."""
    try:
        return base64.urlsafe_b64decode(token.encode()).decode()
    except (binascii.Error, ValueError) as error:
        raise Refused(400, "Invalid pagination token") from error
