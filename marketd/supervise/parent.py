"""The parent's side of an actor, but for its carrier: whether the process lives, how it fares, and why it died.

A process that still exists may be of no use: stopped, or with a blocked loop. So what counts is its pulse. The pulses
come on the same link as everything else, because its reader never waits for a handler (see `link.py`): they can be
delayed by what is ahead of them in the socket's buffers, a fraction of a second, but they can't be stalled. A second
channel for them would be one more thing that can break.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import msgspec
import structlog
import trio

from marketd.errors import ActorDied, LinkClosed, RequestTimeout
from marketd.observe.vitals import Vitals
from marketd.supervise.handle import Failure, PulseReport
from marketd.supervise.link import Link

MUTE_CHECKS = 20
LAST_WORDS_S = 1.0  # for what a dead process has said to be read
REAP_S = 1.0  # for the kernel to end a process that was killed

log = structlog.get_logger("marketd.supervise.parent")


@dataclass(frozen=True)
class Pulse:
    """A child's last sign of life, when it came by ``time.monotonic``; ``statistics`` is empty if it has none."""

    received_monotonic: float
    statistics: msgspec.Raw
    vitals: Vitals
    trouble: str
    unread: bool


class Child:
    """An actor process, seen from its parent.

    Attributes:
        pid: of the process.
        name: of the actor.
        link: what to ask and tell it with.
        info: what the actor gave to ``ready()``, MessagePack; empty before.
        last_pulse: None until the first one, which comes before `open_actor` returns.
    """

    def __init__(self, name: str, process: trio.Process, send: Callable[[bytes], Awaitable[None]]) -> None:
        self.name = name
        self.pid = process.pid
        self.link = Link(send, name=name)
        self.info = msgspec.Raw()
        self.last_pulse: Pulse | None = None
        self.begun = trio.Event()  # the first pulse has come, or never will
        self._process = process
        self._pulses = 0
        self._ready = False
        self._settled = trio.Event()  # ready or gone
        self._gone = trio.Event()
        self._outcome: list[Failure] | None = None  # empty when it has returned
        self._doom: str | None = None
        self._death: ActorDied | None = None
        self.link.handle("actor.pulse", PulseReport, self._take_pulse)
        self.link.handle("actor.ready", msgspec.Raw, self._take_ready)
        self.link.handle("actor.outcome", list[Failure], self._take_outcome)

    @property
    def gone(self) -> bool:
        """Whether the process has ended, and been reaped."""
        return self._gone.is_set()

    async def wait_ready(self, timeout_s: float) -> None:
        """Return once the actor has called ``ready()``.

        Raises:
            ActorDied: it was gone before that.
            RequestTimeout: it is neither ready nor gone after ``timeout_s``.
        """
        with trio.move_on_after(timeout_s):
            await self._settled.wait()
        if self._ready:
            return
        if self._gone.is_set():
            raise self._death or ActorDied(f"{self.name} returned before it was ready")
        raise RequestTimeout(f"{self.name} was not ready within {timeout_s:g} s")

    async def wait_gone(self) -> ActorDied | None:
        """Return once the process is gone: None if its function returned, else why it died.

        The error's text is one line; the traceback of an exception in the child is in its notes.
        """
        await self._gone.wait()
        return self._death

    async def stop(self, grace_s: float = 2.0) -> None:
        """Ask the actor to return, kill it if it has not after ``grace_s``, and return once it is gone.

        May be called any number of times, by several tasks at once, also when it is gone already.
        """
        if self._gone.is_set():
            return
        if self.last_pulse is None:
            self.kill("was stopped before it was up")
        with trio.move_on_after(grace_s):
            try:
                await self.link.notify("actor.stop")
            except LinkClosed:
                log.debug("stop.undeliverable", actor=self.name)
            await self._gone.wait()
        if not self._gone.is_set():
            self.kill(f"did not stop within {grace_s:g} s and was killed")
            await self._gone.wait()

    def kill(self, reason: str) -> None:
        """End the process now, if it has not ended; ``reason`` is what its death is put down to."""
        if self._process.returncode is None:
            self._doom = self._doom or reason
            self._process.kill()

    # --- what the carrier calls ---------------------------------------------------------------------------------------

    async def watch_process(self, scope: trio.CancelScope) -> None:
        """Cancel ``scope`` when the process has ended and the link, for all the time it gets, has not ended with it."""
        await self._process.wait()  # on a pidfd: noticed within milliseconds
        if self.begun.is_set():
            await trio.sleep(LAST_WORDS_S)
        scope.cancel()

    async def watch_pulses(self, mute_after_s: float) -> None:
        """Kill the process when, after the first pulse, none has come for ``mute_after_s``.

        Counts looks and not seconds: if this process itself was blocked, or stopped, its children's pulses lie unread
        in the sockets, and that is no fault of theirs.
        """
        await self.begun.wait()
        missed = seen = 0
        while missed < MUTE_CHECKS:
            await trio.sleep(mute_after_s / MUTE_CHECKS)
            missed = missed + 1 if self._pulses == seen else 0
            seen = self._pulses
        self.kill(f"gave no sign of life for {mute_after_s:g} s and was killed")

    async def reap(self, reason: str, patience_s: float = 0.0) -> None:
        """Make sure that the process has ended: by our hand, for ``reason``, if not by itself within ``patience_s``."""
        with trio.move_on_after(patience_s):
            await self._process.wait()
        self.kill(reason)
        with trio.move_on_after(REAP_S) as scope:
            await self._process.wait()
        if scope.cancelled_caught:  # in the kernel, in a way that no signal ends
            log.error("process.unkillable", actor=self.name, pid=self.pid)

    def bury(self) -> None:
        """Note why the process died, and let everybody who waits for that know."""
        self._death = self._find_cause()
        self._gone.set()
        self._settled.set()
        self.begun.set()

    # --- what the child says ------------------------------------------------------------------------------------------

    async def _take_pulse(self, report: PulseReport) -> None:
        self._pulses += 1
        statistics = msgspec.Raw(report.statistics)
        self.last_pulse = Pulse(time.monotonic(), statistics, report.vitals, report.trouble, report.unread)
        self.begun.set()

    async def _take_ready(self, info: msgspec.Raw) -> None:
        self.info = info
        self._ready = True
        self._settled.set()

    async def _take_outcome(self, failures: list[Failure]) -> None:
        self._outcome = failures

    def _find_cause(self) -> ActorDied | None:
        if self._outcome == []:
            return None
        if self._outcome:
            failure = self._outcome[0]
            death = ActorDied(f"{self.name}: {failure.type}: {failure.text}".rstrip(": "))
            death.add_note(failure.traceback)
            return death
        status = self._process.returncode
        if self._doom is not None:
            return ActorDied(f"{self.name} {self._doom}")
        if status is not None and status < 0:
            return ActorDied(f"{self.name} was killed by {signal.Signals(-status).name}")
        return ActorDied(f"{self.name} exited with status {status}")
