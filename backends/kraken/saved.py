"""Saved answers of `/0/public/Trades` -> instruments and trades, pure. See `backends/saved.py`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import msgspec

from backends.kraken import normalize, wire
from backends.kraken.instruments import Directory, read_directory
from backends.live import TradeRow
from backends.saved import SavedSeries, SavedTrades, price_tick
from marketd.errors import WireError
from marketd.model import MktPair

_UNREADABLE = (msgspec.MsgspecError, RecursionError, UnicodeDecodeError)
_TRADE = "[price, size, seconds, side, order type, misc, trade id]"


def recognise(body: bytes) -> bool:
    """See :class:`backends.saved.SavedTrades`: every answer has its errors, and all but a failed one its result."""
    try:
        wire.decode_saved(body)
    except _UNREADABLE:
        return False
    return True


def read(bodies: Sequence[bytes], metadata: Mapping[str, bytes]) -> list[SavedSeries]:
    """See :class:`backends.saved.SavedTrades`.

    Raises:
        WireError: see there.
    """
    directory = read_directory(metadata)
    found: dict[str, SavedSeries] = {}
    for body in bodies:
        for name, trades in _results(body):
            market = _market(name, directory)
            found.setdefault(market.fqme, SavedSeries(market, [])).trades.extend(_trades(name, trades))
    return [_with_tick(series) for series in found.values()]


SAVED_TRADES = SavedTrades(
    description=f'Kraken\'s /0/public/Trades, {{"error": [], "result": {{"XBTUSDT": [{_TRADE}, …], "last": "…"}}}}',
    recognise=recognise,
    read=read,
)


def _results(body: bytes) -> Iterator[tuple[str, msgspec.Raw]]:
    """Yield REST's id of each pair in an answer, and its trades."""
    try:
        answer: wire.SavedAnswer = wire.decode_saved(body)
    except _UNREADABLE as error:
        raise WireError(f"it is no answer of Kraken's REST: {error}") from error
    if answer.error:
        raise WireError(f"Kraken says {', '.join(answer.error)}")
    yield from ((name, trades) for name, trades in answer.result.items() if name != "last")


def _trades(name: str, trades: msgspec.Raw) -> list[TradeRow | bytes]:
    """Read the trades of one pair.

    Raises:
        WireError: they are no list, or none of them can be used: it is something else.
    """
    try:
        texts: list[msgspec.Raw] = wire.decode_list(trades)
    except _UNREADABLE as error:
        raise WireError(f"what it has of {name} is no list of trades: {error}") from error
    found = [_trade(text) for text in texts]
    if found and all(isinstance(trade, bytes) for trade in found):
        raise WireError(f"what it has of {name} are no trades {_TRADE}, the first is {bytes(texts[0])[:200]!r}")
    return found


def _trade(text: msgspec.Raw) -> TradeRow | bytes:
    try:
        return normalize.rest_trade(wire.decode_rest_trade(text))
    except (*_UNREADABLE, WireError):
        return bytes(text)


def _market(name: str, directory: Directory) -> MktPair:
    market = directory.find_rest(name)
    if market is None:
        raise WireError(f"nobody can tell which pair {name[:40]!r} is; a recorded AssetPairs beside the file would")
    return market


def _with_tick(series: SavedSeries) -> SavedSeries:
    """Infer what no recorded list has said; sizes have eight digits, which is the default."""
    prices = [trade[2] for trade in series.trades if not isinstance(trade, bytes)]
    if series.market.resolved or not prices:
        return series
    return series._replace(market=msgspec.structs.replace(series.market, price_tick=price_tick(prices)))
