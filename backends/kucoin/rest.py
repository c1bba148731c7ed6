"""KuCoin's REST answers, all of which have one envelope. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import msgspec

from backends.kucoin import wire
from marketd.errors import WireError

T = TypeVar("T")

THROTTLED = "429000"
_UNREADABLE = (msgspec.MsgspecError, RecursionError, UnicodeDecodeError)


class TooManyRequestsError(WireError):
    """R62: KuCoin will not answer now."""


def read(body: bytes, decode: Callable[[bytes], wire.Answer[T]], what: str) -> T:
    """Read a REST answer.

    Raises:
        TooManyRequestsError: it says so.
        WireError: it is none, or one that says that the request failed.
    """
    try:
        answer = decode(body)
    except _UNREADABLE as error:
        raise _refusal(body, what) or WireError(f"{what} can't be used: {error}") from error
    if answer.code != wire.SUCCESS or answer.data is None:
        raise _refusal(body, what) or WireError(f"{what} can't be used: it has no data")
    return answer.data


def code_of(body: bytes) -> str:
    """Read what an answer says of itself; nothing if it is none."""
    try:
        code: str = wire.decode_code(body).code
    except _UNREADABLE:
        return ""
    return code


def _refusal(body: bytes, what: str) -> WireError | None:
    """Make the error of an answer that says that the request failed."""
    code = code_of(body)
    if code in ("", wire.SUCCESS):
        return None
    kind = TooManyRequestsError if code == THROTTLED else WireError
    return kind(f"{what} can't be used: KuCoin says {code} {wire.decode_code(body).msg}")
