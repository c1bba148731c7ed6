"""Which names a feed is to have, pure: those of the configuration always, those of clients while they want them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from marketd.fqme import glob_pattern, is_glob


class Wanted:
    """The names, and globs, that are wanted by anybody.

    Demand comes from owners (a gateway, a client), each of which says all that it wants at once. So a message that is
    lost or comes twice does no harm, and an owner that died is dealt with by saying that it wants nothing.

    Args:
        declared: wanted always.
        linger_ns: how long a name stays wanted after its last owner has let go of it.
    """

    def __init__(self, declared: Iterable[str], linger_ns: int) -> None:
        self._declared = frozenset(declared)
        self._linger_ns = linger_ns
        self._by_owner: dict[str, frozenset[str]] = {}
        self._counts: Counter[str] = Counter()
        self._lingering: dict[str, int] = {}  # name -> until when

    def demand(self, owner: str, names: Iterable[str], now_ns: int) -> None:
        """Let an owner want these names from now on, in place of those it wanted before."""
        before = self._by_owner.get(owner, frozenset())
        after = frozenset(names)
        for name in after - before:
            self._counts[name] += 1
            self._lingering.pop(name, None)
        for name in before - after:
            self._counts[name] -= 1
            if not self._counts[name]:
                del self._counts[name]
                if name not in self._declared:
                    self._lingering[name] = now_ns + self._linger_ns
        if after:
            self._by_owner[owner] = after
        else:
            self._by_owner.pop(owner, None)

    def declare(self, names: Iterable[str]) -> None:
        """Let these be wanted always, in place of what was; that goes at once, unless somebody else wants it."""
        self._declared = frozenset(names)

    def count(self, name: str) -> int:
        """How many owners want a name."""
        return self._counts[name]

    def declares(self, name: str) -> bool:
        """Whether a full name, as the venue's list has it, is wanted always."""
        return any(glob_pattern(each).match(name) if is_glob(each) else each == name for each in self._declared)

    def lingers(self, name: str) -> bool:
        """Whether a name is wanted only because somebody did a moment ago."""
        return name in self._lingering

    def names(self, now_ns: int) -> set[str]:
        """All that is wanted now."""
        self._lingering = {name: until_ns for name, until_ns in self._lingering.items() if until_ns > now_ns}
        return set(self._declared) | self._counts.keys() | self._lingering.keys()

    @property
    def next_change_ns(self) -> int | None:
        """When :meth:`names` becomes less by itself."""
        return min(self._lingering.values(), default=None)
