"""What every store must do. `test_stores.py` applies it; a new backend is one more case there.

Each check takes a function that opens the same store anew, and fails with an assertion that says what is wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import polars as pl
import pytest

from marketd.errors import Overlap, SeriesBusy, StorageError
from storage import coverage
from storage.client import StorageClient
from storage.combine import OnOverlap
from storage.coverage import State
from storage.layout import Series
from storage.schema import BARS, Provenance
from storage.writer import Written
from tests.store_rows import DAY_NS, MINUTE_NS, T0_NS, bars, opens, trades

Open = Callable[[], AbstractContextManager[StorageClient]]

BTC = Series("btc/usdt.spot.binance", "1m")
TRADES = Series("btc/usdt.spot.binance", "trade")
EMPTY = BARS.polars.to_frame()


def write(open_store: Open, series: Series, rows: pl.DataFrame, on_overlap: OnOverlap = OnOverlap.REFUSE) -> Written:
    with open_store() as store, store.writer(series) as writer:
        return writer.write(rows, on_overlap)


def read(open_store: Open, series: Series = BTC, *arguments, **options) -> pl.DataFrame:
    with open_store() as store:
        return store.read(series, *arguments, **options)


def check_rows_come_back_as_they_were(open_store: Open) -> None:
    """D2: in any order in, in order of time out, over many partitions and openings."""
    rows = bars(range(-3000, 3000))
    assert write(open_store, BTC, rows.sample(fraction=1, shuffle=True, seed=1)) == Written(6000, 0, 0)
    assert read(open_store).equals(rows)
    late = bars([5000])
    write(open_store, BTC, late)
    assert read(open_store).equals(pl.concat([rows, late]))
    with open_store() as store:
        facts = store.facts(BTC)
        assert (facts.rows, facts.start_ns) == (6001, T0_NS - 3000 * MINUTE_NS)
        assert facts.end_ns == T0_NS + 5001 * MINUTE_NS
        assert store.series() == [BTC]


def check_ticks_are_kept_too(open_store: Open) -> None:
    """Several at one time; those with a sequence once each, those without one as they came through the ring."""
    rows = trades((0, 7, 1.0), (0, 8, 1.0), (5, 0, 2.0), (5, 0, 2.0), (DAY_NS, 9, 3.0))
    assert write(open_store, TRADES, rows) == Written(5, 0, 0)
    assert write(open_store, TRADES, rows, OnOverlap.KEEP) == Written(0, 0, 5)
    numbered = rows.filter(pl.col("sequence") > 0)
    refetched = numbered.with_columns(cursor=pl.lit(0), received_ns=pl.col("received_ns") + 1)
    assert write(open_store, TRADES, refetched, OnOverlap.KEEP) == Written(0, 0, 3)
    assert read(open_store, TRADES).equals(rows)


def check_ranges_are_half_open(open_store: Open) -> None:
    """R66: never a row before the start, nor at the end; over a hole as well."""
    write(open_store, BTC, bars([*range(10), *range(2000, 2010)]))
    for start, end in ((0, 10), (3, 4), (4, 4), (9, 2001), (10, 2000), (-5, 1), (2009, 2010), (2009, 9999)):
        found = opens(read(open_store, BTC, T0_NS + start * MINUTE_NS, T0_NS + end * MINUTE_NS))
        assert found == [n for n in (*range(10), *range(2000, 2010)) if start <= n < end]
        shifted = opens(read(open_store, BTC, T0_NS + start * MINUTE_NS + 1, T0_NS + end * MINUTE_NS + 1))
        assert shifted == [n for n in (*range(10), *range(2000, 2010)) if start < n <= end]


def check_before_the_first_record_is_nothing(open_store: Open) -> None:
    """R70: an end before the earliest record gives an empty frame, as does a series that is not there."""
    assert read(open_store).equals(EMPTY)
    write(open_store, BTC, bars(range(10)))
    assert read(open_store, BTC, None, T0_NS).equals(EMPTY)
    assert read(open_store, BTC, 0, T0_NS - 10**9).equals(EMPTY)
    assert read(open_store, BTC, T0_NS + DAY_NS).equals(EMPTY)
    assert read(open_store, Series("eth/usdt.spot.binance", "1m")).equals(EMPTY)
    assert read(open_store, BTC, None, T0_NS, columns=["close"]).columns == ["close"]


def check_bounds_of_any_sort(open_store: Open) -> None:
    """R71: int and float seconds, datetimes and nanoseconds mean the same; what may mean two things is refused."""
    write(open_store, BTC, bars(range(10)))
    second = T0_NS // 10**9
    moment = datetime.fromtimestamp(second, UTC)
    for start, end in (
        (second, second + 120),
        (float(second), second + 120.0),
        (T0_NS, T0_NS + 2 * MINUTE_NS),
        (np.int64(T0_NS), np.datetime64("2024-01-05T00:02")),
        (moment, moment + timedelta(minutes=2)),
        (moment.astimezone(timezone(timedelta(hours=9))), moment.replace(tzinfo=None) + timedelta(minutes=2)),
    ):
        assert opens(read(open_store, BTC, start, end)) == [0, 1]
    for wrong in (
        second * 1000,
        second * 10**6 // 1000,
        float("nan"),
        float(T0_NS),
        True,
        "2024-01-05",
        1 << 63,
        datetime(1600, 1, 1),
    ):
        with pytest.raises(ValueError, match=r"time|since 1970"):
            read(open_store, BTC, wrong)


def check_limits_and_columns(open_store: Open) -> None:
    """The newest rows or the oldest ones, in order of time either way, and the columns that are asked for."""
    write(open_store, BTC, bars(range(3000)))
    assert opens(read(open_store, limit=3)) == [2997, 2998, 2999]
    assert opens(read(open_store, limit=3, newest=False)) == [0, 1, 2]
    assert opens(read(open_store, limit=2000)) == list(range(1000, 3000))
    assert opens(read(open_store, BTC, None, T0_NS + 9 * MINUTE_NS, limit=2)) == [7, 8]
    assert read(open_store, limit=0).equals(EMPTY)
    assert read(open_store, columns=["close", "open_ns"], limit=1).columns == ["close", "open_ns"]
    assert read(open_store, columns=["close"], limit=1).columns == ["close"]
    with pytest.raises(StorageError, match="no column 'vwap'"):
        read(open_store, columns=["vwap"])


def check_the_second_run_writes_what_is_new_and_the_third_nothing(open_store: Open) -> None:
    """R64: the whole array into a store without the series, then the ends that are new, then nothing."""
    assert write(open_store, BTC, bars(range(100, 200)), OnOverlap.KEEP) == Written(100, 0, 0)
    assert write(open_store, BTC, bars(range(50, 250)), OnOverlap.KEEP) == Written(100, 0, 100)
    assert write(open_store, BTC, bars(range(50, 250)), OnOverlap.KEEP) == Written(0, 0, 200)
    assert write(open_store, BTC, bars(range(50, 250)), OnOverlap.REPLACE) == Written(0, 0, 200)
    assert read(open_store).equals(bars(range(50, 250)))


def check_no_bar_is_there_twice(open_store: Open) -> None:
    """R69: who wins is said, and where nobody says it nothing is written."""
    write(open_store, BTC, bars(range(1500)))
    with pytest.raises(Overlap, match="1 rows of 2024-01-06 are stored already"):
        write(open_store, BTC, bars([1499, 1600], 200.0))
    assert read(open_store).equals(bars(range(1500)))
    assert write(open_store, BTC, bars(range(1490, 1510), 200.0), OnOverlap.KEEP) == Written(10, 0, 10)
    assert read(open_store).equals(pl.concat([bars(range(1500)), bars(range(1500, 1510), 200.0)]))
    assert write(open_store, BTC, bars(range(1490, 1510), 300.0), OnOverlap.REPLACE) == Written(0, 20, 0)
    assert read(open_store).equals(pl.concat([bars(range(1490)), bars(range(1490, 1510), 300.0)]))
    with pytest.raises(StorageError, match="two of one key"):
        write(open_store, BTC, bars([2000, 2000]))


def check_wrong_rows_are_refused_whole(open_store: Open) -> None:
    """Nothing of a write with one bad row is stored."""
    good = bars(range(10))
    at = pl.int_range(pl.len()) == 7
    for column, value, words in (
        ("open_ns", T0_NS + 1, "no whole multiple of 1m"),
        ("high", 0.0, "high is below low"),
        ("close", float("nan"), "close is no finite number"),
        ("volume", -1.0, "volume is below 0"),
        ("state", 1, "not over"),
    ):
        with pytest.raises(StorageError, match=words):
            write(open_store, BTC, good.with_columns(pl.when(at).then(value).otherwise(pl.col(column)).alias(column)))
    with pytest.raises(StorageError, match="lack close and have vwap"):
        write(open_store, BTC, good.rename({"close": "vwap"}))
    with open_store() as store:
        assert store.series() == []


def check_both_forms_of_a_name_are_one_series(open_store: Open) -> None:
    """R73: with and without a fiat that is paid with; not so for what is no fiat, and not with two currencies."""
    for first, second in (("mnq.cme.ib", "mnq/usd.cme.ib"), ("es/usd.cme.ib", "es.cme.ib")):
        write(open_store, Series(first, "1m"), bars(range(10)))
        assert opens(read(open_store, Series(second, "1m"))) == list(range(10))
        write(open_store, Series(second, "1m"), bars(range(10, 20)))
        assert opens(read(open_store, Series(first.upper(), "1m"))) == list(range(20))
    write(open_store, Series("mnq/eur.cme.ib", "1m"), bars([99]))
    assert opens(read(open_store, Series("mnq/usd.cme.ib", "1m"))) == list(range(20))
    with pytest.raises(StorageError, match=r"mnq.cme.ib may be mnq/eur.cme.ib or mnq/usd.cme.ib"):
        read(open_store, Series("mnq.cme.ib", "1m"))
    write(open_store, BTC, bars([1]))
    assert read(open_store, Series("btc.spot.binance", "1m")).is_empty()


def check_unknown_names_make_no_file(open_store: Open) -> None:
    """R76: who asks for what is not there, or is no name, leaves nothing behind."""
    with open_store() as store:
        nothing = Series("no/thing.here.atall", "1m")
        assert store.read(nothing).is_empty()
        assert store.facts(nothing) is None
        assert store.coverage(nothing) == ()
        assert store.check(nothing) == []
        for wrong in (Series("btcusdt", "1m"), Series("../x.y", "1m"), Series(BTC.fqme, "2y"), Series(BTC.fqme, "..")):
            with pytest.raises(StorageError):
                store.read(wrong)
            with pytest.raises(StorageError), store.writer(wrong):
                pass
        assert store.series() == []


def check_there_is_one_writer(open_store: Open) -> None:
    """D1: another one is told so, while readers read and other series are written."""
    with open_store() as store, store.writer(BTC) as writer:
        writer.write(bars([1]))
        with pytest.raises(SeriesBusy, match="another writer"), open_store() as other, other.writer(BTC):
            pass
        with store.writer(TRADES) as second:
            second.write(trades((0, 1, 1.0)))
        assert opens(read(open_store)) == [1]
    write(open_store, BTC, bars([2]))


def check_coverage_is_remembered(open_store: Open) -> None:
    """What bars follow each other in is complete; what a venue has nothing of is empty; the rest is missing."""
    with open_store() as store, store.writer(BTC) as writer:
        missing_bar = bars([5]).with_columns(state=pl.lit(4, pl.UInt8))
        writer.write(pl.concat([bars(range(5)), missing_bar, bars(range(6, 8))]), provenance=Provenance.BACKFILLED)
        writer.mark([(T0_NS + 8 * MINUTE_NS, T0_NS + 10 * MINUTE_NS)], State.EMPTY, Provenance.BACKFILLED)
        writer.set_calendar("CME_FX")
    with open_store() as store:
        held = store.coverage(BTC)
        assert store.facts(BTC).calendar == "CME_FX"
    minutes = [((s.start_ns - T0_NS) // MINUTE_NS, (s.end_ns - T0_NS) // MINUTE_NS, s.state) for s in held]
    assert minutes == [(0, 5, State.COMPLETE), (6, 8, State.COMPLETE), (8, 10, State.EMPTY)]
    wanted = (T0_NS - MINUTE_NS, T0_NS + 12 * MINUTE_NS)
    missing = [((a - T0_NS) // MINUTE_NS, (b - T0_NS) // MINUTE_NS) for a, b in coverage.missing(held, *wanted)]
    assert missing == [(-1, 0), (5, 6), (10, 12)]


def check_trimming_removes_the_range_and_what_was_known_of_it(open_store: Open) -> None:
    """R72, but for the memory it takes."""
    write(open_store, BTC, bars(range(-2000, 4000)))
    span = (T0_NS - 10 * MINUTE_NS, T0_NS + 3000 * MINUTE_NS)
    with open_store() as store, store.writer(BTC) as writer:
        assert writer.trim(span) == 3010
        assert writer.trim(span) == 0
    assert opens(read(open_store)) == [*range(-2000, -10), *range(3000, 4000)]
    with open_store() as store:
        assert coverage.missing(store.coverage(BTC), *span) == [span]
        assert store.check(BTC) == []


def check_deletion_leaves_nothing(open_store: Open) -> None:
    """D4, D5: the rows and what was known of them are gone, and the others' are not."""
    write(open_store, BTC, bars(range(2000)))
    write(open_store, TRADES, trades((0, 1, 1.0)))
    with open_store() as store, store.writer(BTC) as writer:
        writer.delete()
    with open_store() as store:
        assert store.series() == [TRADES]
        assert store.read(BTC).is_empty()
        assert store.coverage(BTC) == ()
    write(open_store, BTC, bars([3]))
    assert opens(read(open_store)) == [3]


def check_merging_changes_no_row(open_store: Open) -> None:
    """Nor where later writes and trims go."""
    write(open_store, BTC, bars(range(-6000, 6000)))
    before = read(open_store)
    with open_store() as store, store.writer(BTC) as writer:
        held = writer.coverage
        assert writer.merge(T0_NS + 800 * DAY_NS) > 0
        assert writer.coverage == held
        assert writer.merge(T0_NS + 800 * DAY_NS) == 0
    assert read(open_store).equals(before)
    assert write(open_store, BTC, bars(range(5990, 6010), 7.0), OnOverlap.KEEP) == Written(10, 0, 10)
    with open_store() as store, store.writer(BTC) as writer:
        assert writer.trim((0, T0_NS)) == 6000
        assert store.check(BTC) == []
    assert opens(read(open_store)) == list(range(6010))


CHECKS = [function for name, function in sorted(globals().items()) if name.startswith("check_")]
