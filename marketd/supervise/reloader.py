"""Applies a configuration that has changed, without dropping a client. What becomes of what: :mod:`reload`."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import structlog
import trio

from marketd.config import Config
from marketd.errors import ActorError, ConfigError, RequestRefused
from marketd.rpc.messages import ReloadResult
from marketd.supervise.messages import FeedDeclare
from marketd.supervise.reload import ReloadPlan, plan
from marketd.supervise.specs import gateway_settings, log_spec

if TYPE_CHECKING:
    from marketd.supervise.service import Service
    from marketd.supervise.supervisor import Supervisor

DECLARE_TIMEOUT_S = 3.0
SETTLE_TIMEOUT_S = 15.0  # for actors that were started to be live, or to fail; the answer waits no longer for them

log = structlog.get_logger("marketd.supervise.reload")


class Loaded(NamedTuple):
    """A configuration, and the file it came from; None where there is no file."""

    config: Config
    file: Path | None


class Reloader:
    """See the module.

    Args:
        supervisor: of the daemon.
        read: reads and checks the file; None where there is nothing to read again.
    """

    def __init__(self, supervisor: Supervisor, read: Callable[[], Loaded] | None) -> None:
        self._supervisor = supervisor
        self._read = read
        self._turn = trio.Lock()

    async def reload_on_signal(self) -> None:
        """Reload at each SIGHUP; where there is nothing to read again, stop."""
        with trio.open_signal_receiver(signal.SIGHUP) as signals:
            async for _ in signals:
                if self._read is None:
                    log.info("daemon.stopping", signal="SIGHUP")
                    self._supervisor.stopping.set()
                    continue
                try:
                    await self.reload()
                except RequestRefused:
                    continue  # the log has it
                except Exception:
                    log.exception("config.reload_failed")  # no reason to end a daemon that is otherwise well

    async def reload(self) -> ReloadResult:
        """Read the configuration and apply it; return what has changed, once it has.

        Raises:
            RequestRefused: ``invalid_config``, with all mistakes, or there is nothing to read: the old configuration
                holds on.
        """
        if self._read is None:
            text = "this daemon was not started from a configuration file: there is nothing to read again"
            raise RequestRefused("unavailable", text)
        async with self._turn:
            with self._announced():
                return await self._reload(self._read)

    @contextmanager
    def _announced(self) -> Iterator[None]:
        """Tell whoever looks after the daemon that it reloads, and that it is done."""
        log.info("daemon.reloading")
        notifier = self._supervisor.notifier
        if not notifier.told_ready:  # it is part of the start
            yield
            return
        notifier.reloading()
        try:
            yield
        finally:
            notifier.ready()

    async def _reload(self, read: Callable[[], Loaded]) -> ReloadResult:
        try:
            loaded = await trio.to_thread.run_sync(read)
        except ConfigError as error:
            log.error("config.refused", error=str(error))  # noqa: TRY400 - the operator's mistake: no traceback
            raise RequestRefused("invalid_config", str(error)) from error
        made = plan(self._supervisor.config, loaded.config)
        if self._supervisor.stopping.is_set():
            raise RequestRefused("unavailable", "the daemon is stopping")
        # Half of it would be worse than none: the asker's gateway may die, and the request with it.
        with trio.CancelScope(shield=True):
            touched = await self._apply(made)
        await settle(touched)
        changes = {change.key: change.action for change in made.changes}
        log.info("config.reloaded", file=str(loaded.file or ""), changes=changes, needs_restart=made.needs_restart)
        return ReloadResult(str(loaded.file or ""), made.changes, made.needs_restart)

    async def _apply(self, made: ReloadPlan) -> list[Service]:
        """Do what the plan says; return the services that are being started."""
        supervisor = self._supervisor
        feeds = made.feeds
        added = [name for name, change in feeds.items() if change == "added"]
        replaced = [name for name, change in feeds.items() if change == "replaced"]
        # Each stops while what it was is still in the configuration: it might be started again in between.
        for name in [name for name, change in feeds.items() if change in ("removed", "replaced")]:
            await supervisor.remove_feed(name)
        supervisor.config = made.config
        started: list[Service] = []
        restarted: list[Service] = []
        if "log" in made.parts:
            supervisor.levels.reset(log_spec(made.config))
            await supervisor.tell_levels()
        for name in (*added, *replaced):
            supervisor.add_feed(name)
            started.append(supervisor.feeds[name].service)
        for name in [name for name, change in feeds.items() if change == "applied"]:
            restarted += await self._declare(name)
        restarted += [supervisor.feeds[name].service for name, change in feeds.items() if change == "restarted"]
        restarted += [supervisor.sampler] if "sampler" in made.parts and supervisor.sampler is not None else []
        had = supervisor.history
        await supervisor.keep_history()
        if supervisor.history is not None and ("history" in made.parts or supervisor.history is not had):
            (restarted if supervisor.history is had else started).append(supervisor.history)
        for gateway in supervisor.gateways:
            await supervisor.tell(gateway, "settings", gateway_settings(made.config, supervisor.paths))
        for service in restarted:
            service.restart()
        return [*started, *restarted]

    async def _declare(self, name: str) -> list[Service]:
        """Tell a live feed its instruments. If it does not listen it is restarted, and begins with them."""
        feed = self._supervisor.feeds[name]
        child = feed.service.child
        if child is None:
            return []  # its successor begins with them
        declared = FeedDeclare(self._supervisor.config.feeds[name].get("instruments", []))
        try:
            await child.link.request("declare", declared, result=type(None), timeout_s=DECLARE_TIMEOUT_S)
        except ActorError as error:
            log.warning("declare.failed", feed=name, error=str(error))
            return [feed.service]
        return []


async def settle(services: list[Service]) -> None:
    """Wait until all that are to run are live or have failed; but not for ever."""
    with trio.move_on_after(SETTLE_TIMEOUT_S):
        for service in services:
            if service.wanted:
                await service.settled.wait()
