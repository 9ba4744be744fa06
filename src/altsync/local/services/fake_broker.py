"""A Redis in memory, for machines that have no real one: ``… fake_broker HOST PORT``."""

from __future__ import annotations

import sys


def main(arguments: list[str]) -> None:
    """Serve until killed."""
    from fakeredis import TcpFakeServer

    host, port = arguments
    server = TcpFakeServer((host, int(port)))
    # Threads of open connections must not keep a stopped server alive.
    server.daemon_threads = True
    server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1:])
