"""Pinecone's control plane: making, describing and deleting indexes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from altsync.local.vectors.faults import Call
from altsync.local.vectors.limits import MAX_DIMENSION, check_index_name
from altsync.local.vectors.store import VALUES_FIELD, Store
from altsync.local.vectors.wire import Answer, Ask, Effects, Job, Refused

METRICS = ("cosine", "dotproduct", "euclidean")

#: Path under which an index' own requests come in: one port serves them all.
INDEX_PATH = "/index"


class ControlPlane:
    """The operations on indexes."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def create(self, ask: Ask) -> Job:
        """Make a dense index for the Vectors API."""
        body = ask.json()
        name = check_index_name(body.get("name"))
        definition = {
            "schema": {"fields": {VALUES_FIELD: _checked_field(body.get("schema"))}},
            "deployment": _checked_deployment(body.get("deployment")),
            "deletion_protection": _checked_protection(body.get("deletion_protection")),
            "tags": body.get("tags") or {},
        }

        def run(_effects: Effects) -> Answer:
            self._store.define(name, definition)
            return Answer(self._model(name, ask.origin), status=201)

        return Job(Call("pinecone.create_index", name), run)

    def describe(self, ask: Ask) -> Job:
        """One index."""
        name = ask.path["index"]
        return Job(
            Call("pinecone.describe_index", name),
            lambda _effects: Answer(self._model(name, ask.origin)),
        )

    def list_all(self, ask: Ask) -> Job:
        """All indexes; the service has no pages here."""

        def run(_effects: Effects) -> Answer:
            models = [self._model(name, ask.origin) for name in self._store.names()]
            return Answer({"indexes": models}, records=len(models))

        return Job(Call("pinecone.list_indexes"), run)

    def configure(self, ask: Ask) -> Job:
        """Change deletion protection and tags; nothing else of an index can change here."""
        name, body = ask.path["index"], ask.json()
        if set(body) - {"deletion_protection", "tags"}:
            raise Refused(400, "Only deletion_protection and tags can be configured")

        def run(_effects: Effects) -> Answer:
            known = self._store.definition(name)
            tags = {**known["tags"], **(body.get("tags") or {})}
            changed = {
                **known,
                "deletion_protection": _checked_protection(
                    body.get("deletion_protection") or known["deletion_protection"]
                ),
                # An empty value takes a tag away.
                "tags": {tag: value for tag, value in tags.items() if value != ""},
            }
            self._store.redefine(name, changed)
            return Answer(self._model(name, ask.origin))

        return Job(Call("pinecone.configure_index", name), run)

    def delete(self, ask: Ask) -> Job:
        """Delete an index that is not protected."""
        name = ask.path["index"]

        def run(_effects: Effects) -> Answer:
            if self._store.definition(name)["deletion_protection"] == "enabled":
                raise Refused(
                    403,
                    "Deletion protection is enabled for this index. "
                    "Disable deletion protection before retrying.",
                )
            self._store.drop(name)
            return Answer(status=202)

        return Job(Call("pinecone.delete_index", name), run)

    def _model(self, name: str, origin: str) -> dict[str, Any]:
        return {
            "name": name,
            "status": {"ready": True, "state": "Ready"},
            "host": f"{origin}{INDEX_PATH}/{name}",
            **self._store.definition(name),
        }


def _checked_field(schema: object) -> dict[str, Any]:
    fields = schema.get("fields") if isinstance(schema, Mapping) else None
    field = fields.get(VALUES_FIELD) if isinstance(fields, Mapping) else None
    if not isinstance(fields, Mapping) or len(fields) != 1 or not isinstance(field, Mapping):
        raise Refused(400, "This server has dense indexes made with dimension and metric only")
    dimension, metric = field.get("dimension"), field.get("metric", "cosine")
    if not isinstance(dimension, int) or not 1 <= dimension <= MAX_DIMENSION:
        raise Refused(400, f"Dimension must be between 1 and {MAX_DIMENSION}")
    if metric not in METRICS:
        raise Refused(400, f"Metric must be one of {', '.join(METRICS)}")
    return {"type": "dense_vector", "dimension": dimension, "metric": metric}


def _checked_deployment(deployment: object) -> dict[str, Any]:
    given = dict(deployment) if isinstance(deployment, Mapping) else {}
    if given.get("deployment_type", "managed") != "managed":
        raise Refused(400, "This server has serverless indexes only")
    return {
        "deployment_type": "managed",
        "cloud": given.get("cloud", "aws"),
        "region": given.get("region", "us-east-1"),
        "environment": "local",
    }


def _checked_protection(value: object) -> str:
    if value not in (None, "enabled", "disabled"):
        raise Refused(400, "deletion_protection must be 'enabled' or 'disabled'")
    return str(value or "disabled")
