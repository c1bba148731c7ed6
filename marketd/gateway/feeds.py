"""All feeds that this gateway reads, as the supervisor announces them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec
import structlog
import trio

from marketd.errors import SegmentError
from marketd.gateway.feed import Feed, StepFeed
from marketd.gateway.rowsort import TICK_ROWS
from marketd.gateway.selection import Choice, Selection, Selections
from marketd.gateway.subscription import Subscription
from marketd.ring.layout import KINDS_BY_NAME
from marketd.supervise.messages import FeedInfo
from marketd.trouble import Unreadable

RELEASE_S = 5.0  # for requests that were reading a feed when it went
TICK_KINDS = ("trade", "quote", "level", "gap", "status")  # the last two come with any

log = structlog.get_logger("marketd.gateway")


class Subscriber(Protocol):
    """A client's session, seen from here."""

    subscriptions: dict[int, Subscription]

    def feed_changed(self, feed: Feed) -> None:
        """Take notice that a feed is new, has new instruments, or another state."""
        ...


class Feeds:
    """The feeds by name.

    Attributes:
        by_name: those that are attached.
        steps: their bars, by the feeds' names, where there are any.
        kinds: the numbers of all kinds of rows, by name.
        subscribers: every client that may want to know of changes.
        selections: what the clients ask for.
        unreadable: those that are announced and could not be attached to; they are when they are announced again.
    """

    def __init__(self, nursery: trio.Nursery) -> None:
        self.by_name: dict[str, Feed] = {}
        self.steps: dict[str, StepFeed] = {}
        self.kinds: dict[str, int] = {name: int(KINDS_BY_NAME[name]) for name in TICK_KINDS}
        self.subscribers: set[Subscriber] = set()
        self.selections = Selections()
        self.unreadable = Unreadable(log, "feed.unreadable", "feed.readable")
        self._retired: list[Feed] = []
        self._nursery = nursery

    @property
    def all(self) -> list[Feed]:
        """All that can be followed: the feeds, and their bars."""
        return [*self.by_name.values(), *self.steps.values()]

    @property
    def all_and_retired(self) -> list[Feed]:
        """The same, and those of which clients are still being told the end."""
        return [*self.all, *self._retired]

    async def announce(self, infos: Sequence[FeedInfo]) -> None:
        """Take over the supervisor's list: attach to what is new, note the others' states."""
        epochs = {info.name: info.epoch for info in infos}
        self.unreadable.keep(epochs)
        for feed in self.all:
            if epochs.get(feed.info.name) != feed.info.epoch:
                await self._retire(feed)
        for info in infos:
            known = [feed for feed in self.all if feed.info.name == info.name]
            for feed in known:
                self._set_info(feed, info)
            if not known:
                await self._attach(info)

    async def _retire(self, feed: Feed) -> None:
        """Let nobody new read a feed that has gone; who reads it gets what is there, and its end."""
        await feed.advance()
        del (self.steps if isinstance(feed, StepFeed) else self.by_name)[feed.info.name]
        feed.retired_s = trio.current_time()
        self._retired.append(feed)
        self._set_info(feed, msgspec.structs.replace(feed.info, state="stopped", detail="no longer configured"))
        log.debug("feed.retired", feed=feed.name, epoch=feed.epoch, cursor=feed.head)

    def release(self, now_s: float) -> None:
        """Let go of the segments of feeds that have gone, once nobody reads them."""
        for feed in list(self._retired):
            assert feed.retired_s is not None
            if feed.listeners or now_s - feed.retired_s < RELEASE_S:
                continue
            if feed.left:
                self._retired.remove(feed)
                feed.close()
                log.debug("feed.released", feed=feed.name, epoch=feed.epoch)
            else:
                feed.leave()

    def _set_info(self, feed: Feed, info: FeedInfo) -> None:
        if info != feed.info:
            feed.info = info
            self._tell(feed)

    async def _attach(self, info: FeedInfo) -> None:
        feeds: list[Feed] = []
        try:
            feeds.append(Feed(info, self._tell))
            if info.series:
                feeds.append(StepFeed(info, self._tell))
        except SegmentError as error:
            for feed in feeds:
                feed.close()
            self.unreadable.note(info.name, error)
            return
        self.unreadable.forget(info.name)
        for feed in feeds:
            await self._add(feed)

    async def _add(self, feed: Feed) -> None:
        await feed.learn()
        if isinstance(feed, StepFeed):
            self.steps[feed.info.name] = feed
            self.kinds |= {name: kind for kind, name in feed.sort.kinds.items()}
        else:
            self.by_name[feed.name] = feed
        # Subscriptions made from now on see the feed themselves.
        for subscriber in list(self.subscribers):
            for subscription in list(subscriber.subscriptions.values()):
                await self._consider(feed, subscription)
            subscriber.feed_changed(feed)
        # Not before: who has subscribed already reads a new feed from its first row on.
        await feed.advance()
        self._nursery.start_soon(feed.follow)
        log.debug("feed.attached", feed=feed.name, epoch=feed.epoch, cursor=feed.head, instruments=len(feed.names))

    async def _consider(self, feed: Feed, subscription: Subscription) -> None:
        selection = subscription.selection
        choice = await feed.choose(selection)
        if subscription.contract == "latest" and feed.sort is TICK_ROWS:
            await feed.open_latest()
        if subscription.selection is selection:  # else it was changed meanwhile, and knows this feed already
            subscription.choices[feed.name] = choice

    async def choose(self, selection: Selection, *, states: bool) -> dict[str, Choice]:
        """Find out what a selection means in each feed that there is when this returns, by feed name.

        Args:
            states: whether the state of the instruments will be told.
        """
        choices: dict[str, Choice] = {}
        while missing := [f for f in self.all if f.name not in choices or not f.made(choices[f.name])]:
            feed = missing[0]
            if states and feed.sort is TICK_ROWS:
                await feed.open_latest()
            choices[feed.name] = await feed.choose(selection)
        return choices

    async def learn(self) -> None:
        """Take in instruments that a feed has got just now."""
        for feed in self.all:
            await feed.learn()

    def _tell(self, feed: Feed) -> None:
        for subscriber in list(self.subscribers):
            subscriber.feed_changed(feed)

    def find(self, name: str) -> tuple[Feed, str] | None:
        """Find an instrument by its full name, in any case, with or without the slash.

        Returns:
            The feed that has it, and its name as it is written there.
        """
        wanted = name.strip().lower()
        for feed in self.by_name.values():
            found = feed.find(wanted)
            if found is not None:
                return feed, found
        return None

    def close(self) -> None:
        """Let go of all segments."""
        for feed in self.all_and_retired:
            feed.close()
