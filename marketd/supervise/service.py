"""A service: one actor that is kept running. Starts it, watches it, and replaces it when it dies or goes mute."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import msgspec
import structlog
import trio

from marketd.errors import ActorError, CannotStart, SegmentError
from marketd.observe.vitals import Vitals
from marketd.retry import RestartPolicy
from marketd.rpc.messages import ActorStatus, FeedState
from marketd.supervise.actor import Child, Tree
from marketd.supervise.link import Link
from marketd.supervise.messages import ActorSpec
from marketd.trouble import Trouble

READY_TIMEOUT_S = 30.0
GRACE_S = 1.0
MEANS_RETRY_S = 1.0

R = TypeVar("R")

log = structlog.get_logger("marketd.supervise.service")


def actor_status(
    *,
    name: str,
    state: str,
    pid: int | None,
    restarts: int,
    uptime_s: float,
    vitals: Vitals,
    detail: str = "",
    trouble: str = "",
) -> ActorStatus:
    """Put together what an operator wants to know of a process."""
    return ActorStatus(
        name=name,
        state=state,
        pid=pid,
        restarts=restarts,
        uptime_s=round(uptime_s, 3),
        rss_bytes=vitals.rss_bytes,
        cpu_s=vitals.cpu_s,
        detail=detail,
        tasks=vitals.tasks,
        threads=vitals.threads,
        fds=vitals.fds,
        loop_lag_ms=vitals.loop_lag.quantile_ms(0.99),
        trouble=trouble,
    )


class Service:
    """One actor's life after life.

    Attributes:
        settled: set once the first life is live, or has failed; a new one for each start and restart by request.
        complete: set when the service was stopped and its actor is gone; a new one for each start.

    Args:
        name: of the actor, unique in the tree.
        make_spec: called before each start, so that a successor can be told what its predecessor had reached.
        handlers: registers what the actor may ask of the supervisor on its link.
        changed: called after every change of ``state``.
        on_ready: called each time that an actor says it is ready, with what it said in ``child.info``.
        grace_s: how long the actor may take to stop when asked; then it is killed.
        prepare: called before each start; tried again later if it raises SegmentError.
    """

    def __init__(
        self,
        name: str,
        make_spec: Callable[[], ActorSpec],
        handlers: Callable[[Link], None],
        changed: Callable[[], None] = lambda: None,
        *,
        on_ready: Callable[[Child], None] = lambda child: None,
        grace_s: float = GRACE_S,
        policy: RestartPolicy | None = None,
        prepare: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self.state: FeedState = "starting"
        self.detail = ""
        self.restarts = 0
        self.child: Child | None = None
        self.settled = trio.Event()
        self.complete = trio.Event()
        self._make_spec = make_spec
        self._handlers = handlers
        self._changed = changed
        self._on_ready = on_ready
        self._grace_s = grace_s
        self._policy = policy or RestartPolicy()
        self._life = trio.CancelScope()
        self._wanted = True
        self._retired = False
        self._why_stopped = ""
        self._prepare = prepare
        self._means = Trouble(log, "service.waits", "service.goes_on", service=name)
        self._started_s = trio.current_time()

    @property
    def wanted(self) -> bool:
        """Whether it is to run: not, once it was stopped or cancelled."""
        return self._wanted

    async def keep(self, tree: Tree) -> None:
        """Run the actor, and its successors, until :meth:`stop`. Never raises on an actor's doing."""
        try:
            while self._wanted:
                self._started_s = trio.current_time()
                with trio.CancelScope() as self._life:  # a stop or a restart need not wait for what happens in there
                    try:
                        self._prepare()
                        reason = await self._live(tree)
                    except (CannotStart, SegmentError) as error:
                        await self._wait_for_means(str(error))
                    else:
                        await self._rest(reason)
        finally:
            # A shield is not needed: by now the actor is gone and nothing below waits.
            self._means.text = ""  # it is not what it waits for any more
            self._become("stopped", self._why_stopped)
            self.complete.set()

    async def stop(self, why: str = "") -> None:
        """Stop the actor for good; returns when it is gone. May be called any number of times, at any moment."""
        self._let_go(why)
        await self.complete.wait()

    async def cancel(self, why: str = "") -> None:
        """Do the same at once: the actor is killed, and gets no time to finish what it does."""
        if self.child is not None:
            self.child.kill("was cancelled")
        self._let_go(why)
        await self.complete.wait()

    def restart(self) -> None:
        """Let the actor be stopped and its successor be started at once; :attr:`settled` tells when that is there."""
        if self._wanted:
            self._renew_settled()
            self._life.cancel()

    async def retire(self, why: str = "") -> None:
        """Stop it, and let nobody start it again: what it needs is about to go."""
        self._retired = True
        await self.stop(why)

    async def start(self, nursery: trio.Nursery, tree: Tree) -> None:
        """Start it again in this nursery, if it was stopped; what is still being stopped is waited for."""
        if not self._wanted:
            await self.complete.wait()
        if self._wanted or self._retired:  # another call was first
            return
        self._wanted = True
        self.complete = trio.Event()
        self._renew_settled()
        nursery.start_soon(self.keep, tree)

    def _let_go(self, why: str) -> None:
        self._why_stopped = self._why_stopped if not self._wanted else why
        self._wanted = False
        self._life.cancel()

    def _renew_settled(self) -> None:
        self.settled.set()  # whoever waits for a life that is over waits in vain
        self.settled = trio.Event()
        self.state, self.detail = "starting", ""
        self._changed()

    def report(self, type_: type[R]) -> R | None:
        """What the actor said with its last pulse; None if it is not there, or has not said anything yet."""
        pulse = self.child.last_pulse if self.child is not None else None
        if pulse is None or not len(pulse.statistics):
            return None
        return msgspec.msgpack.decode(pulse.statistics, type=type_)

    def status(self) -> ActorStatus:
        """What an operator wants to know of it."""
        return actor_status(
            name=self.name,
            state=self.state,
            pid=self.child.pid if self.child is not None else None,
            restarts=self.restarts,
            uptime_s=trio.current_time() - self._started_s,
            vitals=self.vitals,
            detail=self.detail,
            trouble=self.trouble,
        )

    @property
    def trouble(self) -> str:
        """What it can't do at the moment, and why: what keeps it from starting, or what its actor says of itself."""
        if self._means.text:
            return self._means.text
        pulse = self.child.last_pulse if self.child is not None else None
        return pulse.trouble if pulse is not None else ""

    @property
    def lacks_feeds(self) -> bool:
        """Whether its actor could not attach to a feed of which it was told."""
        pulse = self.child.last_pulse if self.child is not None else None
        return pulse is not None and pulse.unread

    @property
    def vitals(self) -> Vitals:
        """The figures of its process, as it last told them; all 0 while there is none."""
        pulse = self.child.last_pulse if self.child is not None else None
        return pulse.vitals if pulse is not None else Vitals()

    async def _live(self, tree: Tree) -> str:
        """One life: return why it ended. Raises CannotStart: it could not begin."""
        try:
            async with tree.open_actor(self._make_spec(), self._handlers) as child:
                self.child = child
                self._means.end()
                try:
                    await child.wait_ready(READY_TIMEOUT_S)
                    self._on_ready(child)
                    self._become("live")
                    died = await child.wait_gone()
                    return "it returned" if died is None else str(died)
                finally:
                    # Stopping inside of `open_actor` makes the order plain: asked, gone, and only then forgotten.
                    with trio.CancelScope(shield=True):
                        await child.stop(self._grace_s)
        except ActorError as error:
            return str(error)
        finally:
            self.child = None

    async def _wait_for_means(self, why: str) -> None:
        """Wait a little for room, or descriptors: that is no death, and who has them may let go of them any time."""
        self._means.begin(why)
        if self.state != "down":
            self._become("down", why)
        self.detail = why
        await trio.sleep(MEANS_RETRY_S)

    async def _rest(self, reason: str) -> None:
        """Wait before the next life as long as the policy says."""
        now_s = trio.current_time()
        delay_s = self._policy.died(now_s, now_s - self._started_s)
        failing = self._policy.failing(now_s)
        log.warning("service.died", service=self.name, reason=reason, retry_s=round(delay_s, 3), failing=failing)
        self.restarts += 1
        self._become("failing" if failing else "down", reason)
        await trio.sleep(delay_s)

    def _become(self, state: FeedState, detail: str = "") -> None:
        self.state = state
        self.settled.set()
        self.detail = detail.strip().splitlines()[-1][:500] if detail.strip() else ""
        self._changed()
