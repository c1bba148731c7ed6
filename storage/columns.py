"""Which of a file's columns is which. Pure. What may be one of two is refused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from marketd.errors import InputError
from storage.schema import BARS

REQUIRED = ("open_ns", "open", "high", "low", "close", "volume")

_USUAL = {
    "open_ns": (
        *("open_ns", "open_time", "open time", "time", "timestamp", "timestamp_utc", "time_utc", "date", "datetime"),
        *("datetime_utc", "ts", "t", "epoch", "unix", "ts_event"),
    ),
    "open": ("open", "o", "open_price"),
    "high": ("high", "h", "high_price"),
    "low": ("low", "l", "low_price"),
    "close": ("close", "c", "close_price"),
    "volume": ("volume", "vol", "v", "base_volume"),
    "trade_count": ("trade_count", "trades", "n", "num_trades", "number_of_trades", "number of trades"),
}


def choose(names: Sequence[str], given: Mapping[str, str]) -> dict[str, str]:
    """Return the file's column of each of ours that it has.

    Args:
        names: of the file's columns.
        given: what the file's owner says, ours by theirs: ``{"volume": "vol_base"}``.

    Raises:
        InputError: one is not there, or it may be one of two.
    """
    for ours, theirs in given.items():
        if ours not in BARS.arrow.names:
            raise InputError(f"there is no column {ours!r} of bars: there are {', '.join(BARS.arrow.names)}")
        if theirs not in names:
            raise InputError(f"the file has no column {theirs!r}: it has {', '.join(names)}")
    chosen = dict(given)
    for ours in BARS.arrow.names:
        if ours in given:
            continue
        usual = _USUAL.get(ours, (ours,))
        found = [name for name in names if name.strip().lower() in usual and name not in given.values()]
        if len(found) > 1:
            raise InputError(f"{ours} may be {' or '.join(found)}: say which with --columns {ours}={found[0]}")
        if found:
            chosen[ours] = found[0]
    if lacking := [ours for ours in REQUIRED if ours not in chosen]:
        raise InputError(
            f"no column is called as {lacking[0]} usually is; the file has {', '.join(names)}: "
            f"say which with --columns {lacking[0]}=NAME"
        )
    return chosen


def parse_given(texts: Iterable[str]) -> dict[str, str]:
    """Read ``open_ns=timestamp,volume=vol``, what :func:`choose` is given.

    Raises:
        InputError: it is something else.
    """
    given: dict[str, str] = {}
    for pair in (pair for text in texts for pair in text.split(",")):
        ours, equals, theirs = pair.partition("=")
        if not equals or not ours or not theirs or ours in given:
            raise InputError(f"--columns {pair!r}: OURS=THEIRS is meant, each of ours once, as in open_ns=timestamp")
        given[ours.strip()] = theirs.strip()
    return given
