"""Links, end to end over memory channels. With ``autojump_clock`` waiting costs no time."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

import msgspec
import pytest
import trio
import trio.testing

from marketd.errors import LinkClosed, RequestRefused, RequestTimeout
from marketd.supervise import link as link_module
from marketd.supervise.link import Link


class Number(msgspec.Struct, frozen=True):
    value: int


@dataclass
class Pair:
    """Two linked ends and how to cut between them."""

    here: Link
    there: Link
    nursery: trio.Nursery
    to_there: trio.MemorySendChannel[bytes]
    to_here: trio.MemorySendChannel[bytes]

    def cut(self) -> None:
        self.to_there.close()
        self.to_here.close()


@contextlib.asynccontextmanager
async def open_pair(*, held: bool = False, carrier_messages: int = 0) -> AsyncIterator[Pair]:
    to_there, from_here = trio.open_memory_channel[bytes](carrier_messages)
    to_here, from_there = trio.open_memory_channel[bytes](carrier_messages)
    here, there = Link(to_there.send, name="there"), Link(to_here.send, name="here", held=held)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(here.run, from_there)
        nursery.start_soon(there.run, from_here)
        yield Pair(here, there, nursery, to_there, to_here)
        nursery.cancel_scope.cancel()


async def double(number: Number) -> Number:
    return Number(number.value * 2)


async def test_requests_are_answered_in_both_directions():
    async with open_pair() as pair:
        pair.there.handle("double", Number, double)
        pair.here.handle("double", Number, double)
        assert await pair.here.request("double", Number(3), result=Number, timeout_s=1) == Number(6)
        assert await pair.there.request("double", Number(4), result=Number, timeout_s=1) == Number(8)


async def test_answers_find_their_requests_whatever_their_order(autojump_clock):
    async def after(number: Number) -> Number:
        await trio.sleep(number.value)
        return number

    answers: list[int] = []
    async with open_pair() as pair:
        pair.there.handle("after", Number, after)

        async def ask(seconds: int) -> None:
            answer = await pair.here.request("after", Number(seconds), result=Number, timeout_s=99)
            assert answer.value == seconds
            answers.append(seconds)

        async with trio.open_nursery() as nursery:
            for seconds in (3, 1, 2):
                nursery.start_soon(ask, seconds)
    assert answers == [1, 2, 3]


async def test_method_without_parameters_and_without_answer():
    async def nothing() -> None:
        pass

    async with open_pair() as pair:
        pair.there.handle("nothing", None, nothing)
        assert await pair.here.request("nothing", result=type(None), timeout_s=1) is None


async def test_request_without_answer_ends_at_its_deadline_and_leaves_nothing(autojump_clock):
    async def never(_: Number) -> None:
        await trio.sleep_forever()

    async with open_pair() as pair:
        pair.there.handle("never", Number, never)
        with pytest.raises(RequestTimeout, match="there did not answer 'never' within 2 s"):
            await pair.here.request("never", Number(0), result=Number, timeout_s=2)
        assert pair.here.statistics().pending == 0


async def test_answer_after_the_deadline_is_ignored(autojump_clock):
    async with open_pair() as pair:
        pair.there.handle("double", Number, double)
        pair.there.handle("late", Number, lambda number: trio.sleep(5))
        with pytest.raises(RequestTimeout):
            await pair.here.request("late", Number(1), result=Number, timeout_s=1)
        await trio.sleep(10)
        assert await pair.here.request("double", Number(1), result=Number, timeout_s=1) == Number(2)


async def test_refusal_arrives_with_its_code_and_text():
    async def refuse() -> None:
        raise RequestRefused("unknown_feed", "no such feed")

    async with open_pair() as pair:
        pair.there.handle("refuse", None, refuse)
        with pytest.raises(RequestRefused, match="no such feed") as refused:
            await pair.here.request("refuse", result=Number, timeout_s=1)
        assert refused.value.code == "unknown_feed"


async def test_handler_that_raises_costs_its_asker_a_refusal_and_nobody_else_anything():
    async def broken() -> None:
        raise ZeroDivisionError("by zero")

    async with open_pair() as pair:
        pair.there.handle("broken", None, broken)
        pair.there.handle("double", Number, double)
        with pytest.raises(RequestRefused, match="ZeroDivisionError: by zero") as refused:
            await pair.here.request("broken", result=Number, timeout_s=1)
        assert refused.value.code == "internal"
        await pair.here.notify("broken")
        assert await pair.here.request("double", Number(1), result=Number, timeout_s=1) == Number(2)


@pytest.mark.parametrize(
    ("method", "params", "code"),
    [("nonsense", None, "unknown_method"), ("double", "three", "invalid_params"), ("odd", None, "invalid_result")],
)
async def test_what_does_not_fit_is_refused(method: str, params: object, code: str):
    async def odd() -> str:
        return "odd"

    async with open_pair() as pair:
        pair.there.handle("double", Number, double)
        pair.there.handle("odd", None, odd)
        with pytest.raises(RequestRefused) as refused:
            await pair.here.request(method, params, result=Number, timeout_s=1)
        assert refused.value.code == code


async def test_pending_and_later_requests_fail_when_the_other_side_is_gone():
    async with open_pair() as pair:
        pair.there.handle("never", None, trio.sleep_forever)
        async with trio.open_nursery() as nursery:

            async def ask() -> None:
                with pytest.raises(LinkClosed, match="there is gone"):
                    await pair.here.request("never", result=Number, timeout_s=99)

            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            pair.cut()
        await pair.here.closed.wait()
        with pytest.raises(LinkClosed):
            await pair.here.request("never", result=Number, timeout_s=1)
        with pytest.raises(LinkClosed):
            await pair.here.notify("never")


async def test_notifications_of_one_method_are_handled_in_the_order_sent():
    seen: list[int] = []
    done = trio.Event()

    async def note(number: Number) -> None:
        await trio.lowlevel.checkpoint()
        seen.append(number.value)
        if number.value == 499:
            done.set()

    async with open_pair() as pair:
        pair.there.handle("note", Number, note)
        for value in range(500):
            await pair.here.notify("note", Number(value))
        await done.wait()
    assert seen == list(range(500))


async def test_slow_handler_holds_up_neither_another_method_nor_the_reader():
    pulses = 0

    async def pulse() -> None:
        nonlocal pulses
        pulses += 1

    async with open_pair() as pair:
        pair.there.handle("slow", None, trio.sleep_forever)
        pair.there.handle("pulse", None, pulse)
        for _ in range(100):
            await pair.here.notify("slow")
            await pair.here.notify("pulse")
        await trio.testing.wait_all_tasks_blocked()
    assert pulses == 100


async def test_full_inbox_drops_the_oldest_and_counts_them(monkeypatch):
    monkeypatch.setattr(link_module, "INBOX_MESSAGES_MAX", 10)
    seen: list[int] = []
    go = trio.Event()

    async def note(number: Number) -> None:
        await go.wait()
        seen.append(number.value)

    async with open_pair() as pair:
        pair.there.handle("note", Number, note)
        for value in range(31):
            await pair.here.notify("note", Number(value))
        await trio.testing.wait_all_tasks_blocked()
        assert pair.there.statistics().dropped == 20
        go.set()
        await trio.testing.wait_all_tasks_blocked()
    assert seen == [0, *range(21, 31)]  # 0 was being handled


async def test_too_many_requests_are_refused_as_overload(autojump_clock, monkeypatch):
    monkeypatch.setattr(link_module, "HANDLERS_MAX", 3)
    codes: list[str] = []
    async with open_pair() as pair:
        pair.there.handle("never", None, trio.sleep_forever)

        async def ask() -> None:
            try:
                await pair.here.request("never", result=Number, timeout_s=5)
            except RequestRefused as error:
                codes.append(error.code)
            except RequestTimeout:
                codes.append("timeout")

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(ask)
    assert sorted(codes) == ["overloaded", "overloaded", "timeout", "timeout", "timeout"]


async def test_refusals_that_nobody_reads_are_bounded(autojump_clock, monkeypatch):
    monkeypatch.setattr(link_module, "HANDLERS_MAX", 2)
    monkeypatch.setattr(link_module, "REFUSALS_MAX", 3)
    monkeypatch.setattr(link_module, "OUTBOX_MESSAGES_MAX", 1)
    stuck = Link(lambda message: trio.sleep_forever(), name="a peer that reads nothing")
    send, receive = trio.open_memory_channel[bytes](0)
    asker = Link(send.send, name="asker")
    stuck.handle("quick", None, trio.lowlevel.checkpoint)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stuck.run, receive)
        nursery.start_soon(asker.run, trio.open_memory_channel[bytes](0)[1])
        for _ in range(100):
            with pytest.raises(RequestTimeout):
                await asker.request("quick", result=Number, timeout_s=1)
        assert stuck.statistics().dropped > 0
        assert stuck.statistics().answering <= 2
        nursery.cancel_scope.cancel()


async def test_cancelled_request_does_not_cut_the_message_that_is_being_sent(autojump_clock):
    sent: list[str] = []

    async def send_slowly(message: bytes) -> None:
        sent.append("begun")
        await trio.sleep(10)
        sent.append("sent")

    link = Link(send_slowly, name="slow")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run, trio.open_memory_channel[bytes](0)[1])
        with pytest.raises(RequestTimeout):
            await link.request("any", result=Number, timeout_s=1)
        await trio.sleep(20)
        nursery.cancel_scope.cancel()
    assert sent == ["begun", "sent"]


async def test_request_to_a_peer_that_reads_nothing_ends_at_its_deadline(autojump_clock, monkeypatch):
    monkeypatch.setattr(link_module, "OUTBOX_MESSAGES_MAX", 4)
    link = Link(lambda message: trio.sleep_forever(), name="stopped")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run, trio.open_memory_channel[bytes](0)[1])
        for _ in range(10):
            with pytest.raises(RequestTimeout):
                await link.request("any", result=Number, timeout_s=1)
        nursery.cancel_scope.cancel()


async def test_held_link_keeps_what_comes_until_its_handlers_are_there():
    seen: list[int] = []
    stopped = trio.Event()

    async def note(number: Number) -> None:
        seen.append(number.value)

    async def stop() -> None:
        stopped.set()

    async with open_pair(held=True) as pair:
        pair.there.handle("stop", None, stop, early=True)
        async with trio.open_nursery() as nursery:

            async def ask() -> None:
                assert await pair.here.request("double", Number(2), result=Number, timeout_s=9) == Number(4)

            nursery.start_soon(ask)
            await pair.here.notify("note", Number(1))
            await pair.here.notify("note", Number(2))
            await pair.here.notify("stop")
            await stopped.wait()
            await trio.testing.wait_all_tasks_blocked()
            assert seen == []
            pair.there.handle("double", Number, double)
            pair.there.handle("note", Number, note)
            pair.there.release()
        await trio.testing.wait_all_tasks_blocked()
    assert seen == [1, 2]


async def test_what_was_said_before_the_end_is_still_handled(autojump_clock):
    seen: list[int] = []

    async def note(number: Number) -> None:
        await trio.sleep(0.001)
        seen.append(number.value)

    async with open_pair(carrier_messages=100) as pair:
        pair.there.handle("note", Number, note)
        for value in range(50):
            await pair.here.notify("note", Number(value))
        await trio.testing.wait_all_tasks_blocked(cushion=0.0)
        pair.cut()
        await trio.sleep(1)
        assert pair.there.closed.is_set()
    assert seen == list(range(50))


async def test_end_does_not_wait_for_handlers_that_do_not(autojump_clock):
    async with open_pair() as pair:
        pair.there.handle("never", None, trio.sleep_forever)
        await pair.here.notify("never")
        await trio.testing.wait_all_tasks_blocked()
        pair.cut()
        with trio.fail_after(2 * link_module.DRAIN_S):
            await pair.there.closed.wait()


async def test_peer_that_cannot_be_sent_to_is_still_heard():
    seen: list[int] = []

    async def broken(message: bytes) -> None:
        raise trio.BrokenResourceError

    async def note(number: Number) -> None:
        seen.append(number.value)

    to_here, from_there = trio.open_memory_channel[bytes](10)
    here, there = Link(broken, name="there"), Link(to_here.send, name="here")
    here.handle("note", Number, note)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(here.run, from_there)
        nursery.start_soon(there.run, trio.open_memory_channel[bytes](0)[1])
        with contextlib.suppress(LinkClosed):
            await here.notify("anything")
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(LinkClosed):
            await here.notify("anything")
        await there.notify("note", Number(7))
        await trio.testing.wait_all_tasks_blocked()
        assert seen == [7]
        to_here.close()
        nursery.cancel_scope.cancel()


async def test_ten_thousand_requests_leave_nothing_behind():
    async with open_pair() as pair:
        pair.there.handle("double", Number, double)
        for value in range(10_000):
            await pair.here.request("double", Number(value), result=Number, timeout_s=1)
        for end in (pair.here, pair.there):
            statistics = end.statistics()
            assert (statistics.pending, statistics.answering, statistics.inboxes, statistics.outbox) == (0, 0, 0, 0)
            assert statistics.dropped == 0


async def test_nonsense_is_an_error_of_the_link():
    send, receive = trio.open_memory_channel[bytes](1)
    link = Link(send.send, name="fool")
    send.send_nowait(b"\xc1 is no message")
    with pytest.raises(msgspec.DecodeError):
        await link.run(receive)
    assert link.closed.is_set()
