from __future__ import annotations

from collections import Counter, defaultdict
from itertools import pairwise

import msgspec
import numpy as np
import pytest
import trio
import trio.testing

from backends.backend import load
from backends.recording import RecordingWriter
from backends.replay.source import ReplayConfig, ReplaySource
from backends.sim.config import Outage, SimConfig
from backends.sim.instruments import market_of, names_of
from backends.sim.market import Market
from backends.sim.sessions import Session
from backends.sim.source import LATE_NS_MAX, SimSource
from marketd.clock import SECOND_NS
from marketd.model import Flag, GapReason, Kind, Quality, Side
from tests.fakes import FakeClock, ListSink

MIDNIGHT_NS = 1_767_225_600 * SECOND_NS
NOW_NS = MIDNIGHT_NS + 300_000_000


async def run(config, seconds, *, now_ns=NOW_NS, sink=None, script=None):
    """Run a sim for some seconds of a clock that jumps; the script is told the source and the clock first."""
    clock = FakeClock(now_ns, jumps=True, until_ns=now_ns + round(seconds * SECOND_NS))
    source, sink = SimSource(config, clock), sink or ListSink()
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(source.run, sink)
            if script is not None:
                await script(source, clock)
            await trio.testing.wait_all_tasks_blocked()
            clock.advance_to(now_ns + round(seconds * SECOND_NS))
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    return sink


def fresh(rows):
    """Without the snapshot that stands at the beginning."""
    return [row for row in rows if not row[6] & Flag.SNAPSHOT]


@pytest.mark.parametrize("rate_hz", [1, 3, 200, 20_000])
async def test_rate_is_kept(rate_hz):
    sink = await run(SimConfig(rate_hz=rate_hz, instruments=4), 9.7)
    assert len(fresh(sink.data)) == pytest.approx(rate_hz * 9.7, rel=0.02, abs=2)
    assert sink.published == len(sink.rows)


async def test_same_seed_gives_the_same_rows_whatever_the_pacing():
    config = SimConfig(rate_hz=500)
    smooth = await run(config, 5)
    held = ListSink()
    clock = FakeClock(NOW_NS)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(SimSource(config, clock).run, held)
        for step_s in (0.001, 2.0, 0.5, 2.499):
            await trio.testing.wait_all_tasks_blocked()
            clock.advance(step_s)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()

    def without_receive_time(rows):
        return [(row[0], *row[2:]) for row in rows]

    assert without_receive_time(held.rows) == without_receive_time(smooth.rows)


async def test_other_seed_is_another_venue():
    one, other = await run(SimConfig(seed=1), 1), await run(SimConfig(seed=2), 1)
    assert {row[7] for row in fresh(one.data)}.isdisjoint({row[7] for row in fresh(other.data)})


async def test_zero_timeline_has_the_same_values_whenever_it_begins():
    config = SimConfig(timeline="zero", rate_hz=300)
    one = await run(config, 3)
    other = await run(config, 3, now_ns=NOW_NS + 123_456 * SECOND_NS)
    assert [(row[0] - MIDNIGHT_NS, *row[2:]) for row in one.rows] == [
        (row[0] - MIDNIGHT_NS - 123_456 * SECOND_NS, *row[2:]) for row in other.rows
    ]
    assert min(row[2] for row in one.data if row[4] == Kind.TRADE) == 1


async def test_feed_that_starts_again_sees_the_venue_go_on():
    config = SimConfig(rate_hz=400)
    whole = fresh((await run(config, 6)).data)
    later_ns = NOW_NS + 4 * SECOND_NS
    successor = fresh((await run(config, 2, now_ns=later_ns)).data)
    missed = [row for row in whole if row[0] > later_ns]
    assert [(row[0], *row[2:]) for row in successor] == [(row[0], *row[2:]) for row in missed]


async def test_rows_are_those_of_a_market():
    sink = await run(SimConfig(rate_hz=2_000, instruments=5), 4)
    quotes = {}
    ids = defaultdict(list)
    for row in sink.data:
        market = sink.markets[row[3] - 1]
        if row[4] == Kind.QUOTE:
            bid, bid_size, ask, ask_size = row[7:]
            assert 0 < bid < ask
            quotes[row[3]] = (bid, ask)
        else:
            price, size = row[7:9]
            bid, ask = quotes[row[3]]
            assert price == (ask if row[5] == Side.BUY else bid), "a trade happens at the last bid or ask"
            ids[row[3]].append(row[2])
            bid_size = ask_size = size
        for value in row[7:] if row[4] == Kind.QUOTE else row[7:8]:
            assert value > 0
        for price in quotes[row[3]]:
            assert float(market.quantize_price(price)) == price, "prices are multiples of the tick, to the last bit"
        for size in (bid_size, ask_size):
            assert float(market.quantize_size(size)) == size
    assert len(ids) == 5
    for numbers in ids.values():
        assert all(after == before + 1 for before, after in pairwise(numbers)), "trade ids have no holes"


async def test_times_ascend_and_nothing_comes_before_it_happened():
    sink = await run(SimConfig(rate_hz=5_000, bursts=0.9), 2)
    events = [row[0] for row in fresh(sink.data)]
    assert events == sorted(events)
    assert all(row[0] <= row[1] for row in sink.rows)
    assert all(row[1] - row[0] <= 10_000_000 for row in fresh(sink.data)), "no row waits longer than a batch"


async def test_feed_begins_with_the_quotes_as_they_stand():
    sink = await run(SimConfig(rate_hz=1, instruments=30), 0.01)
    snapshot = [row for row in sink.rows if row[6] & Flag.SNAPSHOT]
    assert [row[3] for row in snapshot] == list(range(1, 31))
    assert {row[4] for row in snapshot} == {Kind.QUOTE}
    assert all(row[0] <= NOW_NS for row in snapshot)


async def test_trade_share_and_bursts_do_what_they_say():
    quotes_only = await run(SimConfig(trade_share=0.0), 3)
    assert {row[4] for row in quotes_only.data} == {Kind.QUOTE}

    def busiest_tenth(sink):
        tenths = Counter(row[0] % SECOND_NS // 100_000_000 for row in fresh(sink.data))
        return max(tenths.values()) / sum(tenths.values())

    even, bursts = (
        await run(SimConfig(rate_hz=2_000, bursts=0.0), 3),
        await run(SimConfig(rate_hz=2_000, bursts=0.95), 3),
    )
    assert busiest_tenth(even) < 0.12
    assert busiest_tenth(bursts) > 0.24


def test_prices_move_together_as_much_as_they_are_told():
    def measured(correlation):
        market = Market(SimConfig(instruments=2, rate_hz=20, correlation=correlation, trade_share=0, volatility=5))
        rows = np.concatenate([market.chunk(number).rows for number in range(20_000, 20_400)])
        seconds = rows["event_ns"] // SECOND_NS
        grid = np.arange(seconds[0] + 1, seconds[-1], 7)
        returns = []
        for instrument in range(2):
            own = rows[rows["instrument"] == instrument]
            at = np.searchsorted(own["event_ns"], grid * SECOND_NS, side="right") - 1
            returns.append(np.diff(np.log(own["v0"][at])))
        return np.corrcoef(returns)[0, 1]

    assert measured(0.0) == pytest.approx(0.0, abs=0.15)
    assert measured(0.6) == pytest.approx(0.6, abs=0.15)
    assert measured(1.0) > 0.9


# --- outages --------------------------------------------------------------------------------------------


async def test_configured_outage_is_a_gap_row_that_knows_how_much_is_lost():
    config = SimConfig(rate_hz=1_000, outages=[Outage(after_s=1.0, for_s=2.0)])
    sink, whole = await run(config, 5), await run(SimConfig(rate_hz=1_000), 5)
    begin_ns, end_ns = NOW_NS + SECOND_NS, NOW_NS + 3 * SECOND_NS
    lost = [row for row in fresh(whole.data) if begin_ns < row[0] <= end_ns]
    assert [gap[7:] for gap in sink.gaps] == [(begin_ns, end_ns, GapReason.DISCONNECT, len(lost))]
    kept = [(row[0], *row[2:]) for row in fresh(whole.data) if row not in lost]
    assert [(row[0], *row[2:]) for row in fresh(sink.data)] == kept
    assert [quality for _, quality in sink.qualities] == [Quality.OK, Quality.GAP, Quality.OK]


async def test_quotes_are_sent_anew_after_an_outage():
    sink = await run(SimConfig(outages=[Outage(1.0, 1.0)]), 4)
    after = sink.rows[sink.rows.index(sink.gaps[0]) + 1 :]
    assert [row[3] for row in after[:8]] == list(range(1, 9))
    assert all(row[6] & Flag.SNAPSHOT for row in after[:8])


async def test_outage_on_request_begins_at_once():
    async def script(source, clock):
        while clock.now_ns() < NOW_NS + SECOND_NS:
            await trio.sleep(0)
        asked.append(clock.now_ns())
        source.outage(1.5)

    asked = []
    sink = await run(SimConfig(rate_hz=2_000), 4, script=script)
    gap = sink.gaps[0]
    assert gap[7:9] == (asked[0], asked[0] + 1_500_000_000)
    assert len(sink.gaps) == 1


@pytest.mark.parametrize(
    "config", [SimConfig(outages=[Outage(0, 100)]), SimConfig(sessions=[Session("09:30", "16:00")])]
)
async def test_venue_that_is_away_or_closed_is_quiet_and_an_open_one_is_not(config):
    quiet = []

    async def script(source, _clock):
        await trio.testing.wait_all_tasks_blocked()
        quiet.append(source.quiet())

    await run(config, 4, script=script)
    await run(SimConfig(), 4, script=script)
    assert quiet == [True, False]


async def test_overlapping_outages_are_one():
    sink = await run(SimConfig(outages=[Outage(1, 2), Outage(2, 3), Outage(5, 1)]), 8)
    assert [(gap[7] - NOW_NS, gap[8] - NOW_NS) for gap in sink.gaps] == [(SECOND_NS, 6 * SECOND_NS)]


async def test_feed_that_was_held_for_long_reports_a_gap_and_does_not_flood():
    clock, sink = FakeClock(NOW_NS), ListSink()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(SimSource(SimConfig(rate_hz=100_000), clock).run, sink)
        await trio.testing.wait_all_tasks_blocked()
        clock.advance_to(NOW_NS + LATE_NS_MAX + SECOND_NS)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert [gap[7:10] for gap in sink.gaps] == [(NOW_NS, NOW_NS + LATE_NS_MAX + SECOND_NS, GapReason.DISCONNECT)]
    assert len(sink.data) < 1_000


# --- sessions -------------------------------------------------------------------------------------------


async def test_closed_venue_is_silent_and_says_so():
    config = SimConfig(rate_hz=500, sessions=[Session("00:00:00", "00:00:03")], session_period_s=5)
    sink = await run(config, 9)
    inside = [(row[0] - MIDNIGHT_NS) % (5 * SECOND_NS) for row in fresh(sink.data)]
    assert max(inside) < 3 * SECOND_NS
    status = [(row[0] - MIDNIGHT_NS, row[7]) for row in sink.of_kind(Kind.STATUS)]
    seconds = [(3, Quality.CLOSED), (5, Quality.OK), (8, Quality.CLOSED)]
    assert status == [(second * SECOND_NS, quality) for second, quality in seconds]
    assert [quality for _, quality in sink.qualities] == [Quality.OK, Quality.CLOSED, Quality.OK, Quality.CLOSED]
    assert sink.gaps == []


async def test_trade_ids_have_no_hole_over_a_close():
    config = SimConfig(rate_hz=500, instruments=1, sessions=[Session("00:00:00", "00:00:03")], session_period_s=5)
    ids = [row[2] for row in (await run(config, 12)).data if row[4] == Kind.TRADE]
    assert all(after == before + 1 for before, after in pairwise(ids))


async def test_feed_of_a_closed_venue_knows_its_instruments():
    """R30: opening a feed does not wait for a first quote."""
    config = SimConfig(sessions=[Session("10:00", "16:00")])
    sink = await run(config, 2)
    assert len(sink.markets) == 8
    assert sink.data == []
    assert sink.qualities == [(0, Quality.CLOSED)]


async def test_outage_over_the_close_ends_with_it():
    config = SimConfig(sessions=[Session("00:00:00", "00:00:03")], session_period_s=5, outages=[Outage(1.7, 2.0)])
    sink = await run(config, 6)
    assert [(gap[7] - MIDNIGHT_NS, gap[8] - MIDNIGHT_NS) for gap in sink.gaps] == [(2 * SECOND_NS, 3 * SECOND_NS)]


# --- recording ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("instruments", [5, ["btc/usdt", "abc/eur"]])
async def test_replay_of_a_recorded_sim_gives_the_same_rows(tmp_path, instruments):
    config = SimConfig(
        rate_hz=700, instruments=instruments, sessions=[Session("00:00:00", "00:00:02")], session_period_s=3
    )
    sink = await run(config, 5, sink=ListSink(recording=True))
    path = tmp_path / "sim.ws"
    writer = RecordingWriter(path, SimSource(config, FakeClock()).url, NOW_NS)
    for payload, received_ns in sink.messages:
        writer.received(payload, received_ns)
    writer.close()
    again = ListSink()
    await ReplaySource(ReplayConfig([str(path)], speed="max")).run(again)
    assert again.rows == sink.rows
    assert again.markets == sink.markets


# --- settings -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"rate_hz": 0},
        {"rate_hz": 200_001},
        {"instruments": 0},
        {"instruments": []},
        {"instruments": ["btc/usdt", "BTC/USDT.spot.sim"]},
        {"instruments": ["btc/usdt.spot.kraken"]},
        {"instruments": ["btcusdt"]},
        {"seed": -1},
        {"correlation": 1.5},
        {"sessions": [{"open": "9", "close": "10:00"}]},
        {"sessions": [{"open": "10:00", "close": "09:00"}]},
        {"sessions": [{"open": "09:00", "close": "12:00"}, {"open": "11:00", "close": "13:00"}]},
        {"sessions": [{"open": "00:00", "close": "00:02"}], "session_period_s": 60},
        {"outages": [{"after_s": 1}]},
    ],
)
def test_bad_settings_are_refused(settings):
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(settings, SimConfig)


def test_names_are_many_and_each_once():
    names = names_of(10_000)
    assert len(set(names)) == 10_000
    assert names[:2] == ["btc/usdt.spot.sim", "eth/usdt.spot.sim"]
    assert all(market_of(name).fqme == name for name in names)


def test_made_up_instruments_do_not_depend_on_their_place():
    assert market_of("abc/eur.spot.sim") == market_of("abc/eur.spot.sim")
    one, other = (Market(SimConfig(instruments=names, correlation=0.5)) for names in (["a/b", "c/d"], ["c/d"]))
    price = {
        market.names[row["instrument"]]: row["v0"] for market in (one, other) for row in market.chunk(9).last_quotes
    }
    assert set(price) == {"a/b.spot.sim", "c/d.spot.sim"}


async def test_feed_outage_over_the_ports_own_method():
    source = load("sim").open_source(SimConfig(), FakeClock())
    source.begin()
    source.outage(1.0)
    assert source.counts().flat() == {"bad": 0, "unknown": 0}
