"""Pure: the part of an address behind the question mark, read piece by piece; what is left over was a mistake."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from starlette.datastructures import QueryParams

from marketd.client.times import parse_ns
from marketd.gateway.decode import Refusal, shown
from marketd.rpc.messages import ErrorCode
from marketd.web.formats import FORMATS

NAMES_MAX = 10_000

T = TypeVar("T")


class Query:
    """The parameters of one request. Every method that reads one raises Refusal if it is wrong, and names it.

    Args:
        params: as they came.
    """

    def __init__(self, params: QueryParams) -> None:
        self._params = params
        self._known: dict[str, None] = {}

    def read(self, key: str, parse: Callable[[str], T], default: Any) -> Any:  # noqa: ANN401 - what parse gives
        """Return what ``parse`` makes of a parameter; the default, if that is text, is parsed too."""
        text = self._one(key)
        text = default if text is None else text
        if not isinstance(text, str):
            return text
        try:
            return parse(text)
        except ValueError as error:
            raise Refusal(ErrorCode.INVALID_PARAMS, f"{key}={text[:80]}: {error}", key=key) from error

    def time(self, key: str) -> int | None:
        """Return a time in nanoseconds; None if there is none."""
        found: int | None = self.read(key, parse_ns, None)
        return found

    def choice(self, key: str, choices: Sequence[str], default: str) -> Any:  # noqa: ANN401 - a literal of the caller's
        """Return one of some words."""
        text = self._one(key) or default
        if text not in choices:
            sentence = f"{key}={text[:80]}: it is one of {', '.join(choices)}"
            raise Refusal(ErrorCode.INVALID_PARAMS, sentence, key=key)
        return text

    def form(self) -> str:
        """Return the format of the file that is wanted."""
        found: str = self.choice("format", FORMATS, "json")
        return found

    def list_of(self, key: str) -> list[str]:
        """Return the words of a parameter, with commas between them, or given several times."""
        self._known[key] = None
        return [word.strip() for text in self._params.getlist(key) for word in text.split(",") if word.strip()]

    def names(self, key: str) -> list[str]:
        """Return at least one name or glob."""
        found = self.list_of(key)
        if not found:
            sentence = f"say which: {key}=btc/usdt.spot.binance, or several, or a glob: {key}=*.binance"
            raise Refusal(ErrorCode.INVALID_PARAMS, sentence, key=key)
        if len(found) > NAMES_MAX:
            raise Refusal(ErrorCode.LIMIT_EXCEEDED, f"{len(found)} names; {NAMES_MAX} are as many as one asks for")
        return found

    def finish(self) -> None:
        """Refuse a request that says more than was read: what is misspelt must not be passed over."""
        if foreign := sorted(set(self._params) - set(self._known)):
            sentence = f"there is no parameter {shown(foreign[0])}; there are: {', '.join(self._known)}"
            raise Refusal(ErrorCode.INVALID_PARAMS, sentence, key=foreign[0])

    def _one(self, key: str) -> str | None:
        self._known[key] = None
        found = self._params.getlist(key)
        if len(found) > 1:
            raise Refusal(ErrorCode.INVALID_PARAMS, f"{key} is there {len(found)} times", key=key)
        return found[0] if found else None
