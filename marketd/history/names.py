"""Instruments by name."""

from __future__ import annotations

from collections.abc import Callable

from marketd.fqme import glob_pattern, is_glob
from marketd.ring.table import TableReader


def name_matcher(text: str) -> Callable[[str], object]:
    """Return what says whether a glob, or a name in any case, with or without its slash, means a feed's name."""
    if is_glob(text):
        return glob_pattern(text).match
    wanted = text.strip().lower().replace("/", "")
    return lambda name: name.replace("/", "") == wanted


class Names:
    """Looks names up in an instrument table; what is new there is read when it is looked for.

    Attributes:
        table: the feed's.
    """

    def __init__(self, table: TableReader) -> None:
        self.table = table
        self._ids: dict[str, int] = {}

    def find(self, fqme: str) -> int | None:
        """Return an instrument's id, if the feed has it."""
        for instrument in range(len(self._ids) + 1, self.table.count + 1):
            self._ids[self.table.fqme(instrument)] = instrument
        return self._ids.get(fqme)
