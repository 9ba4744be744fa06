"""A sink that writes the vectors of a model beside the serving one."""

from __future__ import annotations

from typing import Any

from altsync.protocols import Sink


class ShadowSink:
    """A sink under the name of its shadow, so that its operations and breaker are its own."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self.traits = sink.traits.as_shadow()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sink, name)
