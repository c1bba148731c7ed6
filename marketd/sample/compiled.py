"""How the sampler's loops are compiled, and where the results are kept.

numba keeps what it compiled on disk, and knows it to be stale by the time of the one file that a function is in: not
when something changes that was compiled into it from another. So each version of the sources has a folder of its own.
It is beside the modules where that can be written to, as in a checkout, and else with the daemon's other caches.
``NUMBA_CACHE_DIR`` is respected.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

from numba import njit
from numba.core import config

from marketd.paths import cache_folder

_HERE = Path(__file__).parent
_SOURCES = [*sorted(_HERE.glob("*.py")), *sorted((_HERE.parent / "ring").glob("*.py")), _HERE.parent / "model.py"]


_settings: Any = config  # its attributes are made as numba starts


def _version() -> str:
    digest = hashlib.blake2b(digest_size=8)
    for path in _SOURCES:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _folder() -> Path:
    if _settings.CACHE_DIR:
        return Path(_settings.CACHE_DIR)
    beside = _HERE / "__pycache__"
    may_write = os.access(beside if beside.exists() else _HERE, os.W_OK)
    return beside if may_write else cache_folder()


# Read when the functions below are applied, so it has to be set before.
_settings.CACHE_DIR = str(_folder() / f"compiled-{_version()}")

F = TypeVar("F", bound=Callable[..., Any])

# Without numba's own memory management (`_nrt`, which its type hints leave out): it counts who holds each array at
# every use of one, atomically, and that is three quarters of the time of a trade. These loops make no arrays; one that
# did would not compile.
_options: Any = {"cache": True, "error_model": "numpy", "_nrt": False}


def compiled(function: F) -> F:
    """Compile a loop at its first call, or load what was compiled before."""
    return cast(F, njit(**_options)(function))


inlined = njit(cache=True, error_model="numpy", inline="always")
