"""Environments of their own for what we compare with, below the user's cache folder, made with uv at the first run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

INSTALL_TIMEOUT_S = 300.0


def python_with(requirement: str, module: str, wanted: str, *others: str) -> Path | None:
    """Return the Python of an environment that has a package; None and a line on stderr when there can be none.

    Args:
        requirement: what to install, with its version: ``cryptofeed==3.0.1``.
        module: what must be importable then.
        others: what else to install, in any version.
        wanted: which Python to make it with: a file, or what uv may find.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "marketd-benchmarks" / requirement.replace("==", "-")
    python = folder / "bin" / "python"
    if can_import(python, module):
        return python
    uv = [sys.executable, "-m", "uv"] if can_import(Path(sys.executable), "uv") else [shutil.which("uv") or "uv"]
    try:
        for arguments in (
            ["venv", "--quiet", "--clear", "--python", wanted, str(folder)],
            ["pip", "install", "--quiet", "--python", str(python), requirement, *others],
        ):
            subprocess.run([*uv, *arguments], check=True, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S)
    except (OSError, subprocess.SubprocessError) as error:
        said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        print(f"no baseline: there is no environment with {requirement}: {said[0]}", file=sys.stderr)
        return None
    return python


def can_import(python: Path, module: str) -> bool:
    """Say whether a Python has a package."""
    return python.exists() and not subprocess.run([python, "-c", f"import {module}"], capture_output=True).returncode
