"""What can go wrong for a client, by whose doing it was."""

from __future__ import annotations

from typing import Any

from marketd.errors import MarketdError


class CannotConnect(ConnectionError, MarketdError):  # noqa: N818 - a sentence that a user's program prints
    """No daemon answered at the address when the client was opened."""

    def __init__(self, address: str, reason: object) -> None:
        super().__init__(
            f"can't connect to a marketd at {address}: {reason}. "
            "Start one with `marketd run`, or try it out with `marketd demo`."
        )
        self.address = address


class ConnectionLost(ConnectionError, MarketdError):  # noqa: N818 - as CannotConnect
    """The connection is gone and is not made again, or a request that must not be sent twice was under way."""


class DeadlineExceeded(TimeoutError, MarketdError):  # noqa: N818 - the protocol's own word
    """No answer came within the request's ``timeout_s``."""


class RequestError(MarketdError):
    """The daemon refused a request. ``code`` is stable (`docs/protocol.md` lists them), the text is for people."""

    def __init__(self, code: str, message: str, data: dict[str, Any]) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data

    def __str__(self) -> str:
        return f"{self.message} ({self.code})"


class ProtocolError(MarketdError):
    """The other side does not speak this protocol, or not this version of it."""


class PackageMissing(ImportError, MarketdError):  # noqa: N818 - as CannotConnect
    """Something was asked for that takes a package which the client does not bring."""

    def __init__(self, package: str) -> None:
        super().__init__(
            f"this needs the package {package}, which is not installed: `pip install {package}` "
            "(a checkout's `make setup` brings polars and pyarrow)"
        )
        self.package = package


class BarsMissing(UserWarning):
    """A table has fewer bars than its range: some are not there, or not whole."""


class TicksMissing(UserWarning):
    """A table may have fewer ticks than there were in its range: of some times nobody knows that they are all."""
