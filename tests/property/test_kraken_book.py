"""Any book, changed in any way: the rows give the book that a naive reader has, and no wrong level goes unnoticed."""

from __future__ import annotations

from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from backends.kraken.book import DEPTH
from marketd.model import GapReason
from tests.kraken_book import KrakenBook
from tests.unit.test_kraken_book import book, rebuilt
from tests.unit.test_kraken_protocol import feed, opened

PRICE_DECIMALS, SIZE_DECIMALS = 2, 3
prices = st.integers(80, 120).map(lambda ticks: f"{ticks / 100:.2f}")  # few, on both sides of a leading zero
sizes = st.just("0") | st.integers(0, 2000).map(lambda steps: f"{steps / 1000:.3f}")
sides = st.lists(st.tuples(prices, sizes), max_size=25)
messages = st.lists(st.tuples(sides, sides), min_size=1, max_size=12)


class NaiveBook:
    """Sorts everything each time."""

    def __init__(self) -> None:
        self._sides: tuple[dict[str, str], dict[str, str]] = ({}, {})

    def take(self, *changed: list[tuple[str, str]]) -> None:
        for levels, side in zip(self._sides, changed, strict=True):
            for price, size in side:
                levels.pop(price, None)
                if Decimal(size):
                    levels[price] = size
        for levels, best_first in zip(self._sides, (True, False), strict=True):
            kept = sorted(levels, key=Decimal, reverse=best_first)[:DEPTH]
            for price in levels.keys() - kept:
                del levels[price]

    def sides(self) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
        bids, asks = (list(levels.items()) for levels in self._sides)
        return sorted(bids, key=lambda level: Decimal(level[0]), reverse=True), sorted(
            asks, key=lambda level: Decimal(level[0])
        )


def numbers(side):
    return [(float(price), float(size)) for price, size in side]


def witness_data(bids, asks, checksum):
    """A message as the test venue's witness takes it."""
    sides = [[{"price": price, "qty": size} for price, size in numbers(side)] for side in (bids, asks)]
    return {"bids": sides[0], "asks": sides[1], "checksum": checksum}


@given(messages)
def test_rows_give_the_book_that_a_naive_model_has(said):
    """Each message's checksum is that of the model, so that each is checked as well."""
    protocol, sink = opened()
    model = NaiveBook()
    for number, (bids, asks) in enumerate(said):
        model.take(bids, asks)
        feed(protocol, book(bids, asks, after=model.sides(), kind="update" if number else "snapshot"))
        reader = rebuilt(sink)
        assert reader.sides() == tuple(map(numbers, model.sides()))
        assert reader.whole
    assert sink.gaps == []
    assert protocol.counts.bad == protocol.counts.unknown == 0


@given(messages)
def test_checksum_is_the_one_that_the_test_venues_witness_has(said):
    """Two implementations that share nothing."""
    protocol, sink = opened()
    model, witness = NaiveBook(), KrakenBook(DEPTH, (PRICE_DECIMALS, SIZE_DECIMALS))
    for number, (bids, asks) in enumerate(said):
        model.take(bids, asks)
        payload = book(bids, asks, after=model.sides(), kind="update" if number else "snapshot")
        checksum = int(payload.split(b'"checksum": ')[1].split(b"}")[0])
        assert witness.apply(witness_data(bids, asks, checksum))
        feed(protocol, payload)
    assert sink.gaps == []


@given(messages, st.data())
def test_any_corruption_of_a_level_is_noticed(said, data):
    """One digit of one level of the last message, unless the book is the same all the same."""
    protocol, sink = opened()
    right, wrong = NaiveBook(), NaiveBook()
    last = len(said) - 1
    for number, sides_said in enumerate(said):
        right.take(*sides_said)
        if number == last:
            sides_said = corrupted(sides_said, data)
        wrong.take(*sides_said)
        feed(protocol, book(*sides_said, after=right.sides(), kind="update" if number else "snapshot"))
    noticed = [row[9] for row in sink.gaps]
    assert noticed == ([] if wrong.sides() == right.sides() else [GapReason.CHECKSUM])


def corrupted(sides_said, data):
    """Change one digit; no price becomes 0 by that."""
    places = [
        (side, level, part, place)
        for side, said in enumerate(sides_said)
        for level, texts in enumerate(said)
        for part, text in enumerate(texts)
        for place, letter in enumerate(text)
        if letter.isdigit()
    ]
    if not places:
        return sides_said
    side, level, part, place = data.draw(st.sampled_from(places))
    changed = [[list(texts) for texts in said] for said in sides_said]
    text = changed[side][level][part]
    digit = data.draw(st.sampled_from("123456789"))
    changed[side][level][part] = text[:place] + digit + text[place + 1 :]
    return changed
