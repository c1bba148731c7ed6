"""The sampler actor: all feeds' bars, and the one step clock.

    tick ring -> FeedBars (feed.py) -> BarSet (bars.py) -> bar segments, step ring

One task for each feed takes its rows as they come. One more, the step clock, wakes at each step of the shortest period
and when bars are due to be closed although nothing comes; it is aligned to the clock, so nothing adds up. Exactly one
sampler makes steps, however many clients listen: they read its step rings, and it knows of none of them.
"""

from __future__ import annotations

import contextlib

import structlog
import trio

from marketd.clock import SECOND_NS, Clock, PunctualClock
from marketd.errors import SegmentError
from marketd.sample.feed import FeedBars
from marketd.sample.warm_up import warm_up
from marketd.supervise.handle import ActorHandle
from marketd.supervise.messages import FeedInfo, FilledBars, SamplerReport, SamplerSpec

PAUSE_S = 0.01  # between two looks at a ring that is being written to: a step is never later than that
JUMP_NS = 2 * SECOND_NS
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
        sampler.attach()
        actor.statistics(sampler.report)
        actor.link.handle("feeds_changed", list[FeedInfo], sampler.note_states)
        actor.link.handle("fill", FilledBars, sampler.fill)
        async with trio.open_nursery() as nursery:
            for feed in sampler.feeds.values():
                nursery.start_soon(sampler.follow, feed)
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
    """

    def __init__(self, spec: SamplerSpec, clock: Clock) -> None:
        self.feeds: dict[str, FeedBars] = {}
        self._spec = spec
        self._clock = clock
        self._jumps = 0

    def attach(self) -> None:
        """Attach to every feed's segments. One that can't be is left out, and said so."""
        for info in self._spec.feeds:
            try:
                self.feeds[info.name] = FeedBars(info, self._spec.lateness_ms_of(info.name), self._spec.activity)
            except SegmentError as error:
                log.warning("bars.unreadable", feed=info.name, error=str(error))

    def close(self) -> None:
        """Let go of all segments."""
        for feed in self.feeds.values():
            feed.close()

    async def follow(self, feed: FeedBars) -> None:
        """Take a feed's rows, for ever."""
        while True:
            await feed.wait()
            await self._catch_up(feed)
            if feed.ended:
                await feed.finish()
            await trio.sleep(PAUSE_S)

    async def _catch_up(self, feed: FeedBars) -> None:
        """Take all that a feed has written."""
        while await feed.take(self._clock.now_ns()):
            await trio.lowlevel.checkpoint()

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
            before_ns, wall_ns = wall_ns, self._clock.now_ns()
            before_s, running_s = running_s, trio.current_time()
            self._note_jump(wall_ns - before_ns, running_s - before_s)
            for feed in self._in_real_time():
                await self._catch_up(feed)  # or what is there already would count as late
                await feed.advance(wall_ns)

    def _in_real_time(self) -> list[FeedBars]:
        return [feed for feed in self.feeds.values() if not feed.recorded]

    def _note_jump(self, wall_ns: int, running_s: float) -> None:
        """Say so if the clock was set, or if we did not run for a while. Either way the next steps are aligned."""
        jump_ns = wall_ns - round(running_s * SECOND_NS)
        if abs(jump_ns) > JUMP_NS:
            self._jumps += 1
            log.warning("clock.jumped", by_s=round(jump_ns / SECOND_NS, 3))
        elif running_s > SLEEP_S_MAX + JUMP_NS / SECOND_NS:
            log.warning("sampler.paused", for_s=round(running_s, 3))

    async def note_states(self, infos: list[FeedInfo]) -> None:
        """Learn that a feed's source has ended: then nothing of it is late any more."""
        for info in infos:
            feed = self.feeds.get(info.name)
            if feed is not None and info.state == "finished" and not feed.ended:
                feed.ended = True
                await self._catch_up(feed)
                await feed.finish()

    async def fill(self, told: FilledBars) -> None:
        """Mend bars of which something was missing, as their venue tells them now."""
        feed = self.feeds.get(told.feed)
        if feed is not None:
            await feed.fill(told)

    def report(self) -> SamplerReport:
        """What every pulse tells."""
        return SamplerReport(
            feeds={name: feed.counts for name, feed in self.feeds.items()},
            clock_jumps=self._jumps,
            cursors={name: feed.cursor for name, feed in self.feeds.items()},
        )
