"""The child's side of an actor, but for its carrier: runs the actor's function and tells the parent how it fares.

What parent and child say to each other besides the actors' own methods:

    child  -> parent   actor.pulse (PulseReport), every 0.25 s;  actor.ready (whatever the actor has to say)
    child  -> parent   actor.outcome ([Failure], or [] if it returned), a request: once answered, the process ends
    parent -> child    actor.stop;  actor.log (LogSpec), how to speak from now on;  actor.debug, a request, for who
                       looks for trouble
"""

from __future__ import annotations

import functools
import importlib
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import TypeVar, cast

import msgspec
import structlog
import trio

from marketd import logs
from marketd.errors import ActorError
from marketd.observe.stacks import own_stacks, prepare
from marketd.observe.vitals import Vitals, VitalsWatch
from marketd.supervise.link import Link
from marketd.supervise.messages import ActorSpec, DebugReport, LogSpec
from marketd.trouble import Unreadable

PULSE_S = 0.25
OUTCOME_TIMEOUT_S = 2.0
FAILURE_TEXT_MAX = 64 * 1024

T = TypeVar("T")

log = structlog.get_logger("marketd.supervise.handle")


class PulseReport(msgspec.Struct, frozen=True):
    """A sign of life. ``statistics`` is the actor's own struct in MessagePack, empty when it has none; ``trouble``:
    what it can't do at the moment, and why, empty if all is well; ``unread``: it could not attach to a feed of which it
    was told, and wants to be told again.
    """

    statistics: bytes
    vitals: Vitals
    trouble: str = ""
    unread: bool = False


class Failure(msgspec.Struct, frozen=True):
    """Why an actor's function did not return: the exception's qualified type, its text, and the traceback as text."""

    type: str
    text: str
    traceback: str

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """Describe an exception, in no more than :data:`FAILURE_TEXT_MAX` characters."""
        kind = type(error)
        name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
        trace = "".join(traceback.format_exception(error))
        return cls(name, str(error)[:FAILURE_TEXT_MAX], trace[-FAILURE_TEXT_MAX:])


class ActorHandle:
    """What an actor's function gets: its configuration, its link to the parent, and when to stop.

    Attributes:
        name: the actor's name in the tree.
        link: to the parent. What the parent asks is held until :meth:`ready`, so register handlers before that.
        stopping: set when the parent wants the function to return; it is killed if it does not.
    """

    def __init__(self, spec: ActorSpec, link: Link) -> None:
        self.name = spec.name
        self.link = link
        self.stopping = trio.Event()
        self._config = spec.config
        self._provider: Callable[[], msgspec.Struct] | None = None
        self._troubles: Callable[[], Iterable[str]] = tuple
        self._unreadable: Unreadable | None = None
        self._vitals = VitalsWatch()

    def config(self, type: type[T]) -> T:
        """Decode the actor's configuration.

        Raises:
            msgspec.ValidationError: it is of another type.
        """
        return msgspec.msgpack.decode(self._config, type=type)

    def statistics(self, provider: Callable[[], msgspec.Struct]) -> None:
        """Send what ``provider()`` returns with every pulse from now on. If it raises, the actor fails."""
        self._provider = provider

    def trouble(self, provider: Callable[[], Iterable[str]] = tuple, unreadable: Unreadable | None = None) -> None:
        """Tell with every pulse from now on what can't be done at the moment, and why: a sentence each."""
        self._troubles, self._unreadable = provider, unreadable

    async def ready(self, info: msgspec.Struct | None = None) -> None:
        """Tell the parent that the actor does its work from now on, and what there is to know about it."""
        self.link.release()
        await self.send_pulse()  # so that who waits for us to be ready finds our statistics
        await self.link.notify("actor.ready", info)

    async def send_pulse(self) -> None:
        """Tell the parent how this process fares now."""
        unread = self._unreadable.texts() if self._unreadable is not None else []
        report = PulseReport(
            statistics=b"" if self._provider is None else msgspec.msgpack.encode(self._provider()),
            vitals=self._vitals.read(),
            trouble="; ".join(filter(None, [self._vitals.trouble, *unread, *self._troubles()])),
            unread=bool(unread),
        )
        await self.link.notify("actor.pulse", report)

    async def send_pulses(self) -> None:
        """Send pulses until cancelled."""
        while True:
            await self.send_pulse()
            await self._vitals.sleep(PULSE_S)


def configure_log(how: LogSpec, actor: str) -> None:
    """Let this process speak so from now on."""
    logs.configure(how.level, how.format, actor)


async def run_actor(spec: ActorSpec, link: Link, receive: AsyncIterator[bytes]) -> int:
    """Run an actor's function over a link that was made with ``held=True``; return the process's exit status.

    Whatever the function raises, ``SystemExit`` and ``KeyboardInterrupt`` too, is that actor's failure: it is reported
    to the parent, and no half of the process lives on. When the link is lost the function is cancelled.
    """
    actor = ActorHandle(spec, link)

    async def stop() -> None:
        actor.stopping.set()

    async def speak(how: LogSpec) -> None:
        configure_log(how, spec.name)
        log.debug("log.configured", level=how.level)

    async def debug() -> DebugReport:
        return DebugReport(logs.recent(), own_stacks())

    prepare()
    link.handle("actor.stop", None, stop, early=True)
    link.handle("actor.log", LogSpec, speak, early=True)
    link.handle("actor.debug", None, debug, early=True)
    status = 1
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_serve_link, link, receive, nursery.cancel_scope)
        failures = await _run_function(spec, actor, nursery.cancel_scope)
        try:
            await link.request("actor.outcome", failures, result=type(None), timeout_s=OUTCOME_TIMEOUT_S)
            status = 1 if failures else 0
        except ActorError as error:
            log.warning("outcome.undeliverable", error=str(error))
        nursery.cancel_scope.cancel()
    return status


async def _serve_link(link: Link, receive: AsyncIterator[bytes], scope: trio.CancelScope) -> None:
    await link.run(receive)
    scope.cancel()


async def _run_function(spec: ActorSpec, actor: ActorHandle, scope: trio.CancelScope) -> list[Failure]:
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(actor.send_pulses)
            # In a thread, because importing may take seconds and the pulses must go on.
            function = await trio.to_thread.run_sync(_find_function, spec.run)
            await function(actor)
            nursery.cancel_scope.cancel()
    except BaseException as error:
        if scope.cancel_called or isinstance(error, trio.Cancelled):
            raise  # the link is lost: there is nobody to report to
        log.exception("actor.failed")
        return [Failure.of(error)]
    return []


def _find_function(run: str) -> Callable[[ActorHandle], Awaitable[None]]:
    module_name, _, function_name = run.partition(":")
    return cast(
        Callable[[ActorHandle], Awaitable[None]],
        functools.reduce(getattr, function_name.split("."), importlib.import_module(module_name)),
    )
