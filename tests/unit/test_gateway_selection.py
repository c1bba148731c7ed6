"""Which rows a subscription is about."""

from __future__ import annotations

import gc

import numpy as np
import pytest

from marketd.gateway.selection import FULL_KEY, Choice, Selection, Selections, split
from marketd.model import Kind
from marketd.ring import layout

BOTH = frozenset({Kind.TRADE, Kind.QUOTE})
NAMES = ["btc/usdt.spot.binance", "eth/usdt.spot.binance", "eth/btc.spot.binance", "btc/usdt.perp.binance"]


def rows(*pairs: tuple[int, int]) -> np.ndarray:
    """Rows of these instruments and kinds, with cursors from 1."""
    found = np.zeros(len(pairs), layout.ROW)
    found["cursor"] = np.arange(1, len(pairs) + 1)
    found["instrument"] = [instrument for instrument, _ in pairs]
    found["kind"] = [kind for _, kind in pairs]
    return found


def choice(*instruments: str, kinds: frozenset[int] = BOTH, names: list[str] = NAMES) -> Choice:
    """What these names and globs mean among `names`."""
    exact, globs = split(instruments)
    found = Choice(Selection(frozenset(exact), frozenset(globs), kinds))
    found.extend(names)
    return found


def test_names_and_globs_are_told_apart_in_any_case() -> None:
    assert split([" BTC/USDT.spot.Binance ", "*.SIM", "a?.sim", "[ab].sim"]) == (
        {"btc/usdt.spot.binance"},
        {"*.sim", "a?.sim", "[ab].sim"},
    )


def test_choice_is_the_union_of_names_and_globs() -> None:
    assert choice("*/usdt.spot.binance").ids == [1, 2]
    assert choice("*/usdt.spot.binance", "eth/btc.spot.binance").ids == [1, 2, 3]
    assert choice("eth/btc.spot.binance").ids == [3]
    assert choice("*.kraken").ids == []


def test_instruments_that_come_later_join_where_a_glob_selects_them() -> None:
    found = choice("*/usdt.*")
    found.extend(["sol/usdt.spot.binance", "sol/btc.spot.binance"])
    assert found.ids == [1, 2, 4, 5]
    assert found.id_array.tolist() == found.ids
    assert found.filter(rows((5, Kind.TRADE), (6, Kind.TRADE)))["instrument"].tolist() == [5]


def test_rows_of_other_instruments_and_kinds_are_left_out() -> None:
    found = choice("eth/*", kinds=frozenset({Kind.TRADE}))
    some = rows((1, Kind.TRADE), (2, Kind.TRADE), (2, Kind.QUOTE), (3, Kind.LEVEL), (3, Kind.TRADE))
    assert found.filter(some)["cursor"].tolist() == [2, 5]


def test_gap_and_status_rows_of_the_instruments_and_of_all_are_always_in() -> None:
    found = choice("eth/*", kinds=frozenset({Kind.TRADE}))
    some = rows((1, Kind.GAP), (2, Kind.GAP), (0, Kind.GAP), (0, Kind.STATUS), (3, Kind.STATUS), (4, Kind.STATUS))
    assert found.filter(some)["cursor"].tolist() == [2, 3, 4, 5]


def test_everything_is_not_even_copied() -> None:
    found = choice("*")
    some = rows((1, Kind.TRADE), (4, Kind.QUOTE), (0, Kind.GAP))
    assert found.filter(some) is some
    assert found.key == FULL_KEY
    # Book levels are wanted by few: they are taken out even then.
    assert found.filter(rows((1, Kind.TRADE), (1, Kind.LEVEL)))["kind"].tolist() == [Kind.TRADE]


def test_everything_ceases_to_be_everything_when_other_instruments_come() -> None:
    found = choice("*.binance")
    assert found.full
    found.extend(["btc/usd.spot.kraken"])
    assert not found.full
    assert found.key != FULL_KEY
    assert found.filter(rows((1, Kind.TRADE), (5, Kind.TRADE)))["instrument"].tolist() == [1]


@pytest.mark.parametrize("kinds", [{Kind.QUOTE}, {Kind.LEVEL}, {Kind.TRADE, Kind.QUOTE, Kind.LEVEL}])
def test_other_kinds_than_trades_and_quotes_are_not_what_most_clients_share(kinds: set[Kind]) -> None:
    found = choice("*", kinds=frozenset(kinds))
    assert found.key != FULL_KEY
    some = rows(*((1, kind) for kind in (Kind.TRADE, Kind.QUOTE, Kind.LEVEL)))
    assert set(found.filter(some)["kind"]) == kinds


def test_unknown_instrument_ids_select_nothing() -> None:
    found = choice("eth/*")
    assert len(found.filter(rows((9, Kind.TRADE), (1 << 31, Kind.TRADE)))) == 0


def test_equal_selections_are_one_object_for_as_long_as_it_is_used() -> None:
    selections = Selections()
    one = selections.intern(["a.x", "b.x"], ["*.y"], [Kind.TRADE, Kind.QUOTE])
    assert selections.intern(["b.x", "a.x"], ["*.y"], [Kind.QUOTE, Kind.TRADE, Kind.TRADE]) is one
    assert selections.intern(["b.x"], ["*.y"], [Kind.QUOTE, Kind.TRADE]) is not one
    assert selections.intern(["b.x", "a.x"], ["*.y"], [Kind.QUOTE]) is not one
    del one
    gc.collect()
    assert len(selections._known) == 0


@pytest.mark.parametrize(
    ("glob", "may"),
    [
        ("*", True),
        ("*.binance", True),
        ("*/usdt.spot.binance", True),
        ("btc*", True),
        ("btc/usdt.*", True),
        ("*nance", True),
        ("*.kraken", False),
        ("*.spot.kraken", False),
        ("btc?.sim", False),
        ("*[xy]", True),
        ("*binancex", False),
    ],
)
def test_glob_tells_whether_it_could_ever_select_from_a_backend(glob: str, may: bool) -> None:
    assert Selection(frozenset(), frozenset({glob}), BOTH).may_select(["binance"]) is may


def test_bracket_glob_may_select_but_a_literal_after_it_decides() -> None:
    assert not Selection(frozenset(), frozenset({"[ab].sim"}), BOTH).may_select(["binance"])
    assert Selection(frozenset(), frozenset({"[ab].sim"}), BOTH).may_select(["binance", "sim"])
