"""One TCP relay between a client and a server that are real: slow, silent or cut on demand.

``python -m tests.proxy --listen PORT --to HOST:PORT --delay 0.02`` runs one by itself.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

LOOPBACK = "127.0.0.1"

#: Bytes that are read at once; any size will do.
CHUNK = 65_536

#: Chunks of one client that may be on their way at once: 16 MiB, so that a delay of 20 ms still
#: lets 800 MB/s through.
IN_FLIGHT = 256

#: Seconds between two looks at whether answers may flow again, and of one slice of a slow line.
TICK_SECONDS = 0.02

#: Bytes of a chunk that are looked at again with the next one: no mark is longer.
TAIL = 64

#: SO_LINGER of a socket whose close sends RST instead of FIN.
RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Proxy:
    """Relays to one server, each connection on its own; every switch acts while it runs.

    ``delay`` adds seconds to all that clients send: what is pipelined is late together, not one
    after another. ``bytes_per_second`` slows both ways. ``stalled`` keeps answers back; what
    clients send still reaches the server. ``half_open`` takes new connections, and the server
    never hears of them. ``cuts_on_request`` cuts instead of relaying what a client sends.
    ``cuts_answer_to`` cuts once: the request that holds these bytes reaches the server, and the
    client loses the connection in place of the answer. ``stalls_answer_to`` begins to stall there
    instead. ``on_request`` is called, in the proxy's thread, with what a client sends before it is
    passed on. ``cuts`` counts connections cut on purpose.
    """

    def __init__(self, host: str, port: int, *, listen: int = 0, delay: float = 0.0) -> None:
        self.delay = delay
        self.bytes_per_second: int | None = None
        self.stalled = False
        self.half_open = False
        self.cuts_on_request = False
        self.cuts_answer_to: bytes | None = None
        self.stalls_answer_to: bytes | None = None
        self.on_request: Callable[[bytes], None] = lambda data: None
        self.cuts = 0
        self._upstream = (host, port)
        self._listener = socket.create_server((LOOPBACK, listen))
        # Taken over by every connection; asyncio leaves it off where the socket was made by others,
        # and small answers would wait 40 ms for each other.
        self._listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        #: The address that clients connect to.
        self.port: int = self._listener.getsockname()[1]
        self._connections: dict[asyncio.Task[None] | None, _Connection] = {}
        self._loop = asyncio.new_event_loop()
        self._ended = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),))
        self._thread.start()

    def cut(self, *, reset: bool = True) -> None:
        """Cut every connection now: with RST, or with FIN after what is already on its way."""

        async def cut_all() -> None:
            for connection in list(self._connections.values()):
                connection.cut(reset=reset)

        asyncio.run_coroutine_threadsafe(cut_all(), self._loop).result()

    def silence(self) -> None:
        """Keep back for good all that the server answers on the connections of this moment.

        They stay open, and take what clients send: as after a failover without a reset.
        """

        async def silence_all() -> None:
            for connection in self._connections.values():
                connection.silent = True

        asyncio.run_coroutine_threadsafe(silence_all(), self._loop).result()

    def close(self) -> None:
        """Cut everything and stop."""
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join()
        self._loop.close()

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._relay, sock=self._listener)
        await self._ended.wait()
        server.close()
        relays = [task for task in self._connections if task is not None]
        for relay in relays:
            relay.cancel()
        await asyncio.gather(*relays, return_exceptions=True)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection(self, reader, writer)
        this = asyncio.current_task()
        self._connections[this] = connection
        try:
            if self.half_open:
                await connection.swallow()
            else:
                await connection.relay(*self._upstream)
        except (OSError, asyncio.CancelledError):
            connection.abort()
        finally:
            connection.close()
            del self._connections[this]


class _Connection:
    """One client's connection and the one to the server that belongs to it."""

    def __init__(
        self, proxy: Proxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._proxy = proxy
        self._client = reader, writer
        self._writers = [writer]
        self._on_their_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(IN_FLIGHT)
        self._tail = b""
        self._answer_is_lost = False
        self.silent = False

    async def swallow(self) -> None:
        """Take what comes and answer nothing."""
        while await self._client[0].read(CHUNK):
            pass

    async def relay(self, host: str, port: int) -> None:
        """Pass everything on until one side ends."""
        reader, writer = await asyncio.open_connection(host, port)
        self._writers.append(writer)
        directions = [
            self._take_requests(),
            self._send_requests(writer),
            self._pass_answers(reader),
        ]
        tasks = [asyncio.ensure_future(one) for one in directions]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if tasks[0] in done:  # the client is done: what it sent still goes to the server
                done, _ = await asyncio.wait(tasks[1:], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def cut(self, *, reset: bool) -> None:
        """End both sides on purpose."""
        self._proxy.cuts += 1
        if reset:
            self.abort()
        else:
            self.close()

    def abort(self) -> None:
        """Both sides get RST, and what was on its way is lost."""
        for writer in self._writers:
            with suppress(OSError):
                connected = writer.get_extra_info("socket")
                connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            writer.transport.abort()

    def close(self) -> None:
        """Both sides get FIN after what was written."""
        for writer in self._writers:
            writer.close()

    async def _take_requests(self) -> None:
        """Stamp what the client sends with the time at which it is due at the server."""
        while data := await self._client[0].read(CHUNK):
            if self._proxy.cuts_on_request:
                self.cut(reset=False)
                break
            await self._on_their_way.put((self._now + self._proxy.delay, data))
        await self._on_their_way.put((self._now + self._proxy.delay, b""))

    async def _send_requests(self, server: asyncio.StreamWriter) -> None:
        while True:
            due, data = await self._on_their_way.get()
            if due > self._now:
                await asyncio.sleep(due - self._now)
            if not data:
                return
            self._look_for_marks(data)
            self._proxy.on_request(data)
            await self._send(server, data)

    async def _pass_answers(self, server: asyncio.StreamReader) -> None:
        while data := await server.read(CHUNK):
            while self._proxy.stalled or self.silent:
                await asyncio.sleep(TICK_SECONDS)
            if self._answer_is_lost:
                self.cut(reset=True)
                return
            await self._send(self._client[1], data)

    def _look_for_marks(self, data: bytes) -> None:
        """Arm what is to happen to the answer when the marked request goes out.

        A mark may lie across two chunks. Whatever the server says next is the answer to it: then
        it has been applied.
        """
        proxy = self._proxy
        if self._completes(proxy.cuts_answer_to, data):
            proxy.cuts_answer_to = None
            self._answer_is_lost = True
        if self._completes(proxy.stalls_answer_to, data):
            proxy.stalls_answer_to = None
            proxy.stalled = True
        self._tail = (self._tail + data)[-TAIL:]

    def _completes(self, mark: bytes | None, data: bytes) -> bool:
        """Return whether a mark ends in this chunk, and did not end before it."""
        return mark is not None and mark in self._tail[1 - len(mark) :] + data

    async def _send(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        while data:
            rate = self._proxy.bytes_per_second
            part = len(data) if rate is None else max(1, int(rate * TICK_SECONDS))
            if rate is not None:
                await asyncio.sleep(TICK_SECONDS)
            writer.write(data[:part])
            await writer.drain()
            data = data[part:]

    @property
    def _now(self) -> float:
        return asyncio.get_running_loop().time()


@contextmanager
def proxy(host: str, port: int) -> Iterator[Proxy]:
    """A relay that is closed at the end."""
    relay = Proxy(host, port)
    try:
        yield relay
    finally:
        relay.close()


def main() -> None:
    """Relay until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--listen", type=int, default=0, help="port on loopback; 0: any")
    parser.add_argument("--to", required=True, metavar="HOST:PORT")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds added to each request")
    options = parser.parse_args()
    host, _, port = options.to.rpartition(":")
    relay = Proxy(host, int(port), listen=options.listen, delay=options.delay)
    print(f"{LOOPBACK}:{relay.port} -> {options.to}, {options.delay * 1000:g} ms", flush=True)
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        relay.close()


if __name__ == "__main__":
    main()
