"""Pure: what somebody may do, and how much of it."""

from __future__ import annotations

import re
from collections.abc import Iterable

from marketd.fqme import glob_pattern
from marketd.security.quotas import Usage
from marketd.security.scopes import SCOPES, Scope
from marketd.security.tokens import Token


class Access:
    """What the holder of one token may do; all its connections share one.

    Attributes:
        name: the token's; empty for who needs none.
        token: what the file says of it; None for who needs none.
        scopes: all that it may.
        within: names and globs of the instruments that it may see; empty for all.
        usage: what it has used of its quotas.
    """

    def __init__(self, token: Token | None = None) -> None:
        self.token = token
        self.name = token.name if token is not None else ""
        self.scopes: frozenset[Scope] = frozenset(SCOPES if token is None or "admin" in token.scopes else token.scopes)
        self.within = within_of(token.instruments if token is not None else ())
        self.usage = Usage(token.quotas if token is not None else None)
        self._permits = matcher(self.within)

    def may(self, scope: Scope | None) -> bool:
        """Whether it may what wants this scope."""
        return scope is None or scope in self.scopes

    def permits(self, name: str) -> bool:
        """Whether it may see an instrument, in any case."""
        return self._permits is None or self._permits.match(name.strip().lower()) is not None


def within_of(instruments: Iterable[str]) -> frozenset[str]:
    """Write names and globs as instruments are written."""
    return frozenset(text.strip().lower() for text in instruments)


def matcher(within: frozenset[str]) -> re.Pattern[str] | None:
    """Make one pattern of all names and globs, that matches whole names; None for no bounds at all."""
    if not within:
        return None
    return re.compile("|".join(f"(?:{glob_pattern(text).pattern})" for text in sorted(within)))
