"""Bars as one answer: what was asked for, as arrays and as other libraries' tables."""

from __future__ import annotations

from enum import IntEnum
from importlib import import_module
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from marketd.client.errors import PackageMissing, ProtocolError
from marketd.client.layouts import reads_steps
from marketd.client.times import Time, to_ns
from marketd.model import Flag
from marketd.ring import steps
from marketd.ring.steps import BarState
from marketd.rpc import messages

if TYPE_CHECKING:
    import pandas
    import polars
    import pyarrow

COLUMNS = ("open_ns", "open", "high", "low", "close", "volume", "trade_count", "state", "provenance")

_UNITS = {"open_ns": "ns"}


def bars_params(
    server: messages.HelloResult,
    fqme: str,
    period: str,
    start: Time | None,
    end: Time | None,
    limit: int | None,
    order: messages.Order,
) -> messages.BarsParams:
    """Ask for bars, as rows if this version can read the server's.

    Raises:
        ValueError: a time is none.
    """
    params = messages.BarsParams(
        fqme,
        period,
        start_ns=None if start is None else to_ns(start),
        end_ns=None if end is None else to_ns(end),
        order=order,
        format="rows" if reads_steps(server) else "columns",
    )
    return params if limit is None else msgspec.structs.replace(params, limit=limit)


class BarSeries(msgspec.Struct, frozen=True, eq=False):
    """Bars of one instrument and period, in order of time.

    Attributes:
        fqme, feed, period: of what, in the daemon's spelling.
        period_ns: the length of a bar; 0 where no period ends it.
        rows: structured array, shape ``(n,)``, dtype ``marketd.ring.steps.BAR``; prices are NaN where nobody knows any.
        missing: ranges ``(from_ns, to_ns)`` of what was asked for, the end not included, without a whole bar.
        complete_until_ns: bars that end later are still forming.
        limited: there are more bars than came.
    """

    fqme: str
    feed: str
    period: str
    period_ns: int
    rows: NDArray[np.void]
    missing: list[tuple[int, int]]
    complete_until_ns: int
    limited: bool

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def columns(self) -> dict[str, NDArray[Any]]:
        """The columns :data:`COLUMNS`, times and counts as integers, ``state`` and ``provenance`` as text."""
        found = {name: self.rows[name] for name in COLUMNS[:-2]}
        return found | {"state": state_texts(self.rows["state"]), "provenance": provenance_texts(self.rows["flags"])}

    def to_polars(self) -> polars.DataFrame:
        """Return the columns as a polars data frame, null where nobody knows a price.

        Raises:
            PackageMissing: there is no polars here.
        """
        frame: polars.DataFrame = _import("polars").DataFrame(self.columns, nan_to_null=True)
        return frame

    def to_pandas(self) -> pandas.DataFrame:
        """Return the columns as a pandas data frame, NaN where nobody knows a price.

        Raises:
            PackageMissing: there is no pandas here.
        """
        return _import("pandas").DataFrame(self.columns)

    def to_arrow(self) -> pyarrow.Table:
        """Return the columns as an Arrow table, null where nobody knows a price.

        The schema's metadata have ``fqme`` and ``period``, those of the field ``open_ns`` its ``unit``.

        Raises:
            PackageMissing: there is no pyarrow here.
        """
        arrow = _import("pyarrow")
        arrays = {name: arrow.array(array, from_pandas=True) for name, array in self.columns.items()}
        fields = [
            arrow.field(name, array.type, metadata={"unit": _UNITS[name]} if name in _UNITS else None)
            for name, array in arrays.items()
        ]
        schema = arrow.schema(fields, metadata={"fqme": self.fqme, "period": self.period})
        return arrow.table(list(arrays.values()), schema=schema)


def series_of(answer: messages.BarsResult) -> BarSeries:
    """Read the answer to :func:`bars_params`.

    Raises:
        ProtocolError: its bytes are not whole rows.
    """
    if len(answer.data) % steps.STEP_BYTES:
        raise ProtocolError(f"{len(answer.data)} bytes are not whole rows of {steps.STEP_BYTES} bytes")
    rows = np.frombuffer(answer.data, steps.BAR)
    if answer.columns:
        rows = np.zeros(len(next(iter(answer.columns.values()))), steps.BAR)
        for name in set(answer.columns) & set(steps.BAR.names or ()):
            rows[name] = np.array(answer.columns[name], steps.BAR[name])  # None becomes NaN
    return BarSeries(
        answer.fqme,
        answer.feed,
        answer.period,
        answer.period_ns,
        rows,
        answer.missing,
        answer.complete_until_ns,
        answer.limited,
    )


def state_texts(states: NDArray[np.uint8], names: type[IntEnum] = BarState) -> NDArray[np.str_]:
    """``forming``, ``closed``, ``revised``, ``missing``; empty for a state of a later version."""
    texts = np.full(256, "", "U8")
    for state in names:
        texts[state] = state.name.lower()
    return texts[states]


def provenance_texts(flags: NDArray[np.uint16]) -> NDArray[np.str_]:
    """Where bars come from: ``observed``, ``backfilled``, or ``synthetic``: nothing was traded, nothing was missed."""
    return np.select(
        [flags & Flag.BACKFILLED != 0, flags & Flag.SYNTHETIC != 0], ["backfilled", "synthetic"], "observed"
    )


def _import(package: str) -> Any:  # noqa: ANN401 - a module
    try:
        return import_module(package)
    except ModuleNotFoundError as error:
        raise PackageMissing(package) from error
