"""Run a Redis in memory: ``python -m … fake_broker HOST PORT PASSWORD_FILE``."""

from __future__ import annotations

import hmac
import os
import sys
from pathlib import Path
from typing import Any

#: Maximum bytes of a word, and maximum words of a command, before the login.
MAX_WORD, MAX_WORDS = 512, 16


def main(arguments: list[str]) -> None:
    """Serve until a signal."""
    from fakeredis import TcpFakeServer

    host, port, file = arguments
    server = TcpFakeServer((host, int(port)))
    server.RequestHandlerClass = _guarded(server.RequestHandlerClass, Path(file).read_bytes())
    # Threads of open connections must not keep a stopped process running.
    server.daemon_threads = True
    server.serve_forever()


def _guarded(handler: Any, password: bytes) -> Any:
    """Return a handler that requires the password, which fakeredis does not check."""

    class Guarded(handler):  # type: ignore[misc]
        def handle(self) -> None:
            os.set_blocking(self.rfile.fileno(), True)
            try:
                logged_in = self._log_in()
            except (ValueError, OSError):
                return
            os.set_blocking(self.rfile.fileno(), False)
            if logged_in:
                super().handle()

        def _log_in(self) -> bool:
            while words := self._words():
                name, *rest = words
                login = _login(name.upper(), rest)
                if login is None:
                    self._reply(b"-NOAUTH Authentication required.")
                elif not hmac.compare_digest(login, password):
                    self._reply(b"-WRONGPASS invalid username-password pair or user is disabled.")
                elif name.upper() == b"AUTH":
                    self._reply(b"+OK")
                    return True
                else:
                    parts = b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)
                    self.current_client.get_socket().sendall(b"*%d\r\n%s" % (len(words), parts))
                    return True
            return False

        def _words(self) -> list[bytes]:
            """Return the next command; empty at the end. Raises ``ValueError``."""
            count = self._number(b"*", MAX_WORDS)
            words = []
            for _ in range(count):
                size = self._number(b"$", MAX_WORD)
                words.append(self.rfile.read(size + 2)[:-2])
            return words

        def _number(self, mark: bytes, most: int) -> int:
            line = self.rfile.readline(MAX_WORD)
            if not line:
                return 0
            number = int(line.removeprefix(mark))
            if not line.startswith(mark) or not 0 <= number <= most:
                raise ValueError(line)
            return number

        def _reply(self, line: bytes) -> None:
            self.wfile.write(line + b"\r\n")
            self.wfile.flush()

    return Guarded


def _login(name: bytes, rest: list[bytes]) -> bytes | None:
    """Return the password of AUTH, or of HELLO with AUTH; None for another command."""
    match name, rest:
        case (b"AUTH", [secret]):
            return secret
        case (b"AUTH", [user, secret]):
            return secret if user == b"default" else b""
        case (b"HELLO", [_, *options]) if b"AUTH" in [option.upper() for option in options]:
            position = [option.upper() for option in options].index(b"AUTH")
            user, secret = (*options[position + 1 : position + 3], b"", b"")[:2]
            return secret if user == b"default" else b""
    return None


if __name__ == "__main__":
    main(sys.argv[1:])
