"""Names: ``dst/src.venue[.suffix].backend``, lower case, and the globs that select them.

    fqme    = pair "." [venue "."] [suffix "."] backend
    pair    = dst ["/" src]
    dst, src, venue, backend = one or more characters except "." "/" "*" "?" "[" and white space
    suffix  = the same, and may hold dots (an expiry, a strike)

Parsing and printing are inverse: ``str(parse(text)) == text.lower()`` and ``parse(str(fqme)) == fqme``.
"""

from __future__ import annotations

import fnmatch
import re
from typing import NamedTuple

_TOKEN = re.compile(r"[^\s./*?\[\]]+")
_GLOB_CHARACTERS = frozenset("*?[")


class Fqme(NamedTuple):
    """The parts of a name; ``src``, ``venue`` and ``suffix`` may be empty."""

    dst: str
    src: str
    venue: str
    suffix: str
    backend: str

    def __str__(self) -> str:
        pair = f"{self.dst}/{self.src}" if self.src else self.dst
        return ".".join(part for part in (pair, self.venue, self.suffix, self.backend) if part).lower()


def parse(text: str) -> Fqme:
    """Split a name into its parts, in any case.

    Raises:
        ValueError: with what is wrong and an example.
    """
    tokens = text.strip().lower().split(".")
    if len(tokens) < 2:
        raise ValueError(f"{text!r} is no instrument name: dst/src.venue.backend is, e.g. btc/usdt.spot.binance")
    dst, slash, src = tokens[0].partition("/")
    parts = [dst, *tokens[1:]] + ([src] if slash else [])
    bad = next((part for part in parts if not _TOKEN.fullmatch(part)), None)
    if bad is not None:
        raise ValueError(f"{text!r} has a part {bad!r} that is empty or has a character a name can't have")
    venue, suffix = (tokens[1], ".".join(tokens[2:-1])) if len(tokens) > 2 else ("", "")
    return Fqme(dst, src, venue, suffix, tokens[-1])


def is_glob(text: str) -> bool:
    """Whether the text selects by pattern (``*/usdt.spot.binance``) and not by name."""
    return not _GLOB_CHARACTERS.isdisjoint(text)


def glob_pattern(text: str) -> re.Pattern[str]:
    """Compile a glob for whole lower-case names; ``*`` crosses dots and slashes."""
    return re.compile(fnmatch.translate(text.strip().lower()))
