"""One virtual environment for each peer, made when it is first needed and kept."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from .errors import NotRun

__all__ = ["FOLDER", "python_of", "ready_environment"]

FOLDER = Path(__file__).parent / ".venvs"
INSTALL_S = 900.0


def python_of(name: str | None) -> Path:
    """The interpreter of environment *name*; None is the one that runs the harness."""
    return Path(sys.executable) if name is None else FOLDER / name / "bin" / "python"


def ready_environment(name: str | None, requirements: Sequence[str]) -> Path:
    """The interpreter of environment *name* with *requirements* installed, newest versions at the time of the making.

    Raises NotRun with the last lines of the installer when they cannot be installed.  To make an environment anew,
    delete its folder.
    """
    python = python_of(name)
    if name is None:
        return python
    stamp = FOLDER / name / ".installed"
    installed = set(stamp.read_text().splitlines()) if stamp.exists() else set()
    missing = [line for line in requirements if line not in installed]
    if not missing and stamp.exists():
        return python
    FOLDER.mkdir(exist_ok=True)
    try:
        if not python.exists():
            _run([sys.executable, "-m", "venv", str(FOLDER / name)])
        _run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements])
    except NotRun:
        if not stamp.exists():
            shutil.rmtree(FOLDER / name, ignore_errors=True)  # half an environment would be taken for a whole one
        raise
    stamp.write_text("\n".join(sorted(installed | set(requirements))) + "\n")
    return python


def _run(command: Sequence[str]) -> None:
    with tempfile.TemporaryFile("w+") as output:
        try:
            status = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, timeout=INSTALL_S
            ).returncode
        except (OSError, subprocess.TimeoutExpired) as error:
            raise NotRun(f"cannot install: {error}") from None
        output.seek(0)
        lines = [line.strip() for line in output if line.strip()]
    if status != 0:
        raise NotRun("cannot install: " + " / ".join(lines[-3:]))
