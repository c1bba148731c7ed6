"""Saved trades: however a file has them, none is lost, doubled or out of order, and every hole is told."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from backends.kraken.saved import read, recognise
from backends.replay.saved import judge
from backends.saved import split_bodies
from marketd.errors import WireError
from marketd.model import GapReason

IDS = st.lists(st.integers(0, 60), min_size=1, max_size=40)
BAD = b"[]"


def row(trade_id):
    return (trade_id // 3 * 1000 + 5, trade_id, 1.0 + trade_id, 1.0, 1)


@given(ids=IDS, bad=st.lists(st.integers(0, 40), max_size=5))
def test_each_trade_is_judged_once_in_order_and_every_missing_id_is_told(ids, bad):
    trades = [row(trade_id) for trade_id in ids]
    for place in bad:
        trades.insert(place, BAD)
    judged = judge(trades)
    assert len(judged) == len(trades)
    assert [one.time_ns for one in judged] == sorted(one.time_ns for one in judged)
    rows = [one.row for one in judged if one.row is not None]
    assert rows == [row(trade_id) for trade_id in sorted(set(ids))]
    assert sum(one.bad is not None for one in judged) == len(bad)
    told = set()
    for one in judged:
        if one.gap is not None and one.gap.reason == GapReason.SEQUENCE:
            told |= set(range(one.row[1] - one.gap.lost, one.row[1]))
            assert one.gap.from_ns <= one.time_ns
    assert told == set(range(min(ids), max(ids))) - set(ids)


@given(ids=IDS, data=st.data())
def test_the_order_of_a_file_does_not_matter(ids, data):
    shuffled = data.draw(st.permutations(ids))
    assert judge([row(trade_id) for trade_id in shuffled]) == judge([row(trade_id) for trade_id in ids])


@given(
    values=st.lists(st.recursive(st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(), st.lists)),
    blanks=st.text(" \t\r\n", min_size=1),
    indent=st.none() | st.integers(0, 3),
)
def test_bodies_are_parted_wherever_they_join(values, blanks, indent):
    texts = [json.dumps([value], indent=indent) for value in values]
    if texts:
        assert split_bodies(blanks.join(texts).encode()) == [text.encode() for text in texts]


@given(st.binary(max_size=200))
def test_any_bytes_are_trades_or_a_clear_error(content):
    assert not recognise(content) or read([content], {}) == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)


@given(trades=JSON, name=st.sampled_from(["XXBTZUSD", "last", "?"]), error=st.just([]) | JSON)
def test_any_json_in_the_place_of_trades_is_a_clear_error(trades, name, error):
    body = json.dumps({"error": error, "result": {name: trades}}).encode()
    if recognise(body):
        try:
            series = read([body], {})
        except WireError:
            return
        assert all(not one.trades for one in series)
