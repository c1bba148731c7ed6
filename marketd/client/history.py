"""History as one answer: bars of one or many instruments, as they came, and as other libraries' tables."""

from __future__ import annotations

import time
import warnings
from datetime import datetime, timedelta
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, get_args

import msgspec

from marketd.client.errors import BarsMissing, PackageMissing, TicksMissing
from marketd.client.times import Time, to_ns
from marketd.rpc import messages

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    import pandas
    import polars
    import pyarrow
    from numpy.typing import NDArray

TickKind = Literal["trade", "quote"]
TableKind = Literal["polars", "pyarrow", "pandas", "numpy"]

HISTORY_TIMEOUT_S = 600.0
DAY_NS = 86_400 * 10**9


def history_params(
    instruments: str | Sequence[str],
    period: str,
    start: Time | None,
    end: Time | None,
    limit: int | None,
    order: messages.Order,
    columns: Sequence[str] | None,
) -> messages.HistoryParams:
    """Ask for history.

    Raises:
        ValueError: a time is none.
    """
    return messages.HistoryParams(
        [instruments] if isinstance(instruments, str) else list(instruments),
        period,
        start_ns=None if start is None else to_ns(start),
        end_ns=None if end is None else to_ns(end),
        limit=limit,
        order=order,
        columns=None if columns is None else list(columns),
    )


def ticks_params(
    instruments: str | Sequence[str],
    kind: TickKind,
    start: Time | None,
    end: Time | None,
    limit: int | None,
    order: messages.Order,
    columns: Sequence[str] | None,
) -> messages.TicksParams:
    """Ask for ticks. Raises ValueError: a time is none."""
    bars = history_params(instruments, "1m", start, end, limit, order, columns)
    return messages.TicksParams(
        bars.instruments, kind, bars.start_ns, bars.end_ns, bars.limit, bars.order, bars.columns
    )


def coverage_params(fqme: str, period: str, start: Time | None, end: Time | None) -> messages.CoverageParams:
    """Ask what is known of a stored series. Raises ValueError: a time is none."""
    return messages.CoverageParams(
        fqme, period, None if start is None else to_ns(start), None if end is None else to_ns(end)
    )


def backfill_params(fqme: str, period: str, start: Time | None, end: Time | None) -> messages.BackfillParams:
    """Ask for a backfill, of the last day where no start is given. Raises ValueError: a time is none."""
    start_ns = time.time_ns() - DAY_NS if start is None else to_ns(start)
    return messages.BackfillParams(fqme, start_ns, None if end is None else to_ns(end), period)


class History(msgspec.Struct, frozen=True, eq=False):
    """Bars of some instruments and one period, or ticks of one kind, each in order of time.

    Attributes:
        period, period_ns: of the bars; of ticks their kind, and 0.
        series: what each instrument had: ``fqme``, ``rows``, ``complete_until_ns``, ``missing``, ``limited``.
        streams: by instrument, an Arrow IPC stream.
    """

    period: str
    period_ns: int
    series: list[messages.HistorySeries]
    streams: Mapping[str, bytes]

    def __len__(self) -> int:
        return sum(series.rows for series in self.series)

    @property
    def missing(self) -> dict[str, list[tuple[int, int]]]:
        """By instrument, ranges ``(from_ns, to_ns)`` without a whole bar, or of which ticks may be missing."""
        return {series.fqme: series.missing for series in self.series if series.missing}

    def to_polars(self, *, instrument: bool | None = None) -> polars.DataFrame:
        """Return a polars data frame; of several instruments with a column ``instrument``.

        Args:
            instrument: whether there is that column, however many there are.

        Raises:
            PackageMissing: there is no polars here.
        """
        pl = _import("polars")
        frames = {fqme: _read(data) for fqme, data in self.streams.items()}
        if instrument is False or (instrument is None and len(self.series) == 1):
            found: polars.DataFrame = pl.concat(frames.values())
            return found
        names = pl.Enum(sorted(frames))
        named = [
            frame.select(pl.lit(fqme, names).alias("instrument"), pl.all()) for fqme, frame in sorted(frames.items())
        ]
        found = pl.concat(named) if named else pl.DataFrame({"instrument": []})
        return found  # noqa: RET504 - whose type is said above

    def to_arrow(self) -> pyarrow.Table:
        """Return an Arrow table, as :meth:`to_polars` does. Raises PackageMissing: there is no polars or pyarrow."""
        _import("pyarrow")
        return self.to_polars().to_arrow()

    def to_pandas(self) -> pandas.DataFrame:
        """Return a pandas data frame, as :meth:`to_polars` does. Raises PackageMissing: there is no pandas here."""
        frame = self.to_polars()
        return _import("pandas").DataFrame({name: frame[name].to_numpy() for name in frame.columns})

    def to_numpy(self) -> dict[str, NDArray[np.generic]]:
        """Return an array for each column of :meth:`to_polars`."""
        frame = self.to_polars()
        return {name: frame[name].to_numpy() for name in frame.columns}


def table_of(history: History, to: TableKind) -> Any:  # noqa: ANN401 - which of four libraries' is the caller's choice
    """Make a table, and warn of what is missing in it.

    Raises:
        ValueError: there are no such tables.
        PackageMissing: the library is not here.
    """
    if to not in get_args(TableKind):
        raise ValueError(f"to={to!r}: it is one of {', '.join(get_args(TableKind))}")
    for fqme, missing in history.missing.items():
        first = " to ".join(str(_time(time_ns)) for time_ns in missing[0])
        more = f" and {len(missing) - 1} more ranges" if len(missing) > 1 else ""
        if history.period_ns:
            text = f"{fqme} {history.period}: no whole bars from {first} UTC{more}; `history` names them all"
            warnings.warn(BarsMissing(text), stacklevel=3)
        else:
            text = f"{fqme} {history.period}: some may be missing from {first} UTC{more}; `tick_history` names them all"
            warnings.warn(TicksMissing(text), stacklevel=3)
    method = history.to_arrow if to == "pyarrow" else getattr(history, f"to_{to}")
    return method()


def _time(time_ns: int) -> datetime:
    """Return a time to the microsecond, in UTC without saying so."""
    return datetime(1970, 1, 1) + timedelta(microseconds=time_ns // 1000)


def _read(stream: bytes) -> polars.DataFrame:
    """Read an Arrow IPC stream; with pyarrow, where that is here, without copying it."""
    pl = _import("polars")
    try:
        ipc = import_module("pyarrow.ipc")
    except ModuleNotFoundError:
        found: polars.DataFrame = pl.read_ipc_stream(stream)
    else:
        found = pl.from_arrow(ipc.open_stream(stream).read_all().replace_schema_metadata(None))
    return found


def history_of(
    answer: messages.HistoryResult | messages.TicksResult, batches: Mapping[str, list[memoryview]]
) -> History:
    """Put an answer and the batches that came before it together."""
    streams = {fqme: b"".join(data) for fqme, data in batches.items()}
    if isinstance(answer, messages.TicksResult):
        return History(answer.kind, 0, answer.series, streams)
    return History(answer.period, answer.period_ns, answer.series, streams)


def _import(package: str) -> Any:  # noqa: ANN401 - a module
    try:
        return import_module(package)
    except ModuleNotFoundError as error:
        raise PackageMissing(package) from error
