"""The client library is for other people's programs: it brings little and needs little."""

from __future__ import annotations

import subprocess
import sys

import marketd
from marketd import client
from tests.conftest import PROJECT

DAEMON_ONLY = [
    "trio",
    "tractor",
    "structlog",
    "pendulum",
    "polars",
    "pyarrow",
    "numba",
    "psutil",
    "platformdirs",
    "asks",
]

BLOCKED = f"""
import sys
for name in {DAEMON_ONLY!r}:
    sys.modules[name] = None
import marketd
from marketd.client import connect, open_client
assert marketd.connect is connect and marketd.open_client is open_client
from marketd.client.address import default_address
default_address()
assert [name for name in {DAEMON_ONLY!r} if sys.modules.get(name)] == []
"""

TIMED = """
import sys, time
begun_s = time.process_time()
import numpy
has_numpy_s = time.process_time()
import marketd.client
print((time.process_time() - has_numpy_s) / (has_numpy_s - begun_s), "anyio" in sys.modules)
"""


def _python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_client_needs_nothing_of_the_daemons_packages() -> None:
    _python(BLOCKED)


def test_client_is_imported_soon_and_without_what_blocking_programs_do_not_use() -> None:
    share, asynchronous = min(_python(TIMED).split() for _ in range(3))
    assert float(share) < 2, "it takes longer than numpy itself does"
    assert asynchronous == "False"


def test_every_public_name_is_there() -> None:
    for name in client.__all__:
        assert getattr(client, name) is not None
    assert not hasattr(client, "no_such_name")
    assert not hasattr(marketd, "no_such_name")
    assert marketd.__version__[0].isdigit()
