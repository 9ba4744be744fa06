"""``altsync`` and ``python`` for a shell, without the second that each takes to import.

A process that has imported everything forks for each command. A small client, put first on the
PATH, hands it the command line, the environment, the folder and the three files.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import socket
import sys
from pathlib import Path
from typing import Any, NoReturn

CLIENT = """\
#!{python} -ISu
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as front:
    front.connect({address!r})
    asked = {{"argv": [{name!r}, *sys.argv[1:]], "env": dict(os.environ), "cwd": os.getcwd()}}
    body = json.dumps(asked).encode()
    socket.send_fds(front, [len(body).to_bytes(4, "big")], [0, 1, 2])
    front.sendall(body)
    answer = front.recv(1)
sys.exit(answer[0] if answer else 1)
"""

#: Modules that commands import, so that no fork has to.
IMPORTS = (
    "alembic.command",
    "altsync.app",
    "altsync.cli",
    "altsync.why.explain",
    "altsync.doctor",
    "altsync.openai_embedder",
    "altsports.queries",
    "altsync.queries",
    "altsync.seed.loader",
    "altsync.sinks.embedding.write",
    "altsync.sinks.neo4j.write",
    "altsync.sinks.pinecone.write",
    "altsync.status.collect",
)


def write_clients(folder: Path, address: Path) -> None:
    """Put ``altsync`` and ``python`` into a folder for the PATH."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("altsync", "python"):
        client = folder / name
        client.write_text(CLIENT.format(python=sys.executable, address=str(address), name=name))
        client.chmod(0o755)


def serve(address: str) -> NoReturn:
    """Fork for every command, until stopped."""
    for name in IMPORTS:
        __import__(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(address)
        door.listen()
        while True:
            front, _ = door.accept()
            if os.fork() == 0:
                door.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                _answer(front)
            front.close()


def _answer(front: socket.socket) -> NoReturn:
    head, files, _flags, _address = socket.recv_fds(front, 4, 3)
    length = int.from_bytes(head, "big")
    body = b""
    while len(body) < length:
        body += front.recv(length - len(body))
    for number, file in enumerate(files):
        os.dup2(file, number)
    asked: dict[str, Any] = json.loads(body)
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["env"])
    code = _run(asked["argv"])
    front.sendall(bytes([code % 256]))
    os._exit(code)


def _run(argv: list[str]) -> int:
    try:
        _main(argv)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:  # noqa: BLE001  (shown as python itself would)
        sys.excepthook(*sys.exc_info())
        code = 1
    else:
        code = 0
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    return code


def _main(argv: list[str]) -> None:
    if argv[0] == "altsync":
        from altsync import cli

        sys.argv = argv
        cli.main()
    elif argv[1] == "-c":
        sys.argv = ["-c", *argv[3:]]
        exec(argv[2], {"__name__": "__main__"})  # noqa: S102  (a command of a page)
    elif argv[1] == "-m":
        sys.argv = argv[2:]
        runpy.run_module(argv[2], run_name="__main__", alter_sys=True)
    else:
        sys.argv = argv[1:]
        runpy.run_path(argv[1], run_name="__main__")


if __name__ == "__main__":
    serve(sys.argv[1])
