"""Everything listens on loopback only, and Flower wants a password."""

from __future__ import annotations

import base64
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import ip_address
from urllib.parse import urlsplit

import psutil
import pytest

from altsync.local.ports import accepts, free_ports
from tests.acceptance.conftest import Processes
from tests.acceptance.stack import Stack

pytestmark = pytest.mark.slow

LOOPBACK = "127.0.0.1"


def test_flower_wants_a_password_and_nothing_listens_beyond_loopback(
    stack: Stack, processes: Processes
) -> None:
    """Flower answers 401 without the password, and no server of ours is on an open address."""
    (port,) = free_ports(1, LOOPBACK)
    flower = stack.start(
        *("flower", "celery", "-A", "altsync.workers.app", "flower"),
        env={**stack.env, "FLOWER_PORT": str(port)},
    )
    stack.until(lambda: accepts(port, LOOPBACK), "Flower")
    login = (stack.folders.home / "flower.auth").read_text().strip()

    answers = {
        who: _status(f"http://{LOOPBACK}:{port}/", who) for who in ("", "altsync:guess", login)
    }
    assert answers == {"": 401, "altsync:guess": 401, login: 200}

    services = stack.run("local", "status", "--json").json
    pids = [one["pid"] for one in services] + [p.pid for p in (*processes.running, flower)]
    listening = list(_listening(pids))
    named = ("DATABASE_URL", "REDIS_URL", "NEO4J_URI", "PINECONE_CONTROLLER_HOST")
    ports = {urlsplit(stack.addresses[name]).port for name in named}
    assert ports | {port} <= {number for _, number in listening}
    assert [(ip, number) for ip, number in listening if not _is_loopback(ip)] == []


def _is_loopback(ip: str) -> bool:
    address = ip_address(ip)
    # A server that opens one socket for both families shows its IPv4 address inside an IPv6 one.
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def _status(url: str, login: str) -> int:
    """The HTTP status of a page, with a login or (empty) without."""
    request = urllib.request.Request(url)  # noqa: S310 - our own server
    if login:
        coded = base64.b64encode(login.encode()).decode()
        request.add_header("Authorization", f"Basic {coded}")
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(request, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def _listening(pids: list[int]) -> Iterator[tuple[str, int]]:
    """Addresses and ports on which processes and all their children listen."""
    for pid in pids:
        process = psutil.Process(pid)
        for one in (process, *process.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                for connection in one.net_connections(kind="inet"):
                    if connection.status == psutil.CONN_LISTEN:
                        yield connection.laddr.ip, connection.laddr.port
