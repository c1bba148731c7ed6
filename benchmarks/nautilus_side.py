"""NautilusTrader's side of `bars.py`, run by a Python of its own: it imports nautilus_trader and nothing of ours.

    python nautilus_side.py TICKS.npy...

Each line of standard input has the number of a file and periods (``0 1-SECOND 1-MINUTE``), and is answered with the
processor seconds that its trades took. ``0 bars INSTRUMENT`` is answered with that instrument's 1 s bars as JSON:
``[open, high, low, close, volume]`` each.
"""

from __future__ import annotations

import json
import sys
import time
import warnings

import numpy as np
from nautilus_trader.common.component import TestClock
from nautilus_trader.data.aggregation import TimeBarAggregator
from nautilus_trader.model.data import BarType, TradeTick
from nautilus_trader.model.enums import AggressorSide
from nautilus_trader.model.identifiers import TradeId
from nautilus_trader.model.instruments import CurrencyPair
from nautilus_trader.model.objects import Price, Quantity
from nautilus_trader.test_kit.providers import TestInstrumentProvider

SECOND_NS = 10**9

warnings.simplefilter("ignore")  # of pandas


class Trades:
    """The trades of one file as objects, with the whole second in which each is."""

    def __init__(self, path: str) -> None:
        ticks = np.load(path)
        like = CurrencyPair.to_dict(TestInstrumentProvider.btcusdt_binance())
        self.instruments = [
            CurrencyPair.from_dict(like | {"id": f"X{n}.BINANCE", "raw_symbol": f"X{n}"})
            for n in range(int(ticks["instrument"].max()) + 1)
        ]
        self.begin_ns = int(ticks["event_ns"][0])
        self.owners = ticks["instrument"].tolist()
        self.seconds = (ticks["event_ns"] // SECOND_NS).tolist()
        self.trades = [
            TradeTick(
                self.instruments[owner].id,
                Price(price, 2),
                Quantity(size, 6),
                AggressorSide.BUYER,
                TradeId(str(number)),
                event_ns,
                event_ns,
            )
            for number, (owner, price, size, event_ns) in enumerate(
                zip(
                    self.owners,
                    ticks["price"].tolist(),
                    ticks["size"].tolist(),
                    ticks["event_ns"].tolist(),
                    strict=True,
                )
            )
        ]

    def run(self, periods: list[str]) -> tuple[float, list[list]]:
        """Give all trades to aggregators of these periods; return processor seconds, and bars by instrument."""
        clock = TestClock()
        clock.set_time(self.begin_ns)
        bars: list[list] = [[] for _ in self.instruments]
        handlers = [[] for _ in self.instruments]
        for number, instrument in enumerate(self.instruments):
            for period in periods:
                aggregator = TimeBarAggregator(
                    instrument,
                    BarType.from_str(f"{instrument.id}-{period}-LAST-INTERNAL"),
                    bars[number].append,
                    clock,
                    interval_type="right-open",
                    timestamp_on_close=False,
                    build_with_no_updates=False,
                )
                aggregator.start_timer()
                handlers[number].append(aggregator.handle_trade_tick)
        began_s = time.process_time()
        reached = self.seconds[0]
        for owner, second, trade in zip(self.owners, self.seconds, self.trades, strict=True):
            if second != reached:
                reached = second
                advance(clock, second * SECOND_NS)
            for handle in handlers[owner]:
                handle(trade)
        took_s = time.process_time() - began_s
        advance(clock, (reached + 1) * SECOND_NS)
        return took_s, bars


def advance(clock: TestClock, now_ns: int) -> None:
    """Let the timers be due that are; a bar ends with its timer."""
    for event in clock.advance_time(now_ns):
        event.handle()


def main() -> None:
    """Answer each line of standard input."""
    files = [Trades(path) for path in sys.argv[1:]]
    for line in sys.stdin:
        number, *wanted = line.split()
        if wanted[0] == "bars":
            _, bars = files[int(number)].run(["1-SECOND"])
            found = [
                [float(bar.open), float(bar.high), float(bar.low), float(bar.close), float(str(bar.volume))]
                for bar in bars[int(wanted[1])]
            ]
            print(json.dumps(found), flush=True)
        else:
            print(files[int(number)].run(wanted)[0], flush=True)


if __name__ == "__main__":
    main()
