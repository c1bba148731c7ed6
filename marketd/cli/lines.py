"""Rows as lines: JSON for programs, plain text for people whose output is no terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any

import msgspec

from marketd.cli.board import number_text
from marketd.client.bars import provenance_texts, state_texts
from marketd.client.frames import STEP_FAMILIES, family
from marketd.model import GapReason, Side
from marketd.ring.steps import IndexState

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from marketd.client.frames import Frame

_TICK = ("cursor", "event_ns", "received_ns", "sequence")
_STEP = ("cursor", "open_ns", "made_ns", "period_ns")
_VALUES = {
    "trade": ("price", "size"),
    "level": ("price", "size"),
    "quote": ("bid", "bid_size", "ask", "ask_size"),
    "gap": ("from_ns", "to_ns", "lost"),
    "status": ("code",),
    "bar": ("open", "high", "low", "close", "volume", "trade_count", "first_id", "last_id", "state", "provenance"),
    "index": ("instruments", "revised", "state"),
}


class LineOutput:
    """Prints frames as lines, flushed a frame at a time so that a pipe's other end has them at once.

    Args:
        form: makes a line of one of :func:`records`.
        rows_max: how many to print in all.
        per_second_max: how many to print in one second; further ones are left out.

    Attributes:
        rows: how many were printed.
    """

    def __init__(
        self,
        form: Callable[[dict[str, Any]], str],
        *,
        rows_max: int | None = None,
        per_second_max: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.rows = 0
        self._form = form
        self._rows_max = rows_max
        self._per_second_max = per_second_max
        self._clock = clock
        self._second = -1
        self._in_second = 0

    def apply(self, frame: Frame) -> None:
        """Print one frame, or as much of it as is still wanted."""
        lines = [self._form(record) + "\n" for record in islice(records(frame), self._room())]
        self.rows += len(lines)
        self._in_second += len(lines)
        sys.stdout.write("".join(lines))
        sys.stdout.flush()

    def _room(self) -> int | None:
        room = [] if self._rows_max is None else [self._rows_max - self.rows]
        if self._per_second_max is not None:
            if (second := int(self._clock())) != self._second:
                self._second, self._in_second = second, 0
            room.append(self._per_second_max - self._in_second)
        return min(room, default=None)


def json(record: dict[str, Any]) -> str:
    """Print one of :func:`records` for programs."""
    return msgspec.json.encode(record).decode()


def records(frame: Frame) -> Iterator[dict[str, Any]]:
    """Yield a frame's rows as what `marketd watch --json` prints, and news of a feed as a row of kind ``news``."""
    if frame.state:
        yield {"kind": "news", "feed": frame.feed, "state": frame.state, "detail": frame.detail}
        return
    sort = family(frame.kind)
    names = (*(_STEP if sort in STEP_FAMILIES else _TICK), *_VALUES.get(sort, ()))
    columns = {name: array.tolist() for name, array in (frame.columns | _texts(frame, sort)).items()}
    merged = frame.merged
    for at, instrument in enumerate(columns["instrument"]):
        record = {"fqme": frame.fqme(instrument), "kind": frame.kind, "feed": frame.feed, "epoch": frame.epoch}
        record |= {name: columns[name][at] for name in names}
        if frame.kind in ("trade", "level"):
            record["side"] = Side(columns["side"][at]).name.lower()
        elif frame.kind == "gap":
            record["reason"] = reason_text(columns["reason"][at])
        if merged is not None:
            record["merged"] = int(merged[at])
        yield record


def _texts(frame: Frame, sort: str) -> dict[str, NDArray[Any]]:
    """The columns of bars and index events that are words for programs too."""
    columns = frame.columns
    if sort == "index":
        return {"state": state_texts(columns["state"], IndexState)}
    if sort == "bar":
        return {"state": state_texts(columns["state"]), "provenance": provenance_texts(columns["flags"])}
    return {}


def text(record: dict[str, Any]) -> str:
    """Print one of :func:`records` for people: ``12:30:01.250 btc/usdt.spot.sim  trade  buy 0.5 @ 30123.4``."""
    if record["kind"] == "news":
        return f"-- {record['feed'] or 'connection'}: {record['state']} {record['detail']}".rstrip()
    time_ns = record["open_ns"] if "open_ns" in record else record["event_ns"]
    when = datetime.fromtimestamp(time_ns / 1e9, UTC).strftime("%H:%M:%S.%f")[:-3]
    return f"{when} {record['fqme']:<28} {record['kind']:<6} {_values(record)}"


def reason_text(number: int) -> str:
    """``disconnect``, ``lapped`` …; ``unknown`` for one of a newer daemon."""
    return GapReason(number).name.lower() if number in set(GapReason) else "unknown"


def _values(record: dict[str, Any]) -> str:
    match family(record["kind"]):
        case "trade" | "level":
            return f"{record['side']} {number_text(record['size'])} @ {number_text(record['price'])}"
        case "quote":
            bid, ask = (
                f"{number_text(record[side])} x {number_text(record[f'{side}_size'])}" for side in ("bid", "ask")
            )
            return f"{bid} | {ask}"
        case "bar":
            prices = " ".join(number_text(record[name]) for name in ("open", "high", "low", "close"))
            traded = f"volume {number_text(record['volume'])} in {record['trade_count']} trades"
            return f"{prices}  {traded}, {record['state']}"
        case "gap":
            lost = "unknown number of" if record["lost"] < 0 else record["lost"]
            return f"{record['reason']}, {lost} rows"
    return " ".join(f"{name}={record[name]}" for name in _VALUES.get(family(record["kind"]), ()))
