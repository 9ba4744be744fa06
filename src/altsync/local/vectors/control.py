"""Pinecone's control plane: create, describe, configure and delete indexes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from altsync.local.vectors.faults import Call
from altsync.local.vectors.indexes import VALUES_FIELD, Indexes
from altsync.local.vectors.limits import MAX_DIMENSION, check_index_name
from altsync.local.vectors.wire import Answer, ApiRequest, Effects, Job, Refused

#: Path of the requests to an index. One port serves all indexes.
INDEX_PATH = "/index"


class ControlPlane:
    """Operations on indexes. Each checks its request, and returns the work as a ``Job``."""

    def __init__(self, indexes: Indexes) -> None:
        self._indexes = indexes

    def create(self, request: ApiRequest) -> Job:
        """Create a dense cosine index for the Vectors API."""
        body = request.json()
        name = check_index_name(body.get("name"))
        definition = {
            "schema": {"fields": {VALUES_FIELD: _checked_field(body.get("schema"))}},
            "deployment": _checked_deployment(body.get("deployment")),
            "deletion_protection": _checked_protection(body.get("deletion_protection")),
            "tags": body.get("tags") or {},
        }

        def run(_effects: Effects) -> Answer:
            self._indexes.define(name, definition)
            return Answer(self._model(name, request.origin), status=201)

        return Job(Call("pinecone.create_index", name), run)

    def describe(self, request: ApiRequest) -> Job:
        """Describe one index."""
        name = request.path["index"]
        return Job(
            Call("pinecone.describe_index", name),
            lambda _effects: Answer(self._model(name, request.origin)),
        )

    def list_all(self, request: ApiRequest) -> Job:
        """Describe all indexes. The service has no pages here."""

        def run(_effects: Effects) -> Answer:
            models = [self._model(name, request.origin) for name in self._indexes.names()]
            return Answer({"indexes": models}, records=len(models))

        return Job(Call("pinecone.list_indexes"), run)

    def configure(self, request: ApiRequest) -> Job:
        """Change deletion protection and tags. Nothing else can be changed here."""
        name, body = request.path["index"], request.json()
        if set(body) - {"deletion_protection", "tags"}:
            raise Refused(400, "Only deletion_protection and tags can be configured")

        def run(_effects: Effects) -> Answer:
            known = self._indexes.definition(name)
            tags = {**known["tags"], **(body.get("tags") or {})}
            changed = {
                **known,
                "deletion_protection": _checked_protection(
                    body.get("deletion_protection") or known["deletion_protection"]
                ),
                # An empty value removes a tag.
                "tags": {tag: value for tag, value in tags.items() if value != ""},
            }
            self._indexes.redefine(name, changed)
            return Answer(self._model(name, request.origin))

        return Job(Call("pinecone.configure_index", name), run)

    def delete(self, request: ApiRequest) -> Job:
        """Delete an index that is not protected."""
        name = request.path["index"]

        def run(_effects: Effects) -> Answer:
            if self._indexes.definition(name)["deletion_protection"] == "enabled":
                raise Refused(
                    403,
                    "Deletion protection is enabled for this index. "
                    "Disable deletion protection before retrying.",
                )
            self._indexes.drop(name)
            return Answer(status=202)

        return Job(Call("pinecone.delete_index", name), run)

    def _model(self, name: str, origin: str) -> dict[str, Any]:
        return {
            "name": name,
            "status": {"ready": True, "state": "Ready"},
            "host": f"{origin}{INDEX_PATH}/{name}",
            **self._indexes.definition(name),
        }


def _checked_field(schema: object) -> dict[str, Any]:
    fields = schema.get("fields") if isinstance(schema, Mapping) else None
    field = fields.get(VALUES_FIELD) if isinstance(fields, Mapping) else None
    if not isinstance(fields, Mapping) or len(fields) != 1 or not isinstance(field, Mapping):
        raise Refused(400, "This server has dense indexes with a dimension only")
    dimension = field.get("dimension")
    if not isinstance(dimension, int) or not 1 <= dimension <= MAX_DIMENSION:
        raise Refused(400, f"Dimension must be between 1 and {MAX_DIMENSION}")
    if field.get("metric", "cosine") != "cosine":
        raise Refused(400, "This server has the metric cosine only")
    return {"type": "dense_vector", "dimension": dimension, "metric": "cosine"}


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
