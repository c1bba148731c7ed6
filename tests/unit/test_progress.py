"""What the watchdog is fed for, and what it is not. Times are seconds of a clock that is only counted."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from marketd.supervise.progress import FOLLOW_S, MUTE_S, STILL_S, ActorLook, FeedLook, Look, Memory, begun, judge


def feed(name="sim", *, cursor=0, messages=0, quiet=False, state="live") -> FeedLook:
    return FeedLook(name, state, cursor, messages, quiet)


def actor(name, state="live", age_s=0.1) -> ActorLook:
    return ActorLook(name, state, age_s)


ACTORS = [actor("feed.sim"), actor("sampler"), actor("history"), actor("gateway")]


def look(at_s=0.0, feeds=None, *, actors=None, read=None) -> Look:
    """Everything live, and all read, where nothing else is said."""
    feeds = [feed()] if feeds is None else feeds
    readers = {name: {one.name: one.cursor for one in feeds} for name in ("sampler", "gateway")}
    return Look(at_s, ACTORS if actors is None else actors, feeds, readers | (read or {}))


def problems(looks: Iterable[Look]) -> list[list[str]]:
    found, memory = [], dict[tuple[str, str], object]()
    for one in looks:
        sentences, memory = judge(memory, one)  # type: ignore[assignment, arg-type]
        found.append(sentences)
    return found


def ever(looks: Iterable[Look]) -> set[str]:
    return {sentence.partition(" for ")[0] for sentences in problems(looks) for sentence in sentences}


def test_flowing_data_feeds() -> None:
    assert not ever(look(at_s, [feed(cursor=100 * at_s)]) for at_s in range(200))


def test_readers_that_are_behind_but_move_feed() -> None:
    def at(at_s: int) -> Look:
        behind = {"sim": 90 * at_s}
        return look(at_s, [feed(cursor=100 * at_s + 1000)], read={"sampler": behind, "gateway": behind})

    assert not ever(map(at, range(200)))


@pytest.mark.parametrize("reader", ["sampler", "gateway"])
def test_reader_that_does_not_follow_a_moving_ring_starves_the_watchdog_and_feeds_it_again(reader: str) -> None:
    def at(at_s: int) -> Look:
        stuck = 300 if 3 <= at_s < 20 else 100 * at_s
        return look(at_s, [feed(cursor=100 * at_s + 1)], read={reader: {"sim": stuck}})

    told = problems(map(at, range(30)))
    hungry = [at_s for at_s, sentences in enumerate(told) if sentences]
    assert hungry == list(range(3 + int(FOLLOW_S), 20))
    assert told[hungry[0]] == [f"{reader} has read nothing of sim for 5.0 s, though there is more"]


def test_reader_that_does_not_follow_one_of_two_rings_is_found_though_the_other_flows() -> None:
    def at(at_s: int) -> Look:
        feeds = [feed("a", cursor=100 * at_s), feed("b", cursor=100 * at_s)]
        return look(at_s, feeds, read={"gateway": {"a": 100 * at_s, "b": 0}})

    assert ever(map(at, range(20))) == {"gateway has read nothing of b"}


def test_row_that_comes_now_and_then_is_no_standstill_of_its_readers() -> None:
    # The report is a pulse older than the cursor: at each look the newest row is missing, and soon it's another one.
    def at(at_s: int) -> Look:
        return look(at_s, [feed(cursor=at_s // 20 + 1)], read={"gateway": {"sim": max(0, at_s - 1) // 20 + 1}})

    assert not ever(map(at, range(400)))


def test_quiet_venue_at_night_feeds() -> None:
    assert not ever(look(at_s, [feed(cursor=7, quiet=True)]) for at_s in range(0, 40_000, 10))


def test_venues_heartbeats_without_rows_feed() -> None:
    assert not ever(look(at_s, [feed(cursor=7, messages=at_s)]) for at_s in range(200))


def test_feed_that_brings_nothing_and_does_not_know_why_starves_the_watchdog() -> None:
    told = problems(look(at_s, [feed(cursor=7)]) for at_s in range(50))
    assert [at_s for at_s, sentences in enumerate(told) if sentences] == list(range(int(STILL_S), 50))
    assert told[-1] == ["nothing has come for 30 s, and no feed says why: sim"]


def test_one_feed_that_works_is_enough() -> None:
    assert not ever(look(at_s, [feed("a", cursor=7), feed("b", cursor=at_s)]) for at_s in range(200))
    assert not ever(look(at_s, [feed("a", cursor=7), feed("b", quiet=True)]) for at_s in range(200))


@pytest.mark.parametrize("state", ["down", "failing", "finished", "starting", "stopped"])
def test_feeds_that_are_not_live_are_no_reason_to_start_everything_anew(state) -> None:
    actors = [actor("feed.sim", state, None), *ACTORS[1:]]
    assert not ever(look(at_s, [feed(cursor=7, state=state)], actors=actors) for at_s in range(200))


def test_no_feed_at_all_feeds() -> None:
    assert not ever(look(at_s, []) for at_s in range(200))


@pytest.mark.parametrize("name", ["feed.sim", "sampler", "history", "gateway"])
def test_actor_that_is_live_and_mute_starves_the_watchdog(name: str) -> None:
    actors = [one._replace(pulse_age_s=MUTE_S + 0.5) if one.name == name else one for one in ACTORS]
    assert problems([look(actors=actors)]) == [[f"{name} has given no sign of life for 2.5 s"]]


@pytest.mark.parametrize("name", ["feed.sim", "sampler", "history"])
def test_actor_that_is_being_replaced_feeds(name: str) -> None:
    actors = [actor(name, "down", None) if one.name == name else one for one in ACTORS]
    assert not ever([look(actors=actors)])


def test_without_any_gateway_the_watchdog_starves() -> None:
    def of(*states: str) -> set[str]:
        gateways = [actor(f"gateway.{number}", state) for number, state in enumerate(states, 1)]
        return ever([look(actors=[*ACTORS[:-1], *gateways])])  # type: ignore[arg-type]

    assert of("failing", "down") == {"no gateway is live"}
    assert not of("failing", "live")


def test_new_epoch_with_smaller_cursors_is_no_standstill() -> None:
    looks = [look(0, [feed(cursor=10_000)]), *(look(at_s, [feed(cursor=at_s)]) for at_s in range(1, 100))]
    assert not ever(looks)


def test_reader_that_comes_back_begins_anew() -> None:
    memory: Memory = {}
    for at_s in range(20):
        away = 4 <= at_s < 12
        read = {} if away else {"sim": 100 * at_s}
        actors = [*ACTORS[:-1], actor("gateway.2"), actor("gateway", "down" if away else "live")]
        sentences, memory = judge(memory, look(at_s, [feed(cursor=100 * at_s)], actors=actors, read={"gateway": read}))
        assert not sentences


def test_feed_called_as_an_actor_is_not_taken_for_it() -> None:
    assert not ever(look(at_s, [feed("sampler", cursor=7, quiet=True)]) for at_s in range(200))


# --- the start ---


def test_start_is_over_when_feeds_are_live_readers_attached_and_gateways_listen() -> None:
    assert begun(look())
    assert not begun(look(read={"gateway": {}})), "its ring is not attached"
    assert not begun(look(read={"sampler": {}})), "its ring is not attached"
    assert not begun(look(feeds=[feed(state="starting")], actors=[actor("feed.sim", "starting"), *ACTORS[1:]]))
    for state in ("starting", "down", "failing"):
        assert not begun(look(actors=[*ACTORS[:-1], actor("gateway", state)]))  # type: ignore[arg-type]
    assert not begun(look(actors=[ACTORS[0], actor("sampler", "starting"), *ACTORS[2:]]))


def test_feed_that_has_failed_does_not_keep_the_daemon_from_starting() -> None:
    actors = [actor("feed.sim", "down", None), *ACTORS[1:]]
    assert begun(look(feeds=[feed(state="down")], actors=actors, read={"gateway": {}, "sampler": {}}))


def test_without_bars_there_is_no_sampler_to_wait_for() -> None:
    assert begun(look(actors=[ACTORS[0], ACTORS[-1]]))
