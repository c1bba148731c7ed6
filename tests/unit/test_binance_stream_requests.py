from __future__ import annotations

import json

import pytest

from backends.binance.stream_requests import CHUNK, UNANSWERED_MAX, StreamRequests
from backends.live import AckMissing, Refused, Subscribed
from backends.subscriptions import ACK_TIMEOUT_NS

NOW_NS = 1_767_225_600 * 10**9


def streams(*names):
    return {name: (f"{name}@aggTrade", f"{name}@bookTicker") for name in names}


def many(count):
    return streams(*(f"i{number:04}" for number in range(count)))


def sent(requests):
    return [json.loads(payload) for payload in requests.data_to_send()]


def asked(*names, chunk=CHUNK):
    """Requests for these that are on their way."""
    requests = StreamRequests(chunk)
    requests.subscribe(streams(*names))
    sent(requests)
    requests.timer(NOW_NS)
    return requests


def answered(*names, chunk=CHUNK):
    """Requests for these that are all acked, the venue's own list as well."""
    requests = asked(*names, chunk=chunk)
    for number in range(1, 10):
        requests.acked(number, None)
        sent(requests)
    assert set(requests.live) == set(names)
    requests.events()
    return requests


def test_a_subscription_names_all_streams_of_its_instruments():
    requests = StreamRequests()
    requests.subscribe(streams("a", "b"))
    assert sent(requests) == [
        {"method": "SUBSCRIBE", "id": 1, "params": ["a@aggTrade", "a@bookTicker", "b@aggTrade", "b@bookTicker"]}
    ]
    assert sent(requests) == []


def test_instruments_are_pending_until_acked_and_live_after():
    requests = asked("a", "b")
    assert (set(requests.pending), set(requests.live)) == ({"a", "b"}, set())
    requests.acked(1, None)
    assert (set(requests.pending), set(requests.live)) == (set(), {"a", "b"})
    assert requests.events() == [Subscribed(("a", "b"))]


def test_requests_hold_whole_instruments_and_no_more_streams_than_the_chunk():
    requests = StreamRequests(chunk=5)
    requests.subscribe(many(5))
    messages = sent(requests)
    assert [len(message["params"]) for message in messages] == [4, 4, 2]
    assert [message["id"] for message in messages] == [1, 2, 3]
    for message in messages:
        names = [name.partition("@")[0] for name in message["params"]]
        assert names[::2] == names[1::2], "an instrument's two streams are together"


def test_the_largest_connection_fits_into_requests_that_the_venue_answers():
    """1024 streams with long names; requests of about 16,000 characters and more were never answered."""
    requests = StreamRequests()
    symbols = [f"1000000something{number}usdt_261225" for number in range(512)]
    requests.subscribe({symbol: (f"{symbol}@aggTrade", f"{symbol}@bookTicker") for symbol in symbols})
    payloads = []
    while batch := requests.data_to_send():
        payloads += batch
        for payload in batch:
            requests.acked(json.loads(payload)["id"], None)
    subscribes = [payload for payload in payloads if b'"SUBSCRIBE"' in payload]
    assert sum(len(json.loads(payload)["params"]) for payload in subscribes) == 1024
    assert max(map(len, subscribes)) < 12_000
    assert len(requests.live) == 512


def test_acks_may_come_in_any_order():
    """R49: each is matched with its request by number."""
    requests = asked("a", "b", "c", chunk=2)
    for number in (3, 1, 2):
        requests.acked(number, None)
    assert requests.events() == [Subscribed(("c",)), Subscribed(("a",)), Subscribed(("b",))]
    assert set(requests.live) == {"a", "b", "c"}


def test_a_missing_ack_is_reported_once_at_its_deadline():
    """R49: an absent ack fails loudly within a bound."""
    requests = asked("a", "b", chunk=2)
    requests.acked(2, None)
    assert requests.next_timer_ns == NOW_NS + ACK_TIMEOUT_NS
    requests.timer(NOW_NS + ACK_TIMEOUT_NS - 1)
    assert requests.events() == [Subscribed(("b",))]
    requests.timer(NOW_NS + ACK_TIMEOUT_NS)
    requests.timer(NOW_NS + 2 * ACK_TIMEOUT_NS)
    assert requests.events() == [AckMissing(("a",))]
    assert (set(requests.pending), set(requests.live)) == (set(), {"b"})
    assert requests.next_timer_ns is None


def test_the_deadline_counts_from_when_the_request_was_sent():
    requests = StreamRequests()
    requests.subscribe(streams("a"))
    requests.timer(NOW_NS)
    assert requests.next_timer_ns is None
    sent(requests)
    requests.timer(NOW_NS + 7)
    requests.timer(NOW_NS + 8)
    assert requests.next_timer_ns == NOW_NS + 7 + ACK_TIMEOUT_NS


def test_an_instrument_whose_ack_is_missing_can_be_asked_for_again():
    requests = asked("a")
    requests.timer(NOW_NS + ACK_TIMEOUT_NS)
    requests.subscribe(streams("a"))
    assert [message["id"] for message in sent(requests)] == [2]
    requests.acked(1, None)  # the late one
    assert set(requests.live) == set()
    requests.acked(2, None)
    assert set(requests.live) == {"a"}


def test_pending_and_live_instruments_are_not_asked_for_twice():
    requests = asked("a")
    requests.subscribe(streams("a"))
    assert sent(requests) == []
    requests = answered("a")
    requests.subscribe(streams("a", "b"))
    assert [message["params"] for message in sent(requests)] == [["b@aggTrade", "b@bookTicker"]]


def test_one_refused_instrument_does_not_cost_the_others():
    requests = StreamRequests()
    requests.subscribe(streams(*"abcde"))
    refusals = 0
    while messages := sent(requests):
        for message in messages:
            if "d@aggTrade" in message.get("params", ()):
                requests.refused(message["id"], "Invalid request (code 2)")
                refusals += 1
            else:
                requests.acked(message["id"], None)
    assert refusals <= 4
    assert set(requests.live) == {"a", "b", "c", "e"}
    assert [event for event in requests.events() if isinstance(event, Refused)] == [
        Refused("d", "Invalid request (code 2)")
    ]
    assert set(requests.pending) == set()


def test_an_error_without_a_number_is_of_the_only_request_or_of_none():
    requests = asked("a")
    requests.refused(None, "no (code 3)")
    assert requests.events() == [Refused("a", "no (code 3)")]
    requests = asked("a", "b", chunk=2)
    requests.refused(None, "no (code 3)")
    assert requests.events() == []
    assert set(requests.pending) == {"a", "b"}


@pytest.mark.parametrize("number", [None, 0, 7, -1, "1", 1.0, True, [], {}, 1 << 70])
def test_answers_to_nothing_change_nothing(number):
    requests = asked("a", "b", chunk=2)
    requests.acked(number, None)
    requests.refused(number, "no")
    assert requests.events() == []
    assert set(requests.pending) == {"a", "b"}


def test_ended_instruments_are_gone_at_once_and_their_late_ack_means_nothing():
    requests = asked("a", "b")
    requests.unsubscribe(["a", "x"])
    assert set(requests.pending) == {"b"}
    assert sent(requests) == [{"method": "UNSUBSCRIBE", "id": 2, "params": ["a@aggTrade", "a@bookTicker"]}]
    requests.acked(1, None)
    requests.acked(2, None)
    assert requests.events() == [Subscribed(("b",))]
    assert set(requests.live) == {"b"}


def test_an_instrument_ended_and_wanted_again_waits_for_the_newer_ack():
    requests = asked("a")
    requests.unsubscribe(["a"])
    requests.subscribe(streams("a"))
    assert [message["method"] for message in sent(requests)] == ["UNSUBSCRIBE", "SUBSCRIBE"]
    requests.acked(1, None)
    assert set(requests.pending) == {"a"}
    requests.acked(3, None)
    assert requests.events() == [Subscribed(("a",))]


def test_an_end_that_fails_or_is_not_acked_is_no_event():
    requests = answered("a", "b")
    requests.unsubscribe(["a"])
    requests.unsubscribe(["b"])
    first, _ = sent(requests)
    requests.timer(NOW_NS)
    requests.refused(first["id"], "no")
    requests.timer(NOW_NS + ACK_TIMEOUT_NS)
    assert requests.events() == []
    assert requests.next_timer_ns is None


def test_once_all_is_acked_the_venue_is_asked_what_it_has():
    requests = asked("a", "b", chunk=2)
    requests.acked(1, None)
    assert sent(requests) == []
    requests.acked(2, None)
    assert sent(requests) == [{"method": "LIST_SUBSCRIPTIONS", "id": 3}]
    requests.events()
    requests.acked(3, ["b@bookTicker", "a@aggTrade", "a@bookTicker", "b@aggTrade", "c@depth"])
    assert requests.events() == []
    requests.subscribe(streams("c"))
    assert [message["method"] for message in sent(requests)] == ["SUBSCRIBE"]
    requests.acked(4, None)
    assert sent(requests) == [], "once in a connection's life"


def test_what_was_acked_and_is_not_there_is_reported_as_missing():
    requests = asked("a", "b")
    requests.acked(1, None)
    sent(requests)
    requests.events()
    requests.acked(2, ["a@aggTrade", "a@bookTicker", "b@aggTrade"])
    assert requests.events() == [AckMissing(("b",))]
    assert requests.events() == []
    assert set(requests.live) == {"a"}
    requests.subscribe(streams("b"))
    assert [message["params"] for message in sent(requests)] == [["b@aggTrade", "b@bookTicker"]]


def test_what_was_ended_or_asked_for_in_the_meantime_is_not_missed_in_the_list():
    requests = asked("a", "b")
    requests.acked(1, None)
    sent(requests)
    requests.events()
    requests.unsubscribe(["b"])
    requests.subscribe(streams("c"))
    sent(requests)
    requests.acked(4, None)
    requests.acked(2, ["a@aggTrade", "a@bookTicker"])
    assert requests.events() == [Subscribed(("c",))]
    assert set(requests.live) == {"a", "c"}


@pytest.mark.parametrize("answer", [None, {}, "a@aggTrade", 5, True])
def test_a_list_that_is_none_says_nothing(answer):
    requests = asked("a")
    requests.acked(1, None)
    sent(requests)
    requests.events()
    requests.acked(2, answer)
    assert requests.events() == []
    assert set(requests.live) == {"a"}


def test_a_list_that_is_refused_or_never_comes_says_nothing():
    requests = asked("a")
    requests.acked(1, None)
    sent(requests)
    requests.events()
    requests.timer(NOW_NS)
    requests.refused(2, "no")
    requests.timer(NOW_NS + ACK_TIMEOUT_NS)
    assert requests.events() == []
    assert set(requests.live) == {"a"}


def test_only_so_many_requests_are_under_way_and_answers_let_the_next_ones_go():
    requests = StreamRequests(chunk=2)
    requests.subscribe(many(3 * UNANSWERED_MAX))
    first = sent(requests)
    assert len(first) == UNANSWERED_MAX
    assert sent(requests) == []
    requests.acked(first[0]["id"], None)
    requests.refused(first[1]["id"], "no")
    assert len(sent(requests)) == 2
    requests.timer(NOW_NS)
    requests.timer(NOW_NS + ACK_TIMEOUT_NS)
    assert len(sent(requests)) == UNANSWERED_MAX, "what is not answered does not block for ever"
