"""The SDK's parser crashes a process in which two threads meet a kind of answer at once."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pinecone

from altsync.sinks.pinecone.client import moved, without_retries

#: First answers of eight threads at once, to a sink that was just opened. In a process of its
#: own, as every kind is met once; and switching often, as a crash needs a switch at a bad time.
STORY = """
import sys, threading
from pinecone._internal.adapters.indexes_adapter import IndexModel
from pinecone._internal.adapters._decode import decode_response
from pinecone.models.vectors import responses
from altsync.sinks.pinecone.client import prepare_answer_types
from altsync.sinks.pinecone.write import Sink

KINDS = [
    *(getattr(responses, f"{name}Response") for name in ("Upsert", "Query", "Fetch", "List")),
    responses.DescribeIndexStatsResponse,
    IndexModel,
]
Sink("key", host=None, timeout=1.0, dimensions=4, cloud="aws", region="nowhere")
assert {kind.__name__ for kind in KINDS} <= set(prepare_answer_types()), prepare_answer_types()
sys.setswitchinterval(1e-6)
together = threading.Barrier(8, timeout=30)

def answers():
    together.wait()
    for kind in KINDS:
        try:
            decode_response(b"{}", kind)
        except Exception as error:
            assert type(error).__name__ == "ResponseParsingError", error

threads = [threading.Thread(target=answers) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print("alive")
"""


def test_what_altsync_uses_beside_the_interface_of_the_sdk_is_there() -> None:
    """Fails with the names that moved: the sink works without them, one call at a time."""
    assert moved() == []


def test_the_retries_of_the_sdk_are_where_altsync_turns_them_off() -> None:
    """With them a call would be repeated within its limit, and a throttled index called more."""
    with pinecone.Index(host="http://127.0.0.1:1", api_key="key") as index:
        transport: Any = without_retries(index)._http._client._transport
        assert transport._config == pinecone.RetryConfig(max_retries=0)


def test_first_answers_at_once() -> None:
    """Each kind that a sink is answered was looked at before any thread could meet it."""
    done = subprocess.run(
        [sys.executable, "-c", STORY], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr
