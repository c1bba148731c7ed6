"""A service: one actor that is kept running. Starts it, watches it, and replaces it when it dies or goes mute."""

from __future__ import annotations

from collections.abc import Callable

import structlog
import trio

from marketd.errors import ActorError
from marketd.observe.vitals import Vitals
from marketd.retry import RestartPolicy
from marketd.rpc.messages import ActorStatus, FeedState
from marketd.supervise.actor import Child, Tree
from marketd.supervise.link import Link
from marketd.supervise.messages import ActorSpec

READY_TIMEOUT_S = 30.0
GRACE_S = 1.0

log = structlog.get_logger("marketd.supervise.service")


def actor_status(
    *, name: str, state: str, pid: int | None, restarts: int, uptime_s: float, vitals: Vitals, detail: str = ""
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
    )


class Service:
    """One actor's life after life.

    Attributes:
        settled: set once the first life is live, or has failed.
        complete: set when the service was stopped and its actor is gone.

    Args:
        name: of the actor, unique in the tree.
        make_spec: called before each start, so that a successor can be told what its predecessor had reached.
        handlers: registers what the actor may ask of the supervisor on its link.
        changed: called after every change of ``state``.
        on_ready: called each time that an actor says it is ready, with what it said in ``child.info``.
        grace_s: how long the actor may take to stop when asked; then it is killed.
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
        self._stopping = trio.Event()
        self._started_s = trio.current_time()

    async def keep(self, tree: Tree) -> None:
        """Run the actor, and its successors, until :meth:`stop`. Never raises on an actor's doing."""
        try:
            while not self._stopping.is_set():
                self._started_s = trio.current_time()
                reason = await self._live(tree)
                if self._stopping.is_set():
                    break
                await self._rest(reason)
        finally:
            # A shield is not needed: by now the actor is gone and nothing below waits.
            self._become("stopped")
            self.complete.set()

    async def stop(self) -> None:
        """Stop the actor for good; returns when it is gone. May be called any number of times, at any moment."""
        self._stopping.set()
        await self.complete.wait()

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
        )

    @property
    def vitals(self) -> Vitals:
        """The figures of its process, as it last told them; all 0 while there is none."""
        pulse = self.child.last_pulse if self.child is not None else None
        return pulse.vitals if pulse is not None else Vitals()

    async def _live(self, tree: Tree) -> str:
        """One life: return why it ended."""
        try:
            async with tree.open_actor(self._make_spec(), self._handlers) as child:
                self.child = child
                try:
                    await child.wait_ready(READY_TIMEOUT_S)
                    self._on_ready(child)
                    self._become("live")
                    return await self._watch(child)
                finally:
                    # Stopping inside of `open_actor` makes the order plain: asked, gone, and only then forgotten.
                    with trio.CancelScope(shield=True):
                        await child.stop(self._grace_s)
        except ActorError as error:
            return str(error)
        finally:
            self.child = None

    async def _watch(self, child: Child) -> str:
        """Wait until the actor is gone or shall go."""
        reason = "asked to stop"
        async with trio.open_nursery() as nursery:

            async def leave_when_asked() -> None:
                await self._stopping.wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(leave_when_asked)
            died = await child.wait_gone()
            reason = str(died) if died is not None else "it returned"
            nursery.cancel_scope.cancel()
        return reason

    async def _rest(self, reason: str) -> None:
        """Wait before the next life as long as the policy says, or until asked to stop."""
        now_s = trio.current_time()
        delay_s = self._policy.died(now_s, now_s - self._started_s)
        failing = self._policy.failing(now_s)
        log.warning("service.died", service=self.name, reason=reason, retry_s=round(delay_s, 3), failing=failing)
        self.restarts += 1
        self._become("failing" if failing else "down", reason)
        with trio.move_on_after(delay_s):
            await self._stopping.wait()

    def _become(self, state: FeedState, detail: str = "") -> None:
        self.state = state
        self.settled.set()
        self.detail = detail.strip().splitlines()[-1][:500] if detail.strip() else ""
        self._changed()
