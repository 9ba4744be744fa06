"""Requests, answers and errors in the JSON formats of Pinecone and OpenAI."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from altsync.local.vectors.faults import Call, FaultRule


class Refused(Exception):
    """An error answer. Its text never contains a key."""

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
        """Return the headers of the answer."""
        return {} if self.retry_after is None else {"Retry-After": f"{self.retry_after:g}"}


@dataclass(frozen=True)
class ApiRequest:
    """A request without its HTTP details."""

    path: Mapping[str, str]
    query: Mapping[str, Sequence[str]]
    body: bytes
    #: Scheme, host and port that the client used. The addresses of indexes begin with it.
    origin: str

    def json(self) -> dict[str, Any]:
        """Return the body as an object. Raises ``Refused``."""
        try:
            value = orjson.loads(self.body or b"{}")
        except orjson.JSONDecodeError as error:
            raise Refused(400, f"Invalid JSON: {error}") from error
        if not isinstance(value, dict):
            raise Refused(400, "The request body must be a JSON object")
        return value

    def parameter(self, name: str) -> str:
        """Return a query parameter, or the empty string."""
        return next(iter(self.query.get(name, ())), "")


@dataclass(frozen=True)
class Answer:
    """A successful answer, with its numbers for the counters."""

    payload: Any = field(default_factory=dict)
    status: int = 200
    records: int = 0
    tokens: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)

    def encoded(self) -> bytes:
        """Return the JSON, each float32 with the fewest digits that restore it."""
        return orjson.dumps(self.payload, option=orjson.OPT_SERIALIZE_NUMPY)


@dataclass(frozen=True)
class Effects:
    """Changes of faults to an operation that is carried out. ``lag`` is in seconds.

    ``bare``: the answer has no header of its own.
    """

    lag: float = 0.0
    corruption: FaultRule | None = None
    bare: bool = False


@dataclass(frozen=True)
class Job:
    """A checked request: its target, and its work, for any thread."""

    call: Call
    run: Callable[[Effects], Answer]


#: gRPC's codes, which are in the errors of Pinecone's data plane.
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

#: Names in the errors of Pinecone's control plane.
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
    """Return an error of the data plane."""
    return {"code": GRPC_CODES.get(error.status, 2), "message": error.message, "details": []}


def pinecone_control(error: Refused) -> dict[str, Any]:
    """Return an error of the control plane."""
    code = error.code or CONTROL_CODES.get(error.status, "UNKNOWN")
    return {"error": {"code": code, "message": error.message}, "status": error.status}


def openai(error: Refused) -> dict[str, Any]:
    """Return an error of OpenAI."""
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


#: Messages of fault rules that give none.
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
    """Return the error of a fault rule."""
    status = rule.status or 500
    message = rule.message or FAULT_MESSAGES.get(status, f"Error {status} by a fault rule")
    if rule.code == "insufficient_quota" and rule.message is None:
        message = "You exceeded your current quota, please check your plan and billing details."
    return Refused(status, message, code=rule.code, retry_after=rule.retry_after)


def page_token(last: str) -> str:
    """Return the token of the page that begins after a name or id."""
    return base64.urlsafe_b64encode(last.encode()).decode()


def page_start(token: str) -> str:
    """Return the name or id before a token's page. Raises ``Refused``."""
    try:
        return base64.urlsafe_b64decode(token.encode()).decode()
    except (binascii.Error, ValueError) as error:
        raise Refused(400, "Invalid pagination token") from error
