from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import PROJECT


def _modules() -> list[str]:
    files = [path for package in ("marketd", "backends", "storage") for path in (PROJECT / package).rglob("*.py")]
    names = (path.relative_to(PROJECT).with_suffix("") for path in files)
    dotted = {".".join(name.parts).removesuffix(".__init__") for name in names}
    return sorted(name for name in dotted if not name.endswith(".__main__"))


def test_every_module_can_be_imported_alone() -> None:
    """R08: in a fresh interpreter each, forked from one that has the libraries, so that it stays quick."""
    script = """
import os, sys
import anyio, cryptography.x509, exchange_calendars, hypercorn, msgspec, numba, numpy, polars, prometheus_client
import pyarrow.parquet, rich.console, rich.progress, starlette.applications, structlog, trio, typer
failed = []
for name in sys.argv[1:]:
    pid = os.fork()
    if pid == 0:
        try:
            __import__(name)
        except BaseException as error:
            print(name, repr(error), file=sys.stderr)
            os._exit(1)
        os._exit(0)
    if os.waitpid(pid, 0)[1]:
        failed.append(name)
sys.exit(f"can't be imported alone: {failed}" if failed else 0)
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, *_modules()], capture_output=True, text=True, cwd=PROJECT
    )
    assert done.returncode == 0, done.stderr


def test_one_module_alone_imports_tractor() -> None:
    users = [
        str(path.relative_to(PROJECT))
        for package in ("marketd", "backends", "storage")
        for path in (PROJECT / package).rglob("*.py")
        if any(line.strip().startswith(("import tractor", "from tractor")) for line in path.read_text().splitlines())
    ]
    assert users == ["marketd/supervise/actor.py"]


@pytest.mark.parametrize("package", ["marketd", "backends", "storage"])
def test_every_folder_has_a_page_that_answers_its_question(package: str) -> None:
    assert (PROJECT / package / "README.md").stat().st_size > 500
    assert Path(PROJECT / "README.md").stat().st_size > 500
