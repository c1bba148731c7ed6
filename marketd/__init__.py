"""marketd: a market-data daemon and its client library.

Everything here is imported when it is asked for, so that an actor process which needs none of it pays nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from marketd.client import connect, open_client

    __version__: str

__all__ = ["__version__", "connect", "open_client"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - a module's attributes
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("marketd")
        except PackageNotFoundError:
            return "0+unknown"  # run from a folder that is not installed
    if name in __all__:
        from marketd import client

        return getattr(client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
