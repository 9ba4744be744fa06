"""The wheel alone, installed by pip into an empty environment outside the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]

#: Seconds for a step; pip may fetch packages.
LONGEST = 400


def run(*command: str | Path, cwd: Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command that reads nothing of this environment."""
    keep = ("PATH", "HOME", "TMPDIR", "LANG", "PIP_INDEX_URL", "PIP_CACHE_DIR", "SSL_CERT_FILE")
    environment = {name: os.environ[name] for name in keep if name in os.environ}
    environment |= {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_ROOT_USER_ACTION": "ignore"}
    done = subprocess.run(
        command,
        cwd=cwd,
        env=environment,
        text=True,
        capture_output=True,
        check=False,
        timeout=LONGEST,
    )
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def copy_of_the_checkout(folder: Path) -> Path:
    """Copy the files that git tracks, so that the build leaves nothing in the checkout."""
    listed = run("git", "ls-files", "-z", cwd=ROOT).stdout.split("\0")
    for name in listed:
        if name and (ROOT / name).is_file():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())
    return folder


def test_the_wheel_alone_runs_the_demo(tmp_path: Path) -> None:
    """Nothing but altsync is installed, the installation is quiet, and the stores agree."""
    source = copy_of_the_checkout(tmp_path / "source")
    run(sys.executable, "-m", "venv", "venv", cwd=tmp_path)
    python = tmp_path / "venv" / "bin" / "python"
    pip = (python, "-m", "pip")
    packages = next((tmp_path / "venv" / "lib").iterdir()) / "site-packages"
    locked = ("-c", source / "constraints.txt")
    lines = (source / "requirements.lock").read_text().splitlines()
    pins = [line.split(" \\")[0] for line in lines if "==" in line and line[:1].isalnum()]
    (source / "constraints.txt").write_text("\n".join(pins) + "\n")
    run(*pip, "install", "--quiet", *locked, "setuptools", cwd=tmp_path)
    built = run(
        *(*pip, "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", "dist", source),
        cwd=tmp_path,
    )
    assert (built.stdout, built.stderr) == ("", "")
    [wheel] = (tmp_path / "dist").iterdir()
    before = {path.name for path in packages.iterdir()}
    run(*pip, "install", "--quiet", "--no-deps", wheel, cwd=tmp_path)
    added = {path.name for path in packages.iterdir()} - before
    assert added == {"altsync", "altsports", f"altsync-{wheel.name.split('-')[1]}.dist-info"}
    if uv := shutil.which("uv"):  # its cache spares hundreds of megabytes
        installer: tuple[str | Path, ...] = (uv, "pip", "install", "--python", python)
    else:
        installer = (*pip, "install")
    run(*installer, "--quiet", *locked, f"{wheel}[local]", cwd=tmp_path)

    empty = tmp_path / "empty"
    empty.mkdir()
    altsync = tmp_path / "venv" / "bin" / "altsync"
    done = run(altsync, "demo", cwd=empty)
    assert "All three: leagues most like Formula 1" in done.stdout
    assert "Warning" not in done.stderr
    assert sorted(path.name for path in empty.iterdir()) == [".altsync"]
    (empty / ".env").write_text("REDIS_URL=redis://127.0.0.1:1/0\n")
    celery = run(python, "-c", "from altsync.workers.app import app; print(app.main)", cwd=empty)
    assert celery.stdout == "altsync\n"
