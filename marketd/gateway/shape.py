"""Pure: the rows of one range of cursors as a contract tells them.

`lossless` tells them as they are, `frames` by kind, so that a reader finds the newest of a kind without walking the
others, and `trade_safe` by kind with all quotes but each instrument's newest merged into that one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from marketd.model import Kind
from marketd.rpc.messages import Contract


class Shaped(NamedTuple):
    """Rows to tell; ``merged``: for each, how many rows of its kind and instrument it stands for, None for itself."""

    rows: NDArray[np.void]
    merged: list[int] | None = None


def as_they_are(rows: NDArray[np.void]) -> Shaped:
    """Leave rows in the order of their cursors."""
    return Shaped(rows)


def by_kind(rows: NDArray[np.void]) -> Shaped:
    """Put rows of one kind together, each kind's in the order of their cursors."""
    kinds = rows["kind"]
    return Shaped(rows if (kinds == kinds[0]).all() else rows[np.argsort(kinds, kind="stable")])


def with_newest_quotes(rows: NDArray[np.void]) -> Shaped:
    """Merge each instrument's quotes into its newest one, and put the rows by kind."""
    are_quotes = rows["kind"] == Kind.QUOTE
    quotes = rows[are_quotes]
    _, places, counts = np.unique(quotes["instrument"][::-1], return_index=True, return_counts=True)
    found = np.concatenate([rows[~are_quotes], quotes[len(quotes) - 1 - places]])
    merged = np.concatenate([np.ones(len(found) - len(places), np.intp), counts])
    order = np.lexsort((found["cursor"], found["kind"]))
    return Shaped(found[order], merged[order].tolist())


SHAPES: Mapping[Contract, Callable[[NDArray[np.void]], Shaped]] = {
    "lossless": as_they_are,
    "frames": by_kind,
    "trade_safe": with_newest_quotes,
}
