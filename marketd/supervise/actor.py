"""Actors: a process each, started, watched, stopped and talked to from here. The only module that imports tractor.

tractor 0.1.0a5 carries the control links: a runtime in each process; a channel, a context and a stream for each child.
What it does not do well is done here instead, or mended in :func:`_harden`:

- Processes are started and reaped by us, not by tractor's nursery, which waits seconds for a peer that is dead and for
  ever for one that never connects. A process is killed *before* its context is left: there is nothing to negotiate.
- Requests go over the one stream (`link.py`) and never through ``Portal.run``, which leaks two kilobytes a call.
- Every connection begins with the tree's secret. Without it any local process could call any actor's functions.
- There is no registry: the supervisor hands out addresses.

When tractor is replaced by a newer one, this module is all that changes.
"""

from __future__ import annotations

import contextlib
import hmac
import importlib.metadata
import os
import secrets
import struct
import subprocess
import sys
import types
import uuid
import warnings
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import structlog
import trio

from marketd.errors import ActorDied, CannotStart
from marketd.supervise.handle import ActorHandle, configure_log, run_actor
from marketd.supervise.link import Link
from marketd.supervise.messages import ActorSpec, LogSpec
from marketd.supervise.parent import Child, Pulse

__all__ = ["ActorHandle", "Child", "Pulse", "Tree", "open_tree", "run_child"]

TRACTOR_VERSION = "0.1.0a5"
HOST = "127.0.0.1"
SECRET_BYTES = 32
SECRET_TIMEOUT_S = 5.0
STRANGERS_MAX = 32  # connections that have not shown the secret; with one more, the oldest of them is closed
EXIT_S = 1.0

Untyped = Any  # what tractor gives us

log = structlog.get_logger("marketd.supervise.actor")


def _import_tractor() -> Untyped:
    """Import tractor without what it does not need, and without its noise."""
    found = importlib.metadata.version("tractor")
    if found != TRACTOR_VERSION:
        raise ImportError(f"tractor is {found}: this module mends {TRACTOR_VERSION} and no other")
    # tractor's debugger needs pdbpp, which hijacks `import pdb` for the whole environment; we never debug that way.
    stand_in: Untyped = types.ModuleType("pdbpp")
    stand_in.Pdb = stand_in.DefaultConfig = object
    sys.modules.setdefault("pdbpp", stand_in)
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"tractor(\.|$)")
    import tractor._entry

    return tractor


tractor: Untyped = _import_tractor()


# --- the parent's side ------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def open_tree(instance: str, log: LogSpec | Callable[[str], LogSpec]) -> AsyncIterator[Tree]:
    """Make this process the root of a tree of actors. One tree per process at a time.

    Args:
        instance: a name for people; trees of the same name do not meet, as each has a port and a secret of its own.
        log: for those actors whose spec has none of its own; or says it for each name, each time that one starts.
    """
    if tractor.current_actor(err_on_no_runtime=False) is not None:
        raise RuntimeError("this process is the root of a tree already")
    _Secret.value = secrets.token_bytes(SECRET_BYTES)
    debugger = os.environ.get("PYTHONBREAKPOINT")
    # Nobody listens on port 0: tractor looks there for a registry, finds none, and takes a free port itself.
    async with tractor.open_root_actor(
        arbiter_addr=(HOST, 0), name=instance, loglevel="critical", enable_modules=[]
    ) as root:
        _restore_variable("PYTHONBREAKPOINT", debugger)  # tractor sets it for itself
        root._mods.clear()  # nothing of the root can be called by name
        yield Tree(root, log)


class Tree:
    """The actors of this process: :attr:`children` are those that live."""

    def __init__(self, root: Untyped, log: LogSpec | Callable[[str], LogSpec]) -> None:
        self.children: set[Child] = set()
        self._root = root
        self._log = log

    def log_of(self, actor: str) -> LogSpec:
        """How an actor speaks whose spec does not say it."""
        return self._log if isinstance(self._log, LogSpec) else self._log(actor)

    @contextlib.asynccontextmanager
    async def open_actor(
        self,
        spec: ActorSpec,
        handlers: Callable[[Link], None],
        *,
        grace_s: float = 2.0,
        start_timeout_s: float = 30.0,
        mute_after_s: float = 5.0,
    ) -> AsyncIterator[Child]:
        """Start an actor; return once its link is up. Leaving stops it, within ``grace_s`` and a second.

        The body is not interrupted when the actor dies: see :meth:`Child.wait_gone`.

        Args:
            spec: the actor.
            handlers: registers on the link what the actor may ask.
            grace_s: how long it may take to return when it is stopped; then it is killed.
            start_timeout_s: how long it may take to get up.
            mute_after_s: it is killed when it gives no sign of life for so long.

        Raises:
            ActorDied: it did not get up.
            CannotStart: there can be no process now.
        """
        if spec.log is None:
            spec = msgspec.structs.replace(spec, log=self.log_of(spec.name))
        carrier = _Carrier(self._root, spec)
        try:
            process = await carrier.spawn()
        except OSError as error:  # no descriptors, say
            raise CannotStart(f"{spec.name} can't be started: {error.strerror}") from error
        child = Child(spec.name, process, carrier.send)
        async with trio.open_nursery() as nursery:
            try:
                self.children.add(child)
                nursery.start_soon(self._keep, carrier, child, mute_after_s)
                handlers(child.link)
                with trio.move_on_after(start_timeout_s):
                    await child.begun.wait()
                if child.last_pulse is None:
                    child.kill(f"did not get up within {start_timeout_s:g} s and was killed")
                    raise await child.wait_gone() or ActorDied(f"{spec.name} returned without a sign of life")
                yield child
            finally:
                with trio.CancelScope(shield=True):
                    await child.stop(grace_s)

    async def _keep(self, carrier: _Carrier, child: Child, mute_after_s: float) -> None:
        """Carry the link of a child as long as it lives. Never raises on the child's doing.

        Shielded: if our caller is cancelled, the link must still be there for the polite stop. `Child.stop` ends us.
        """
        with trio.CancelScope(shield=True):
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(child.watch_process, nursery.cancel_scope)
                    nursery.start_soon(child.watch_pulses, mute_after_s)
                    await carrier.run(child)
                    nursery.cancel_scope.cancel()
            except Exception:
                log.exception("link.failed", actor=child.name)
            finally:
                await child.reap("was killed, because its link failed")
                self.children.discard(child)
                child.bury()


class _Carrier:
    """A child's process, and the tractor stream to it."""

    def __init__(self, root: Untyped, spec: ActorSpec) -> None:
        self._root = root
        self._spec = spec
        self._uid = (spec.name, str(uuid.uuid4()))
        self._stream: Untyped = None

    async def spawn(self) -> trio.Process:
        """Start the process. It imports from where we do, and reads the secret from a pipe: its arguments are public,
        and an environment can be looked at for as long as the process lives."""
        _, port = self._root.accept_addr
        process = await trio.lowlevel.open_process(
            [sys.executable, "-P", "-m", "marketd.supervise.child", str(os.getpid()), *self._uid, str(port)],
            stdin=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            pass_fds=self._spec.descriptors,
        )
        assert process.stdin is not None
        with trio.CancelScope(shield=True), contextlib.suppress(trio.BrokenResourceError):  # it is dead already
            async with process.stdin:
                await process.stdin.send_all(_Secret.value)  # a pipe has room for it, so this takes no time
        return process

    async def send(self, message: bytes) -> None:
        """Send one message of the link."""
        await self._stream.send(message)

    async def run(self, child: Child) -> None:
        """Connect the child and carry its link until one of the two is no more."""
        try:
            channel = await self._accept()
            # The channel is closed when we leave, of which tractor complains in one of these ways.
            with contextlib.suppress(trio.ClosedResourceError, trio.BrokenResourceError, trio.EndOfChannel):
                await self._carry(child, channel)
        finally:
            self._forget()

    async def _accept(self) -> Untyped:
        """Wait for the child to connect, and tell its runtime what it needs to know."""
        _, channel = await self._root.wait_for_peer(self._uid)
        await channel.send(
            {
                "_parent_main_data": {},  # a child must not run the root's __main__ again
                "enable_modules": {},  # `run_child` has enabled this one already
                "_arb_addr": self._root.accept_addr,
                "bind_host": HOST,
                "bind_port": 0,
                "_runtime_vars": {"_debug_mode": False, "_is_root": False, "_root_mailbox": (None, None)},
            }
        )
        return channel

    async def _carry(self, child: Child, channel: Untyped) -> None:
        spec = msgspec.msgpack.encode(self._spec)
        portal = tractor.Portal(channel)
        async with portal.open_context(endpoint, spec=spec) as (context, _), context.open_stream() as self._stream:
            try:
                await self._stream.send(b"")  # see `endpoint`
                await child.link.run(self._stream)
                await child.reap("was killed, because its link broke", patience_s=EXIT_S)
            except msgspec.DecodeError as error:
                child.kill(f"was killed, because it talks nonsense: {error}")
            finally:
                with trio.CancelScope(shield=True):
                    await child.reap("was killed, because its link failed")
                    await channel.aclose()

    def _forget(self) -> None:
        """Do what tractor leaves undone when it is cancelled."""
        self._root._peer_connected.pop(self._uid, None)
        for key in [key for key in self._root._contexts if key[0] == self._uid]:
            del self._root._contexts[key]


# --- the child's side -------------------------------------------------------------------------------------------------


def run_child(name: str, identifier: str, parent_port: int) -> None:
    """Be an actor: connect to the parent, and run what it says until it says stop."""
    _Secret.value = sys.stdin.buffer.read(SECRET_BYTES)
    with open(os.devnull, "rb") as nothing:  # noqa: PTH123
        os.dup2(nothing.fileno(), sys.stdin.fileno())
    actor = tractor._actor.Actor(name, uid=identifier, loglevel="critical", enable_modules=[], spawn_method="trio")
    actor._mods[__name__] = sys.modules[__name__]
    tractor._entry._trio_main(actor, parent_addr=(HOST, parent_port))


async def endpoint(ctx: Untyped, spec: bytes) -> None:
    """Run the actor that ``spec`` describes, then end the process.

    It ends here and not through tractor's teardown, which takes its time and may wait for us while we wait for it: when
    the function has returned, and the parent knows, there is nothing left to do.
    """
    status = 1
    try:
        await ctx.started()
        async with ctx.open_stream() as stream:
            # The parent may not get more than 64 messages before it has opened its end; this says that it has.
            await stream.receive()
            decoded = msgspec.msgpack.decode(spec, type=ActorSpec)
            configure_log(decoded.log or LogSpec(), decoded.name)
            status = await run_actor(decoded, Link(stream.send, name="the parent", held=True), stream)
    except trio.Cancelled:
        log.warning("actor.cancelled")
    except BaseException:
        log.exception("actor.crashed")
    finally:
        _end_process(status)


endpoint._tractor_context_function = True  # type: ignore[attr-defined]  # what `tractor.context` does, but typed


def _end_process(status: int) -> None:
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)  # also when nobody reads our output any more


# --- what is mended in tractor ----------------------------------------------------------------------------------------


class _Secret:
    value = b""


class _Message(dict[str, object]):
    """A received message; tractor formats each one for log levels that are off, so make that cheap."""

    __repr__ = object.__repr__


class _Transport(tractor._ipc.MsgpackTCPStream):  # type: ignore[misc]  # tractor has no types
    """A message stream for which a peer's death is its end at any byte, and that formats nothing for logs."""

    async def _iter_packets(self) -> AsyncIterator[Untyped]:
        while True:
            try:
                (size,) = struct.unpack("<I", await self.recv_stream.receive_exactly(4))
                message = self.decode(await self.recv_stream.receive_exactly(size))
            except (ValueError, trio.BrokenResourceError, trio.ClosedResourceError, OSError):
                raise tractor._exceptions.TransportClosed("the peer is gone") from None
            yield _Message(message) if type(message) is dict else message


def _harden() -> None:
    actor_class, channel_class = tractor._actor.Actor, tractor._ipc.Channel
    handle_stream, process_messages = actor_class._stream_handler, actor_class._process_messages
    connect = channel_class.connect

    async def connect_with_secret(channel: Untyped, *args: Untyped, **options: Untyped) -> Untyped:
        transport = await connect(channel, *args, **options)
        await transport.stream.send_all(_Secret.value)
        return transport

    async def handle_trusted_stream(actor: Untyped, stream: trio.SocketStream) -> None:
        """Let in whoever knows the secret, and let nothing that happens to one connection end the actor.

        What happens: resets in the middle of a message; errors of the peer's runtime, which tractor raises here; the
        feeder of a context that was left while it was full.
        """
        try:
            if await _knows_secret(stream):
                await handle_stream(actor, stream)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this connection's end and nothing else's
            log.debug("connection.failed", error=repr(error))
        finally:
            await trio.aclose_forcefully(stream)

    async def process_messages_to_the_end(actor: Untyped, channel: Untyped, *args: Untyped, **options: Untyped) -> bool:
        """End the contexts of a channel with it: who waits there would wait for ever."""
        try:
            return bool(await process_messages(actor, channel, *args, **options))
        finally:
            for context in list(actor._contexts.values()):
                if context.chan is channel:
                    context._send_chan.close()

    async def send_unlogged(channel: Untyped, item: Untyped) -> None:
        await channel.msgstream.send(item)

    tractor._ipc.get_msg_transport = lambda key: _Transport
    channel_class.connect, channel_class.send = connect_with_secret, send_unlogged
    actor_class._stream_handler, actor_class._process_messages = handle_trusted_stream, process_messages_to_the_end
    tractor._actor.get_arbiter = _open_no_registry


_strangers: dict[trio.SocketStream, trio.CancelScope] = {}


async def _knows_secret(stream: trio.SocketStream) -> bool:
    """Wait for the secret, for a while. One of ours sends it at once; who holds many sockets open for no purpose loses
    the oldest of them, and keeps nobody out."""
    received = b""
    while len(_strangers) >= STRANGERS_MAX:
        _strangers.pop(next(iter(_strangers))).cancel()
    with trio.move_on_after(SECRET_TIMEOUT_S) as scope:
        _strangers[stream] = scope
        try:
            while len(received) < SECRET_BYTES:
                data = await stream.receive_some(SECRET_BYTES - len(received))
                if not data:
                    break
                received += data
        finally:
            _strangers.pop(stream, None)
    return hmac.compare_digest(received, _Secret.value)


@contextlib.asynccontextmanager
async def _open_no_registry(*_address: object) -> AsyncIterator[Untyped]:
    class NoRegistry:
        async def run_from_ns(self, *_args: object, **_options: object) -> None:
            """Register nothing."""

    yield NoRegistry()


def _restore_variable(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value


_harden()
