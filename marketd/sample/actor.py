"""The sampler actor: all feeds' bars, and the one step clock.

    tick ring -> FeedBars (feed.py) -> BarSet (bars.py) -> bar segments, step ring

One task for each feed takes its rows as they come. One more, the step clock, wakes at each step of the shortest period
and when bars are due to be closed although nothing comes; it is aligned to the clock, so nothing adds up. Exactly one
sampler makes steps, however many clients listen: they read its step rings, and it knows of none of them.
"""

from __future__ import annotations

import contextlib
from functools import partial

import structlog
import trio

from marketd.clock import JUMP_NS, SECOND_NS, PunctualClock, SteadyClock
from marketd.errors import SegmentError
from marketd.sample.feed import FeedBars
from marketd.sample.warm_up import warm_up
from marketd.supervise.handle import ActorHandle
from marketd.supervise.messages import FeedInfo, FilledBars, SamplerReport, SamplerSpec
from marketd.trouble import Unreadable

PAUSE_S = 0.01  # between two looks at a ring that is being written to: a step is never later than that
SLEEP_S_MAX = 1.0

log = structlog.get_logger("marketd.sample")


async def run_sampler(actor: ActorHandle) -> None:
    """Make bars until asked to stop."""
    spec = actor.config(SamplerSpec)
    # In a thread: where nothing was compiled before it takes ten seconds, and the pulses must go on.
    await trio.to_thread.run_sync(warm_up)
    sampler = Sampler(spec, PunctualClock())
    with contextlib.ExitStack() as stack:
        stack.callback(sampler.close)
        actor.statistics(sampler.report)
        actor.trouble(sampler.troubles, sampler.unreadable)
        async with trio.open_nursery() as nursery:
            for info in spec.feeds:
                sampler.attach(info, nursery)
            actor.link.handle("feeds_changed", list[FeedInfo], partial(sampler.take_feeds, nursery))
            actor.link.handle("fill", FilledBars, sampler.fill)
            nursery.start_soon(sampler.keep_time)
            await actor.ready()
            log.debug("sampler.started", feeds=len(sampler.feeds))
            await actor.stopping.wait()
            nursery.cancel_scope.cancel()
        await sampler.drain()


class Sampler:
    """See the module.

    Attributes:
        feeds: those whose segments could be attached to, by name.
        unreadable: the others.
    """

    def __init__(self, spec: SamplerSpec, clock: SteadyClock) -> None:
        self.feeds: dict[str, FeedBars] = {}
        self.unreadable = Unreadable(log, "bars.unreadable", "bars.readable")
        self._spec = spec
        self._clock = clock

    def attach(self, info: FeedInfo, nursery: trio.Nursery) -> None:
        """Attach to a feed's segments, and take its rows. One that can't be is left out, and said so, until it is
        announced again."""
        try:
            feed = FeedBars(info, self._spec.lateness_ms_of(info.name), self._spec.activity)
        except SegmentError as error:
            self.unreadable.note(info.name, error)
            return
        self.unreadable.forget(info.name)
        self.feeds[info.name] = feed
        nursery.start_soon(self.follow, feed)

    def close(self) -> None:
        """Let go of all segments."""
        for feed in self.feeds.values():
            feed.close()

    async def follow(self, feed: FeedBars) -> None:
        """Take a feed's rows, until it is gone."""
        try:
            with feed.following:
                while True:
                    await feed.wait()
                    await self._catch_up(feed)
                    if feed.ended:
                        await feed.finish()
                    await trio.sleep(PAUSE_S)
        finally:
            feed.unfollowed.set()

    async def _catch_up(self, feed: FeedBars) -> None:
        """Take all that a feed has written."""
        while await feed.take(self._clock):
            await trio.lowlevel.checkpoint()

    async def _detach(self, name: str) -> None:
        """Take the last rows of a feed that has gone, and let go of its segments. What was forming stays unfinished."""
        feed = self.feeds.pop(name)
        await self._catch_up(feed)
        await feed.leave()

    async def drain(self) -> None:
        """Take all that the feeds have written before they stopped."""
        for feed in self.feeds.values():
            await self._catch_up(feed)

    async def keep_time(self) -> None:
        """Open and close what is due, for ever, of the feeds whose time is the machine's."""
        wall_ns, running_s = self._clock.now_ns(), trio.current_time()
        while True:
            due_ns = min((feed.next_due_ns(wall_ns) for feed in self._in_real_time()), default=wall_ns + SECOND_NS)
            with trio.move_on_after(SLEEP_S_MAX):
                await self._clock.sleep_until(due_ns)
            before_s, running_s = running_s, trio.current_time()
            if running_s - before_s > SLEEP_S_MAX + JUMP_NS / SECOND_NS:
                log.warning("sampler.paused", for_s=round(running_s - before_s, 3))
            for feed in self._in_real_time():
                await self._catch_up(feed)  # or what is there already would count as late
                wall_ns = self._clock.now_ns()
                await feed.advance(wall_ns)

    def _in_real_time(self) -> list[FeedBars]:
        return [feed for feed in self.feeds.values() if not feed.recorded]

    async def take_feeds(self, nursery: trio.Nursery, infos: list[FeedInfo]) -> None:
        """Take over the supervisor's list: feeds come and go, and some have another state."""
        epochs = {info.name: info.epoch for info in infos}
        self.unreadable.keep(epochs)
        for name, feed in list(self.feeds.items()):
            if epochs.get(name) != feed.epoch:
                await self._detach(name)
        for info in infos:
            if info.name not in self.feeds:
                if info.series:
                    self.attach(info, nursery)
            else:
                await self._note_state(self.feeds[info.name], info)

    async def _note_state(self, feed: FeedBars, info: FeedInfo) -> None:
        """Learn that a feed was stopped, or that its source has ended: then nothing of it is late any more."""
        feed.stopped = info.state == "stopped"
        if info.state == "finished" and not feed.ended:
            feed.ended = True
            await self._catch_up(feed)
            await feed.finish()

    async def fill(self, told: FilledBars) -> None:
        """Mend bars of which something was missing, as their venue tells them now."""
        feed = self.feeds.get(told.feed)
        if feed is not None:
            await feed.fill(told)

    def troubles(self) -> list[str]:
        """Why some instruments have no bars."""
        return [feed.trouble for feed in self.feeds.values()]

    def report(self) -> SamplerReport:
        """What every pulse tells."""
        return SamplerReport(
            feeds={name: feed.counts for name, feed in self.feeds.items()},
            cursors={name: feed.cursor for name, feed in self.feeds.items()},
        )
