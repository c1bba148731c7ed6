"""Does the daemon do its work? Pure: what the supervisor sees, looked at again and again, gives the answer.

This decides whether the service manager's watchdog is fed, and so what a new start of the *whole* daemon is worth. It
is the last resort, for what nothing else cures: a dead or mute actor is replaced by the supervisor, a venue that is
away comes back by itself, and a market that sleeps is no fault. What is left:

- an actor that is live and gives no sign of life, and is not replaced;
- no gateway at all;
- a gateway or a sampler that gives signs of life but does not follow a ring that moves;
- no feed that brings anything, or knows why it does not.

A supervisor that hangs does not look, and so does not feed either.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from marketd.rpc.messages import FeedState

MUTE_S = 2.0  # pulses come four times a second
FOLLOW_S = 5.0  # a reader reports within a quarter of a second what it has read
STILL_S = 30.0  # a feed that is not quiet and is that long without a row or a message
GATEWAY = "gateway"
SAMPLER = "sampler"


class ActorLook(NamedTuple):
    """An actor; ``pulse_age_s`` is None while it has no process, or that has said nothing yet."""

    name: str
    state: FeedState
    pulse_age_s: float | None


class FeedLook(NamedTuple):
    """A feed. ``messages``: how many came of the venue; ``quiet``: it knows why nothing comes."""

    name: str
    state: FeedState
    cursor: int
    messages: int
    quiet: bool


class Look(NamedTuple):
    """What can be seen of the tree at ``at_s``, by any monotonic clock.

    ``readers``: by gateway and sampler, how far each has read each feed that it is attached to.
    """

    at_s: float
    actors: list[ActorLook]
    feeds: list[FeedLook]
    readers: dict[str, dict[str, int]]


class Standstill(NamedTuple):
    """Something has had this value since then."""

    value: int
    since_s: float


Memory = Mapping[tuple[str, str], Standstill]


def judge(before: Memory, look: Look) -> tuple[list[str], Memory]:
    """Say in sentences why the daemon should be started anew, none if it should not; and what to remember."""
    memory = dict(_standstills(before, look))
    problems = [*_mute(look), *_no_gateway(look), *_left_behind(memory, look), *_still(memory, look)]
    return problems, memory


def begun(look: Look) -> bool:
    """Whether the start is over: feeds are live or have failed, gateways listen, and who reads rings is attached.

    A venue that is away must not keep the daemon from starting; the status says so.
    """
    live = {feed.name for feed in look.feeds if feed.state in ("live", "finished")}
    settled = all(actor.state != "starting" for actor in look.actors)
    listening = all(actor.state == "live" for actor in look.actors if actor.name.startswith(GATEWAY))
    readers = [actor.name for actor in look.actors if _reads(actor)]
    return settled and listening and all(live <= look.readers.get(name, {}).keys() for name in readers)


def _reads(actor: ActorLook) -> bool:
    return actor.state == "live" and actor.name.startswith((GATEWAY, SAMPLER))


def _actor_of(feed: FeedLook) -> str:
    return f"feed.{feed.name}"


def _standstills(before: Memory, look: Look) -> Iterator[tuple[tuple[str, str], Standstill]]:
    """Since when each feed has brought nothing, and each reader read nothing of a feed that is ahead of it."""
    for feed in look.feeds:
        values = {_actor_of(feed): feed.cursor + feed.messages}
        for actor in look.actors:
            read = look.readers.get(actor.name, {}).get(feed.name)
            if _reads(actor) and read is not None and read < feed.cursor:
                values[actor.name] = read
        for who, value in values.items():
            known = before.get((who, feed.name))
            stands = known is not None and known.value == value
            yield (who, feed.name), known if known is not None and stands else Standstill(value, look.at_s)


def _mute(look: Look) -> Iterator[str]:
    for actor in look.actors:
        if actor.state == "live" and actor.pulse_age_s is not None and actor.pulse_age_s > MUTE_S:
            yield f"{actor.name} has given no sign of life for {actor.pulse_age_s:.1f} s"


def _no_gateway(look: Look) -> Iterator[str]:
    if not any(actor.state == "live" for actor in look.actors if actor.name.startswith(GATEWAY)):
        yield "no gateway is live"


def _left_behind(memory: Memory, look: Look) -> Iterator[str]:
    for (who, feed), stands in memory.items():
        still_s = look.at_s - stands.since_s
        if who != f"feed.{feed}" and still_s >= FOLLOW_S:
            yield f"{who} has read nothing of {feed} for {still_s:.1f} s, though there is more"


def _still(memory: Memory, look: Look) -> Iterator[str]:
    live = [feed for feed in look.feeds if feed.state == "live"]
    still = [
        feed for feed in live if not feed.quiet and look.at_s - memory[_actor_of(feed), feed.name].since_s >= STILL_S
    ]
    if live and len(still) == len(live):
        yield f"nothing has come for {STILL_S:g} s, and no feed says why: {', '.join(feed.name for feed in still)}"
