"""List the modules that a new process has imported at its end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

#: Packages that are imported when a store, the broker or the schema is worked on.
OUTSIDE_SDKS = frozenset(
    {"openai", "pinecone", "neo4j", "celery", "kombu", "numpy", "redis", "httpx"}
    | {"alembic", "sqlalchemy", "sqlmodel", "starlette", "uvicorn"}
)

RUN = """
import json, sys
module = sys.argv.pop(1)
try:
    if module:
        __import__(module)
    else:
        from altsync.__main__ import main
        main()
except SystemExit:
    pass
names = {name.partition(".")[0] for name in sys.modules}
own = [name for name in sys.modules if name.startswith("altsync.")]
sys.stderr.write("\\n" + json.dumps([*names, *own]))
"""


def imported(*arguments: str, module: str = "", folder: Path) -> set[str]:
    """The packages, and modules of altsync, that a new process has imported at its end."""
    done = subprocess.run(
        [sys.executable, "-c", RUN, module, *arguments],
        capture_output=True,
        text=True,
        check=True,
        cwd=folder,
    )
    return set(json.loads(done.stderr.splitlines()[-1]))
