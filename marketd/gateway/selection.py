"""Pure: which rows a subscription is about.

A :class:`Selection` is what a client asks for, names and globs and kinds; a :class:`Choice` is what that means in one
feed right now. A feed's instruments only ever become more, so a choice only ever grows.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Collection, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from marketd import fqme
from marketd.model import Kind
from marketd.ring.layout import TOLD_ALWAYS
from marketd.security.access import matcher

FULL_KEY = 0
_USUAL_KINDS = frozenset({Kind.TRADE, Kind.QUOTE})


def split(instruments: Iterable[str]) -> tuple[set[str], set[str]]:
    """Tell names from globs, both in lower case and without white space around them."""
    cleaned = {text.strip().lower() for text in instruments}
    globs = {text for text in cleaned if fqme.is_glob(text)}
    return cleaned - globs, globs


class Selection:
    """What a subscription asks for. Make it by :meth:`Selections.intern`: equal ones are then one object.

    Attributes:
        names: full names.
        globs: patterns of names.
        kinds: of the data rows wanted.
        within: names and globs of what the client may see; empty for all.
        patterns: the globs, compiled.
    """

    def __init__(
        self,
        names: frozenset[str],
        globs: frozenset[str],
        kinds: frozenset[int],
        within: frozenset[str] = frozenset(),
    ) -> None:
        self.names = names
        self.globs = globs
        self.kinds = kinds
        self.within = within
        self._permitted = matcher(within)
        self.patterns = {glob: fqme.glob_pattern(glob) for glob in globs}
        self._matches = [pattern.match for pattern in self.patterns.values()]

    def selects(self, name: str) -> bool:
        """Whether an instrument of this name belongs to it."""
        return (name in self.names or any(match(name) for match in self._matches)) and self.permits(name)

    def permits(self, name: str) -> bool:
        """Whether the client may see it."""
        return self._permitted is None or self._permitted.match(name) is not None

    def may_select(self, backends: Collection[str]) -> bool:
        """Whether one of its globs could ever select a name that ends in ``.backend``."""
        return any(_may_end(glob, f".{backend}") for glob in self.globs for backend in backends)


def _may_end(glob: str, ending: str) -> bool:
    literal = glob[max(glob.rfind(mark) for mark in "*?]") + 1 :]
    return literal.endswith(ending) or ending.endswith(literal)


class Selections:
    """All selections in use: clients that ask for the same share one, and so everything derived from it."""

    def __init__(self) -> None:
        self._known: weakref.WeakValueDictionary[tuple[frozenset[object], ...], Selection]
        self._known = weakref.WeakValueDictionary()

    def intern(
        self,
        names: Iterable[str],
        globs: Iterable[str],
        kinds: Iterable[int],
        within: frozenset[str] = frozenset(),
    ) -> Selection:
        """Return the one selection of these; ``kinds`` are numbers."""
        asked = Selection(frozenset(names), frozenset(globs), frozenset(kinds), within)
        return self._known.setdefault((asked.names, asked.globs, asked.kinds, within), asked)


class Choice:
    """The instruments of one feed that a selection means, and the mask that finds their rows.

    Attributes:
        ids: their row ids, in the order in which they came to be known; only ever appended to.
        examined: how many of the feed's instruments were looked at.
    """

    _keys = itertools.count(FULL_KEY + 1)

    def __init__(self, selection: Selection) -> None:
        self.selection = selection
        self.ids: list[int] = []
        self.examined = 0
        self._key = next(self._keys)
        self._id_array: NDArray[np.intp] = np.empty(0, np.intp)
        # Index 0 is "all instruments", which gap and status rows may be about; the last entry stands for ids beyond.
        self._instruments: NDArray[np.bool_] = np.array([True, False])
        self._kinds: NDArray[np.bool_] = np.zeros(256, np.bool_)
        self._kinds[[*selection.kinds, *TOLD_ALWAYS]] = True
        self._kinds_bytes = bytes([*selection.kinds, *TOLD_ALWAYS])
        self._usual = selection.kinds == _USUAL_KINDS

    @property
    def full(self) -> bool:
        """Whether it is every trade and quote of every instrument that the feed has now, as most clients want it."""
        return self._usual and len(self.ids) == self.examined

    @property
    def key(self) -> int:
        """Choices of the same key select the same rows from what is published by now."""
        return FULL_KEY if self.full else self._key

    @property
    def id_array(self) -> NDArray[np.intp]:
        """``ids`` for indexing."""
        if len(self._id_array) != len(self.ids):
            self._id_array = np.array(self.ids, np.intp)
        return self._id_array

    def extend(self, names: Sequence[str]) -> None:
        """Look at more of the feed's instruments: those with the ids ``examined + 1`` on."""
        selects = self.selection.selects
        found = [i for i, name in enumerate(names, self.examined + 1) if selects(name)]
        self.examined += len(names)
        if self.examined + 2 > len(self._instruments):
            grown = np.zeros(2 * self.examined + 2, np.bool_)
            grown[: len(self._instruments)] = self._instruments
            self._instruments = grown
        self._instruments[found] = True
        self.ids += found

    def takes_all(self, kinds: bytes) -> bool:
        """Whether it selects every row of some, by their kinds; False where that takes a look at the rows."""
        return self.full and not kinds.translate(None, self._kinds_bytes)

    def filter(self, rows: NDArray[np.void]) -> NDArray[np.void]:
        """Return the selected ones of the rows, dtype ``layout.ROW``; the very same array if it is all of them."""
        if self.takes_all(rows["kind"].tobytes()):
            return rows  # for few rows in a third of the time
        mask = self._kinds[rows["kind"]]
        if not self.full:
            mask &= self._instruments.take(rows["instrument"], mode="clip")
        return rows if mask.all() else rows[mask]
