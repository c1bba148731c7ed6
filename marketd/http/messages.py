"""What an HTTP request comes to: a response, or one of a few errors that say what to do about them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from marketd.errors import MarketdError


class Headers(Mapping[str, str]):
    """Header fields by name, in any case. A repeated field is one, joined by commas (RFC 9110, 5.3)."""

    __slots__ = ("_values",)

    def __init__(self, fields: Iterable[tuple[str, str]] = ()) -> None:
        self._values: dict[str, str] = {}
        for name, value in fields:
            before = self._values.get(name.lower())
            self._values[name.lower()] = value if before is None else f"{before}, {value}"

    def __getitem__(self, name: str) -> str:
        return self._values[name.lower()]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Headers({self._values!r})"


@dataclass(frozen=True)
class Response:
    """An answer, whatever its status.

    Attributes:
        body: all of it, decompressed.
        received_ns: our clock when the last byte of it was there.
    """

    status: int
    headers: Headers
    body: bytes
    received_ns: int


class HttpError(MarketdError):
    """A request brought no answer that can be used. The text names the request."""


class HttpConnectError(HttpError):
    """There is no connection: unknown name, refused, or not within the time for it. Nothing was sent."""


class HttpTlsError(HttpError):
    """The server is not proven to be who it should be, or does not speak TLS. Trying again will not help."""


class HttpTimeout(HttpError):  # noqa: N818 - the field's word
    """The deadline passed before the whole answer was there."""


class HttpBadResponse(HttpError):  # noqa: N818
    """What came is no HTTP, or the connection ended before it was whole."""


class HttpTooLarge(HttpError):  # noqa: N818
    """The body is longer than the caller wants."""


class HttpStatusError(HttpError):
    """The venue answered, and it is not what was asked for; ``response`` says why."""

    def __init__(self, message: str, response: Response) -> None:
        super().__init__(message)
        self.response = response
