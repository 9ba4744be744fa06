"""A real Neo4j for tests, without Docker: Maven fetches the jars, Java runs them.

`RELEASES` names the versions, and the default language of the database that each has.

`python -m tests.real_neo4j.server --prepare` fetches and compiles ahead of time;
`python -m tests.real_neo4j.server --run FOLDER` serves until it is interrupted.
"""

import argparse
import fcntl
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.real_neo4j import java

HERE = Path(__file__).resolve().parent
POM = HERE / "pom.xml"
SOURCE = HERE / "Neo4jServer.java"


@dataclass(frozen=True, slots=True)
class Release:
    """A Neo4j that tests run on. `version` is Maven's, `java` the oldest Java that runs it.

    `language` is the default Cypher of its database; None where there is only one.
    """

    version: str
    java: int
    language: str | None = None


#: The long-term release, and a current one with each of its two languages as the default.
RELEASES = {
    "neo4j_5": Release("5.26.28", java=17),
    "neo4j_2026": Release("2026.09.0", java=21, language="CYPHER_5"),
    "neo4j_2026_cypher_25": Release("2026.09.0", java=21, language="CYPHER_25"),
}

#: The long-term release. Neo4jServer.java is compiled against it, and runs on all of them.
LONG_TERM = RELEASES["neo4j_5"]

#: Names the folder the jars are kept in, in place of `.cache/neo4j` in the checkout.
CACHE_VARIABLE = "ALTSYNC_MAVEN_CACHE"
#: Seconds for Maven: 118 MB and 155 MB take about 20 s on a good line.
FETCH_SECONDS = 600
#: Seconds for javac, which needs about 3.
COMPILE_SECONDS = 120
#: Seconds from launch to the READY line: 6 to 13 measured on two busy cores.
START_SECONDS = 120
#: Seconds from SIGTERM to the end: a checkpoint of a test's data takes well under one.
STOP_SECONDS = 60
#: Seconds between two looks at a file or a process.
POLL_SECONDS = 0.05
#: Characters of a failed command's output that its error carries.
TAIL_CHARACTERS = 2_000

#: The heap is bounded because several servers may share a machine; the serial collector saves
#: 80 MB and a quarter of the start's processor time on two cores. Neo4j needs the opened package.
JAVA_OPTIONS = (
    "-Xmx512m",
    "-XX:+UseSerialGC",
    "--add-opens=java.base/java.nio=ALL-UNNAMED",
)


class RealNeo4jError(RuntimeError):
    """The server cannot be had: a tool is missing, or fetching, compiling or starting failed."""


@dataclass(frozen=True)
class RealNeo4j:
    """A running server. It has no password: it takes any name and password, and none."""

    uri: str
    folder: Path
    process: subprocess.Popen[bytes]
    database: str = "neo4j"
    auth: tuple[str, str] = ("neo4j", "")

    @property
    def port(self) -> int:
        """The Bolt port; start again with it to restart where clients look."""
        return int(self.uri.rsplit(":", 1)[1])

    def stop(self) -> None:
        """Shut down cleanly and keep the data. Harmless when it has already ended."""
        self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        finally:
            self._forget()

    def kill(self) -> None:
        """End it as a power cut would (SIGKILL)."""
        self.process.kill()
        self._forget()

    def _forget(self) -> None:
        self.process.wait(STOP_SECONDS)
        if self.process.stdin is not None:
            self.process.stdin.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()


def start_real_neo4j(folder: Path, release: Release = LONG_TERM, *, port: int = 0) -> RealNeo4j:
    """Start a server on 127.0.0.1 that keeps its data in `folder`; port 0 takes a free one.

    Fetches the jars at the first call on a machine. Raises RealNeo4jError.
    """
    prepared = prepare(release)
    runtime = java.find("java", release.java)
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    configured = "" if release.language is None else f"db.query.default_language={release.language}"
    (folder / "neo4j.conf").write_text(f"{configured}\n")
    log = folder / "server.log"
    command = [
        str(runtime),
        *JAVA_OPTIONS,
        "-cp",
        f"{prepared / 'lib'}/*{os.pathsep}{prepared / 'classes'}",
        SOURCE.stem,
        "127.0.0.1",
        str(port),
        str(folder),
    ]
    with log.open("ab") as output:
        start_of_output = output.tell()
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,  # closes with this process, and the server ends with it
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # an interrupt at the terminal leaves the end to stop()
        )
    try:
        uri = _wait_until_ready(process, log, start_of_output)
    except BaseException:
        process.kill()
        process.wait()
        raise
    return RealNeo4j(uri=uri, folder=folder, process=process)


def prepare(release: Release = LONG_TERM) -> Path:
    """Return the folder with `lib` and `classes`, made if need be. Many processes may call it."""
    missing = why_unavailable(release)
    if missing:
        raise RealNeo4jError(f"{missing}; Neo4j {release.version} needs them")
    cache = cache_folder()
    prepared = cache / _key(release)
    if prepared.is_dir():
        return prepared
    cache.mkdir(parents=True, exist_ok=True)
    with _lock(cache / "lock"):
        if not prepared.is_dir():
            with tempfile.TemporaryDirectory(dir=cache) as unfinished:
                made = Path(unfinished) / "made"
                _fetch(release, made / "lib")
                _compile(made / "classes")
                made.rename(prepared)
    return prepared


def why_unavailable(release: Release = LONG_TERM) -> str | None:
    """Return what is missing on this machine; None when a start can be tried."""
    runtime, compiler = java.find("java", release.java), java.find("javac", LONG_TERM.java)
    missing = [] if runtime else [f"java of version {release.java} or newer"]
    if not (cache_folder() / _key(release)).is_dir():
        missing += [] if compiler else [f"javac of version {LONG_TERM.java} or newer"]
        missing += [] if shutil.which("mvn") else ["mvn"]
    return f"not found: {', '.join(missing)}" if missing else None


def cache_folder() -> Path:
    """Return the folder of prepared servers, one for each state of pom.xml and the source."""
    named = os.environ.get(CACHE_VARIABLE)
    return Path(named).resolve() if named else HERE.parents[1] / ".cache" / "neo4j"


def _key(release: Release) -> str:
    state = POM.read_bytes() + SOURCE.read_bytes() + release.version.encode()
    return hashlib.sha256(state).hexdigest()[:16]


def _fetch(release: Release, lib: Path) -> None:
    goal = "dependency:copy-dependencies"
    wanted = [f"-Dneo4j.version={release.version}", f"-DoutputDirectory={lib}"]
    _run(["mvn", "-q", "-B", "-f", str(POM), goal, *wanted], FETCH_SECONDS)


def _compile(classes: Path) -> None:
    """Compile against the long-term release: an older compiler cannot read the jars of others."""
    with tempfile.TemporaryDirectory(dir=classes.parent) as folder:
        lib = Path(folder) / "lib"
        _fetch(LONG_TERM, lib)
        compiler = [str(java.find("javac", LONG_TERM.java)), "--release", str(LONG_TERM.java)]
        _run([*compiler, "-cp", f"{lib}/*", "-d", str(classes), str(SOURCE)], COMPILE_SECONDS)


def _run(command: list[str], timeout: float) -> None:
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        raise RealNeo4jError(f"{command[0]} took more than {timeout:.0f} s") from late
    if done.returncode != 0:
        raise RealNeo4jError(
            f"{command[0]} ended with status {done.returncode}:\n{done.stdout[-TAIL_CHARACTERS:]}"
        )


def _wait_until_ready(process: subprocess.Popen[bytes], log: Path, start_of_output: int) -> str:
    deadline = time.monotonic() + START_SECONDS
    while True:
        ended = process.poll() is not None
        output = log.read_bytes()[start_of_output:].decode(errors="replace")
        ready = re.search(r"^READY (\S+)$", output, re.MULTILINE)
        if ready and not ended:
            return ready[1]
        if ended or time.monotonic() > deadline:
            problem = (
                f"ended with status {process.returncode}"
                if ended
                else f"was not ready within {START_SECONDS} s"
            )
            raise RealNeo4jError(f"Neo4j {problem}:\n{output[-TAIL_CHARACTERS:]}")
        time.sleep(POLL_SECONDS)


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def main() -> None:
    """Prepare, or run one server in the foreground."""
    parser = argparse.ArgumentParser(prog="python -m tests.real_neo4j.server", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--prepare", action="store_true", help="fetch the jars of every release, compile"
    )
    what.add_argument("--run", type=Path, metavar="FOLDER", help="serve FOLDER, print the address")
    parser.add_argument("--port", type=int, default=0, help="the Bolt port (default: a free one)")
    parser.add_argument("--release", choices=RELEASES, default="neo4j_5", help="the one to run")
    arguments = parser.parse_args()
    try:
        if arguments.prepare:
            for release in RELEASES.values():
                print(prepare(release))
        else:
            _serve(arguments.run, RELEASES[arguments.release], arguments.port)
    except RealNeo4jError as error:
        sys.exit(f"error: {error}")


def _serve(folder: Path, release: Release, port: int) -> None:
    interruptions = {signal.SIGINT, signal.SIGTERM}
    with start_real_neo4j(folder, release, port=port) as server:
        print(server.uri, flush=True)
        signal.pthread_sigmask(signal.SIG_BLOCK, interruptions)
        signal.sigwait(interruptions)


if __name__ == "__main__":
    main()
