"""The methods that open, change and close a subscription.

Each does all of its waiting first and then changes the session in one go, so that the positions it answers with are
those from which the rows follow, and a request that is cut off by its deadline has changed nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from marketd.gateway.decode import Refusal, shown
from marketd.gateway.encode import encode_notification
from marketd.gateway.feeds import Feeds
from marketd.gateway.names import resolve, unmatched
from marketd.gateway.replay import Replay, find_start
from marketd.gateway.selection import Choice, Selection, split
from marketd.gateway.subscription import Subscription
from marketd.rpc import messages
from marketd.rpc.messages import ErrorCode, Request
from storage.tickreplay import Start

if TYPE_CHECKING:
    from marketd.gateway.session import Session

GLOBS_MAX = 256  # in one subscription: each is compared with every instrument that there is or ever will be


async def subscribe(session: Session, params: messages.SubscribeParams, _request: Request) -> messages.SubscribeResult:
    """Open a subscription."""
    feeds = session.gateway.feeds
    limit = session.gateway.limits.subscriptions_max
    if len(session.subscriptions) >= limit:
        raise Refusal(
            ErrorCode.LIMIT_EXCEEDED,
            f"there are {limit} subscriptions, as many as a client may have; unsubscribe one, or subscribe to more "
            "instruments in one",
            limit=limit,
        )
    _check_kinds(params)
    _check_positions(params.resume)
    kinds = kind_numbers(feeds, params.kinds)
    names, globs = split(params.instruments)
    _check_size(session, len(names) + len(globs), len(globs))
    rights = session.rights
    known = await resolve(feeds, names, session.gateway.carry, rights)
    selection = feeds.selections.intern(known, globs, kinds, rights.within)
    without_match = await unmatched(feeds, selection)
    choices = await feeds.choose(selection, states=params.contract == "latest" or params.snapshot)
    starts = await _replay_starts(session, params, selection, choices)
    # That took a while, and a feed that came meanwhile was told to those alone who had subscribed by then.
    choices = await feeds.choose(selection, states=params.contract == "latest" or params.snapshot)

    if not rights.usage.room_for_subscription:
        limit = rights.usage.quotas.subscriptions
        sentence = f"the token {rights.name!r} has {limit} subscriptions, as many as it may; unsubscribe one"
        raise Refusal(ErrorCode.LIMIT_EXCEEDED, sentence, limit=limit)
    subscription = Subscription(session.next_subscription(), selection, choices, params)
    for feed in feeds.all:
        subscription.join(feed)
    for name in (params.resume.keys() & subscription.follows.keys()) - starts.keys():
        subscription.resume(subscription.follows[name], params.resume[name], snapshot=params.snapshot)
    for name, follow in subscription.follows.items():
        if name in params.resume:
            continue
        if params.from_ns is not None and name not in starts:
            subscription.replay(follow, params.from_ns)
        if params.snapshot and (found := subscription.snapshot(follow)):
            session.put_after_answer(found)
    for name in starts.keys() & subscription.follows.keys():
        from_ns = None if name in params.resume else params.from_ns
        replay = Replay(session, subscription, subscription.follows[name], starts[name], from_ns)
        session.nursery.start_soon(replay.run)
    session.add_subscription(subscription)
    session.follows_changed()
    if strangers := sorted(params.resume.keys() - subscription.follows.keys()):
        session.put_after_answer(_strangers_notice(strangers))
    return subscription.describe(without_match)


async def _replay_starts(
    session: Session, params: messages.SubscribeParams, selection: Selection, choices: dict[str, Choice]
) -> dict[str, Start]:
    """Find out which feeds' recorded ticks are to come first, and from where."""
    starts = {}
    if params.contract != "latest":
        for name, feed in list(session.gateway.feeds.by_name.items()):
            if name in choices and feed.concerns(choices[name]):
                start = await find_start(session, feed, selection, params.resume.get(name), params.from_ns)
                if start is not None:
                    starts[name] = start
    return starts


async def update(session: Session, params: messages.UpdateParams, _request: Request) -> messages.SubscribeResult:
    """Change a subscription."""
    feeds = session.gateway.feeds
    subscription = _find(session, params.subscription)
    selection = subscription.selection
    add_names, add_globs = split(params.add)
    remove_names, remove_globs = split(params.remove)
    known = {found[1] if (found := feeds.find(name)) else name for name in remove_names}
    strangers = sorted((known - selection.names) | (remove_globs - selection.globs))
    if strangers:
        raise Refusal(
            ErrorCode.INVALID_PARAMS,
            f"update: to remove are {', '.join(strangers[:5])}, which this subscription does not have; it is removed "
            "by the same name or glob that it was added by",
            key="params.remove",
            unknown=strangers,
        )
    names = (selection.names - known) | await resolve(feeds, add_names, session.gateway.carry, session.rights)
    globs = (selection.globs - remove_globs) | add_globs
    _check_size(session, len(names) + len(globs) - _size(subscription), len(globs))
    selection = feeds.selections.intern(names, globs, selection.kinds, selection.within)
    without_match = await unmatched(feeds, selection)
    choices = await feeds.choose(selection, states=subscription.contract == "latest")

    if selection is not subscription.selection:
        subscription.change(selection, choices)
        for feed in feeds.all:
            subscription.join(feed)
    if params.rate_hz is not None:
        subscription.set_rate(params.rate_hz)
    if params.paused is not None:
        subscription.pause(paused=params.paused)
    session.follows_changed()
    return subscription.describe(without_match)


async def unsubscribe(
    session: Session, params: messages.UnsubscribeParams, _request: Request
) -> messages.UnsubscribeResult:
    """Close a subscription."""
    subscription = _find(session, params.subscription)
    session.drop_subscription(subscription)
    subscription.pause(paused=False)  # a replay that waits for that is over, too
    session.follows_changed()
    return messages.UnsubscribeResult(subscription.positions())


def kind_numbers(feeds: Feeds, kinds: Iterable[str]) -> list[int]:
    """Return the numbers of kinds.

    Raises:
        Refusal: INVALID_PARAMS with all that there are, if one is none.
    """
    unknown = sorted(set(kinds) - feeds.kinds.keys())
    if unknown:
        raise Refusal(
            ErrorCode.INVALID_PARAMS,
            f"subscribe: there are no rows of the kind {', '.join(map(shown, unknown))}; "
            f"there are: {', '.join(feeds.kinds)}",
            key="params.kinds",
            kinds=list(feeds.kinds),
        )
    return [feeds.kinds[kind] for kind in kinds]


def _find(session: Session, number: int) -> Subscription:
    subscription = session.subscriptions.get(number)
    if subscription is None:
        there = ", ".join(map(str, session.subscriptions)) or "none"
        raise Refusal(
            ErrorCode.UNKNOWN_SUBSCRIPTION,
            f"this connection has no subscription {number}; it has: {there}",
            subscriptions=list(session.subscriptions),
        )
    return subscription


def _size(subscription: Subscription) -> int:
    return len(subscription.selection.names) + len(subscription.selection.globs)


def _check_size(session: Session, added: int, globs: int) -> None:
    limit = session.gateway.limits.instruments_max
    total = added + sum(map(_size, session.subscriptions.values()))
    if total > limit:
        raise Refusal(
            ErrorCode.LIMIT_EXCEEDED,
            f"that makes {total} names and globs in all subscriptions; a client may have {limit}",
            limit=limit,
        )
    if globs > GLOBS_MAX:
        raise Refusal(
            ErrorCode.LIMIT_EXCEEDED, f"that makes {globs} globs; a subscription may have {GLOBS_MAX}", limit=GLOBS_MAX
        )


def _check_kinds(params: messages.SubscribeParams) -> None:
    if "level" in params.kinds and params.contract == "latest":
        raise Refusal(
            ErrorCode.INVALID_PARAMS,
            "subscribe: contract latest tells one row an instrument and kind, and a book is many levels: ask for kind "
            "level with contract lossless",
            key="params.kinds",
        )


def _check_positions(positions: dict[str, messages.Position]) -> None:
    for feed, position in positions.items():
        if position.cursor < 0:
            raise Refusal(
                ErrorCode.INVALID_PARAMS,
                f"subscribe: a cursor is 0 or more, and not {position.cursor}",
                key=f"params.resume[{feed!r}].cursor",
            )


def _strangers_notice(feeds: list[str]) -> bytes | bytearray:
    sentence = f"the positions to resume {', '.join(feeds)} from were ignored: this subscription reads no such feed"
    return encode_notification("notice", messages.Notice("resume_ignored", sentence[:1000]))
