from __future__ import annotations

import pytest

from backends.live import AckMissing, Refused, Subscribed
from backends.subscriptions import ACK_TIMEOUT_NS, Subscriptions

BTC, ETH = "btc/usdt.spot.x", "eth/usdt.spot.x"
NOW_NS = 1_767_225_600 * 10**9


@pytest.fixture
def subscriptions():
    """Two instruments of two streams each, asked for by a request for each kind; both requests are on their way."""
    made = Subscriptions()
    for fqme, symbol in ((BTC, "BTC"), (ETH, "ETH")):
        assert made.begin(fqme, [f"trade {symbol}", f"quote {symbol}"])
    for number, kind in ((1, "trade"), (2, "quote")):
        made.request(number, {f"{kind} BTC": BTC, f"{kind} ETH": ETH})
        made.sent(number)
    made.timer(NOW_NS)
    return made


def test_instrument_is_live_when_all_its_streams_are_acked_in_any_order(subscriptions):
    subscriptions.acked(2, ["quote ETH"])
    subscriptions.acked(1, ["trade BTC"])
    assert (set(subscriptions.pending), set(subscriptions.live), subscriptions.events()) == ({BTC, ETH}, set(), [])
    subscriptions.acked(1, ["trade ETH"])
    assert (set(subscriptions.pending), set(subscriptions.live)) == ({BTC}, {ETH})
    assert subscriptions.events() == [Subscribed((ETH,))]
    subscriptions.acked(2, ["quote BTC"])
    assert subscriptions.events() == [Subscribed((BTC,))]
    assert not subscriptions.pending


def test_missing_ack_is_reported_once_after_its_time(subscriptions):
    """R49: an absent ack fails loudly within a bound."""
    subscriptions.acked(1, ["trade BTC", "trade ETH"])
    subscriptions.acked(2, ["quote ETH"])
    assert subscriptions.next_timer_ns == NOW_NS + ACK_TIMEOUT_NS
    subscriptions.timer(NOW_NS + ACK_TIMEOUT_NS - 1)
    assert subscriptions.events() == [Subscribed((ETH,))]
    subscriptions.timer(NOW_NS + ACK_TIMEOUT_NS)
    subscriptions.timer(NOW_NS + 2 * ACK_TIMEOUT_NS)
    assert subscriptions.events() == [AckMissing((BTC,))]
    assert (set(subscriptions.pending), set(subscriptions.live)) == (set(), {ETH})
    assert subscriptions.next_timer_ns is None


def test_time_of_a_request_begins_when_it_was_sent():
    subscriptions = Subscriptions()
    subscriptions.begin(BTC, ["trade BTC"])
    subscriptions.request(1, {"trade BTC": BTC})
    subscriptions.timer(NOW_NS)
    assert subscriptions.next_timer_ns is None
    subscriptions.sent(1)
    subscriptions.timer(NOW_NS + 5)
    assert subscriptions.next_timer_ns == NOW_NS + 5 + ACK_TIMEOUT_NS


def test_pending_and_live_instruments_are_not_asked_for_again(subscriptions):
    assert not subscriptions.begin(BTC, ["trade BTC"])
    subscriptions.acked(1, ["trade BTC"])
    subscriptions.acked(2, ["quote BTC"])
    assert not subscriptions.begin(BTC, ["trade BTC"])


def test_late_ack_of_what_was_given_up_means_nothing_and_it_can_be_asked_for_again(subscriptions):
    subscriptions.timer(NOW_NS + ACK_TIMEOUT_NS)
    assert subscriptions.events() == [AckMissing((BTC, ETH))]
    assert subscriptions.begin(BTC, ["trade BTC"])
    subscriptions.request(3, {"trade BTC": BTC})
    subscriptions.acked(1, ["trade BTC"])
    assert set(subscriptions.pending) == {BTC}
    subscriptions.acked(3, ["trade BTC"])
    assert subscriptions.events() == [Subscribed((BTC,))]


def test_refused_instrument_is_neither_pending_nor_live_and_reported_once(subscriptions):
    subscriptions.refused(BTC, "no such symbol")
    subscriptions.refused(BTC, "no such symbol")
    assert subscriptions.events() == [Refused(BTC, "no such symbol")]
    subscriptions.acked(1, ["trade BTC", "trade ETH"])
    subscriptions.acked(2, ["quote BTC", "quote ETH"])
    assert set(subscriptions.live) == {ETH}


def test_acks_after_the_end_of_a_subscription_do_not_bring_it_back(subscriptions):
    assert subscriptions.end(BTC)
    assert not subscriptions.end(BTC)
    subscriptions.acked(1, ["trade BTC", "trade ETH"])
    subscriptions.acked(2, ["quote BTC", "quote ETH"])
    assert set(subscriptions.live) == {ETH}
    assert subscriptions.events() == [Subscribed((ETH,))]


def test_acks_of_unknown_requests_and_streams_are_ignored(subscriptions):
    subscriptions.acked(99, ["trade BTC"])
    subscriptions.acked(1, ["trade XRP"])
    assert subscriptions.events() == []
    assert set(subscriptions.pending) == {BTC, ETH}


def test_withdrawn_request_can_be_asked_anew_in_pieces(subscriptions):
    assert subscriptions.withdraw(1) == {"trade BTC": BTC, "trade ETH": ETH}
    assert subscriptions.withdraw(1) == {}
    subscriptions.request(3, {"trade BTC": BTC})
    subscriptions.request(4, {"trade ETH": ETH})
    assert (subscriptions.number_of("trade ETH"), subscriptions.number_of("trade XRP")) == (4, -1)
    for number, streams in ((4, ["trade ETH"]), (2, ["quote BTC", "quote ETH"]), (3, ["trade BTC"])):
        subscriptions.acked(number, streams)
    assert set(subscriptions.live) == {BTC, ETH}
