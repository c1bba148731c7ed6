"""The client's core, bytes in and out; what holds in general is in tests/property/test_client_protocol.py."""

from __future__ import annotations

from typing import cast

import msgspec
import pytest

from marketd.client.calls import Call
from marketd.client.errors import ConnectionLost, DeadlineExceeded, ProtocolError, RequestError
from marketd.client.frames import Frame
from marketd.client.protocol import ClientProtocol
from marketd.client.subscription import BUFFER_BYTES, State, Subscription
from marketd.model import GapReason, Kind
from marketd.rpc import messages
from marketd.rpc.framing import frame
from marketd.rpc.messages import Position
from tests.fake_server import FakeFeed, FakeProtocol, World, notify


class Talk:
    """A client and a fake daemon that hear each other at once."""

    def __init__(self, world: World | None = None) -> None:
        self.world = world or World()
        self.client = ClientProtocol(messages.HelloParams())
        self.connect()

    @property
    def feed(self) -> FakeFeed:
        return self.world.feeds["fake"]

    def connect(self) -> Call:
        self.server = FakeProtocol(self.world)
        hello = self.client.connection_made()
        self.exchange()
        return hello

    def exchange(self) -> None:
        while self.client.has_data_to_send:
            self.client.receive_data(self.server.receive(self.client.data_to_send()))
        self.client.receive_data(self.server.stream())

    def ask(self, method: str, params: messages.Params) -> Call:
        call = self.client.request(method, params)
        self.exchange()
        return call

    def subscribe(self, *instruments: str, resume: dict[str, Position] | None = None) -> Subscription:
        call = self.client.subscribe(messages.SubscribeParams(list(instruments), resume=resume or {}))
        self.exchange()
        assert call.result() is not None
        return cast(Subscription, call.subscription)

    def tell(self, method: str, params: object) -> None:
        self.client.receive_data(notify(method, params))


def taken(subscription: Subscription) -> list[Frame]:
    return list(iter(subscription.next_nowait, None))


def test_hello_comes_first_and_requests_made_before_it_follow() -> None:
    client, world = ClientProtocol(messages.HelloParams()), World()
    early = client.request("ping", messages.PingParams("early"))
    assert not client.has_data_to_send
    client.connection_made()
    server = FakeProtocol(world)
    client.receive_data(server.receive(client.data_to_send()))
    assert world.methods() == ["hello"]
    client.receive_data(server.receive(client.data_to_send()))
    assert early.result() == messages.PingResult("early", 1)


def test_harmless_requests_are_asked_again_after_a_reconnect_and_others_fail() -> None:
    talk = Talk()
    talk.world.mute = {"status", "record"}
    status = talk.ask("status", messages.EmptyParams())
    record = talk.ask("record", messages.RecordParams("fake", "x", 1.0))
    talk.client.connection_lost("pulled the plug")
    with pytest.raises(ConnectionLost, match="pulled the plug"):
        record.result()
    assert not status.done
    talk.world.mute.clear()
    talk.connect()
    assert status.result().ready
    assert talk.world.methods().count("record") == 1


def test_answer_to_a_forgotten_request_is_dropped() -> None:
    talk = Talk()
    call = talk.client.request("ping", messages.PingParams())
    talk.client.forget(call)
    talk.exchange()
    assert not call.done


def test_subscription_that_is_answered_too_late_is_closed_at_the_server() -> None:
    talk = Talk()
    call = talk.client.subscribe(messages.SubscribeParams(["*"]))
    talk.client.forget(call)
    talk.exchange()
    assert talk.world.methods()[-2:] == ["subscribe", "unsubscribe"]
    assert talk.client.subscriptions == []


def test_error_names_its_code_even_where_the_server_gave_the_number_alone() -> None:
    talk = Talk()
    for body, code in (
        (messages.ErrorBody(-32002, "no", {"code": "unknown_instrument"}), "unknown_instrument"),
        (messages.ErrorBody(-32005, "no", {}), "limit_exceeded"),
        (messages.ErrorBody(-1, "no", {}), "-1"),
    ):
        talk.world.refuse["ping"] = body
        with pytest.raises(RequestError) as caught:
            talk.ask("ping", messages.PingParams()).result()
        assert caught.value.code == code
    talk.world.refuse["ping"] = messages.ErrorBody(-32006, "too slow", {"code": "deadline_exceeded"})
    with pytest.raises(DeadlineExceeded, match="too slow"):
        talk.ask("ping", messages.PingParams()).result()


def test_request_that_the_server_would_not_take_is_refused_here() -> None:
    talk = Talk()
    call = talk.client.subscribe(messages.SubscribeParams([f"{n:0200}" for n in range(10_000)]))
    with pytest.raises(RequestError) as caught:
        call.result()
    assert caught.value.code == "frame_too_large"
    assert not talk.client.has_data_to_send


def test_error_without_an_id_ends_the_connection_with_the_servers_sentence() -> None:
    talk = Talk()
    body = messages.ErrorBody(-32005, "2000 clients are connected", {"code": "limit_exceeded"})
    with pytest.raises(ProtocolError, match="2000 clients"):
        talk.client.receive_data(frame(msgspec.msgpack.encode({"id": None, "error": body})))


@pytest.mark.parametrize(
    "bad", [b"\xff\xff\xff\xff", b"\0\0\0\1\xc1", b"\0\0\0\x02\x81\xa1", frame(b"\x81\xa6method\x05")]
)
def test_nonsense_is_a_protocol_error(bad: bytes) -> None:
    with pytest.raises(ProtocolError):
        Talk().client.receive_data(bad)


def test_messages_of_later_versions_are_passed_over() -> None:
    talk = Talk()
    talk.tell("weather", {"rain": True})
    talk.tell("heartbeat", {"new_key": 1})
    assert talk.ask("ping", messages.PingParams()).done


def test_gap_of_a_new_epoch_is_told_even_if_the_numbers_overlap() -> None:
    talk = Talk()
    talk.feed.append(Kind.TRADE)
    stream = talk.subscribe("*", resume={"fake": Position(4242, 999)})
    talk.tell("gap", messages.Gap(1, "fake", 4242, 1, 1, -1, "epoch"))
    talk.feed.append(Kind.TRADE)
    talk.server.subscriptions[1].cursors["fake"] = 1
    talk.exchange()
    gap, trade = taken(stream)
    assert (gap.kind, gap.rows["reason"][0], gap.rows["lost"][0]) == ("gap", GapReason.EPOCH, -1)
    assert (trade.kind, trade.cursor_first) == ("trade", 2)


def test_each_epoch_has_its_own_names_and_old_frames_keep_theirs() -> None:
    talk = Talk()
    stream = talk.subscribe("*")
    talk.feed.append(Kind.TRADE, 1)
    talk.exchange()
    talk.client.connection_lost("cut")
    talk.world.feeds["fake"] = FakeFeed(epoch=5, names={1: "new/usdt.spot.fake"})
    talk.connect()
    talk.feed.append(Kind.TRADE, 1)
    talk.exchange()
    frames = [frame for frame in taken(stream) if frame.kind == "trade"]
    assert [frame.fqme(1) for frame in frames] == ["btc/usdt.spot.fake", "new/usdt.spot.fake"]
    assert [frame.epoch for frame in frames] == [4242, 5]


def test_instrument_that_is_listed_later_is_named_before_its_first_row() -> None:
    talk = Talk()
    stream = talk.subscribe("*")
    talk.tell("instruments", messages.Instruments(1, "fake", 4242, {9: "new/usdt.spot.fake"}))
    talk.feed.append(Kind.TRADE, 9)
    talk.feed.names[9] = "new/usdt.spot.fake"
    talk.exchange()
    (found,) = taken(stream)
    assert found.fqme(found.rows["instrument"][0]) == "new/usdt.spot.fake"
    with pytest.raises(KeyError):
        found.fqme(10)


def test_feed_that_joins_later_begins_without_a_gap_and_is_resumed_like_others() -> None:
    talk = Talk()
    stream = talk.subscribe("*")
    late = FakeFeed("late", 77, {1: "btc/usdt.spot.late"}, rows=[b"\0" * 72] * 100)
    talk.world.feeds["late"] = late
    late.append(Kind.TRADE)
    talk.server.subscriptions[1].cursors["late"] = 100
    talk.tell("instruments", messages.Instruments(1, "late", 77, late.names))
    talk.exchange()
    talk.client.rewind()
    talk.client.connection_lost("cut")
    talk.connect()
    talk.exchange()
    frames = [frame for frame in taken(stream) if frame.epoch]
    assert [(frame.feed, frame.kind, frame.cursor_first) for frame in frames] == [("late", "trade", 101)]


def test_removed_names_are_recognised_in_any_spelling() -> None:
    subscription = Subscription(messages.SubscribeParams(["BTC/usdt.spot.fake", "ethusdt.spot.fake", "*/x.sim"]))
    change = messages.UpdateParams(1, ["sol.fake"], ["btcusdt.SPOT.fake", "ETH/usdt.spot.fake", "*/X.sim"], 5.0, True)
    subscription.changed(change)
    assert subscription.params.instruments == ["sol.fake"]
    assert (subscription.params.rate_hz, subscription.paused) == (5.0, True)


def test_feed_that_an_update_removes_is_not_missed() -> None:
    world = World({"fake": FakeFeed(), "other": FakeFeed("other", 7, {1: "btc/usd.other"})})
    talk = Talk(world)
    stream = talk.subscribe("*.fake", "*.other")
    assert set(stream.resume_params().resume) == {"fake", "other"}
    for add, remove in ([], ["*.other"]), (["*.other"], []):
        talk.client.update(stream, messages.UpdateParams(0, add, remove))
        talk.exchange()
        world.feeds["other"].append(Kind.TRADE)
    talk.exchange()
    assert [(frame.feed, frame.kind, frame.cursor_first) for frame in taken(stream)] == [("other", "trade", 2)]


def test_feed_that_is_removed_while_the_connection_is_broken_is_not_missed() -> None:
    world = World({"fake": FakeFeed(), "other": FakeFeed("other", 7, {1: "btc/usd.other"})})
    talk = Talk(world)
    stream = talk.subscribe("*.fake", "*.other")
    world.feeds["other"].append(Kind.TRADE)
    talk.exchange()
    talk.client.connection_lost("cut")
    talk.client.update(stream, messages.UpdateParams(0, remove=["*.other"]))
    talk.connect()
    world.feeds["other"].append(Kind.TRADE)
    talk.client.update(stream, messages.UpdateParams(0, ["*.other"]))
    talk.exchange()
    world.feeds["other"].append(Kind.TRADE)
    talk.exchange()
    frames = [frame for frame in taken(stream) if frame.epoch]
    assert [(frame.kind, frame.cursor_first, frame.cursor_last) for frame in frames] == [
        ("trade", 1, 1),
        ("trade", 3, 3),
    ]


def test_feed_that_is_removed_while_the_stream_is_opened_again_is_not_missed() -> None:
    """The answer that was on its way has that feed still."""
    world = World({"fake": FakeFeed(), "other": FakeFeed("other", 7, {1: "btc/usd.other"})})
    talk = Talk(world)
    stream = talk.subscribe("*.fake", "*.other")
    talk.client.connection_lost("cut")
    talk.server = FakeProtocol(world)
    talk.client.connection_made()
    talk.client.receive_data(talk.server.receive(talk.client.data_to_send()))
    answer = talk.server.receive(talk.client.data_to_send())
    assert talk.client.update(stream, messages.UpdateParams(0, remove=["*.other"])) is None
    talk.client.receive_data(answer)
    talk.exchange()
    world.feeds["other"].append(Kind.TRADE)
    talk.client.update(stream, messages.UpdateParams(0, ["*.other"]))
    talk.exchange()
    world.feeds["other"].append(Kind.TRADE)
    talk.exchange()
    frames = [frame for frame in taken(stream) if frame.epoch]
    assert [(frame.kind, frame.cursor_first, frame.cursor_last) for frame in frames] == [("trade", 2, 2)]


def test_feed_that_is_away_during_an_update_is_still_missed() -> None:
    """It comes back as another epoch, and what the old one had is lost: that is told."""
    world = World({"fake": FakeFeed(), "other": FakeFeed("other", 7, {1: "btc/usd.other"})})
    talk = Talk(world)
    stream = talk.subscribe("*.fake", "btc*")
    del world.feeds["other"]
    talk.client.connection_lost("cut")
    talk.connect()
    for change in (messages.UpdateParams(0, rate_hz=5.0), messages.UpdateParams(0, remove=["*.fake"])):
        talk.client.update(stream, change)
        talk.exchange()
    assert stream.resume_params().resume["other"].epoch == 7
    talk.tell("rows", messages.Rows(cast(int, stream.id), "other", 9, 1, 1, b"\0" * 72))
    frames = [frame for frame in taken(stream) if frame.epoch]
    assert [(frame.feed, frame.kind, frame.detail) for frame in frames] == [("other", "gap", "epoch")]


def test_token_follows_a_feed_that_was_left_and_joined_again() -> None:
    world = World({"fake": FakeFeed(), "other": FakeFeed("other", 7, {1: "btc/usd.other"})})
    talk = Talk(world)
    stream = talk.subscribe("*.fake", "*.other")
    world.feeds["other"].append(Kind.TRADE)
    talk.exchange()
    talk.client.update(stream, messages.UpdateParams(0, remove=["*.other"]))
    talk.exchange()
    world.feeds["other"].append(Kind.TRADE)
    talk.client.update(stream, messages.UpdateParams(0, ["*.other"]))
    talk.exchange()
    assert stream.positions["other"] == Position(7, 0), "nothing is taken yet"
    assert len(taken(stream)) == 1
    assert stream.positions["other"] == Position(7, 2)
    talk.client.update(stream, messages.UpdateParams(0, remove=["*.other"]))
    talk.exchange()
    assert set(stream.positions) == {"fake"}


def test_stream_without_instruments_is_opened_again_when_it_has_some() -> None:
    """A server opens no such stream, and it would have ended for that."""
    talk = Talk()
    stream = talk.subscribe("btc*")
    talk.client.update(stream, messages.UpdateParams(0, remove=["btc*"]))
    talk.exchange()
    talk.client.connection_lost("cut")
    talk.connect()
    assert stream.state is State.LOST
    talk.client.update(stream, messages.UpdateParams(0, ["eth*"]))
    talk.exchange()
    assert stream.state is State.LIVE
    asked = [params.instruments for method, params in talk.world.requests if method == "subscribe"]
    assert asked == [["btc*"], ["eth*"]]


def test_stream_that_is_changed_while_it_is_opened_is_opened_with_the_change() -> None:
    talk = Talk()
    call = talk.client.subscribe(messages.SubscribeParams(["btc*"]))
    stream = cast(Subscription, call.subscription)
    assert talk.client.update(stream, messages.UpdateParams(0, ["eth*"])) is None
    talk.exchange()
    asked = [params.instruments for method, params in talk.world.requests if method == "subscribe"]
    assert asked == [["btc*"], ["btc*", "eth*"]]
    assert (stream.state, stream.id) == (State.LIVE, 2)


def test_change_that_is_answered_too_late_is_known_all_the_same() -> None:
    """Else the stream would be opened without it after the next reconnect, and its rows were missed without a word."""
    talk = Talk()
    stream = talk.subscribe("btc/usdt.spot.fake")
    call = talk.client.update(stream, messages.UpdateParams(0, add=["eth*"]))
    assert call is not None
    talk.client.forget(call)
    talk.exchange()
    assert stream.params.instruments == ["btc/usdt.spot.fake", "eth*"]
    talk.client.connection_lost("cut")
    talk.connect()
    assert stream.state is State.LIVE
    assert talk.world.requests[-1][1].instruments == ["btc/usdt.spot.fake", "eth*"]


def test_change_that_is_refused_too_late_or_lost_is_not_made() -> None:
    talk = Talk()
    stream = talk.subscribe("btc/usdt.spot.fake")
    talk.world.refuse["update"] = messages.ErrorBody(-32001, "no", {"code": "unknown_instrument"})
    for change in ("sol*", "xrp*"):
        call = talk.client.update(stream, messages.UpdateParams(0, add=[change]))
        assert call is not None
        talk.client.forget(call)
        if change == "sol*":
            talk.exchange()
    talk.client.connection_lost("cut")
    talk.connect()
    assert stream.params.instruments == ["btc/usdt.spot.fake"]


def test_stream_that_is_parked_while_an_update_is_on_its_way_is_opened_again_with_the_change() -> None:
    """The answer to the update is about a stream that is closed by then."""
    talk = Talk()
    stream = talk.subscribe("btc*")
    call = talk.client.update(stream, messages.UpdateParams(0, ["eth*"]))
    assert call is not None
    asked = talk.client.data_to_send()
    stream.buffered_bytes = 2 * BUFFER_BYTES
    talk.feed.append(Kind.TRADE)
    talk.client.receive_data(talk.server.stream())
    assert stream.state is State.PARKED
    talk.client.receive_data(talk.server.receive(asked))
    assert call.result() is not None
    stream.buffered_bytes = 0
    talk.client.reopen()
    talk.exchange()
    assert stream.state is State.LIVE
    assert stream.params.instruments == ["btc*", "eth*"]
    talk.feed.append(Kind.TRADE)
    talk.exchange()
    assert [frame.cursor_first for frame in taken(stream)] == [1, 2]


def test_notice_goes_to_the_streams_that_it_names_or_to_all() -> None:
    talk = Talk()
    first, second = talk.subscribe("btc*"), talk.subscribe("eth*")
    talk.tell("notice", messages.Notice("slow", "read faster", {2: {"fake": Position(4242, 0)}}))
    talk.tell("notice", messages.Notice("closing", "goodbye"))
    assert [frame.state for frame in taken(first)] == ["closing"]
    assert [frame.state for frame in taken(second)] == ["slow", "closing"]
