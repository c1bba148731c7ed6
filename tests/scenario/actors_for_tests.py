"""Small actors for the tests of actors: each is the ``run`` function of a real child process."""

from __future__ import annotations

import os
import sys
import threading
import time

import msgspec
import trio

from marketd.errors import MarketdError, RequestRefused
from marketd.supervise.handle import ActorHandle
from marketd.supervise.messages import ActorSpec


def actor_spec(function: str, config: object = None, *, name: str = "", module: str = __name__) -> ActorSpec:
    """A spec for one of the functions below."""
    raw = msgspec.Raw(msgspec.msgpack.encode(config))
    return ActorSpec(name=name or f"test.{function}", run=f"{module}:{function}", config=raw)


class Number(msgspec.Struct, frozen=True):
    value: int


class Text(msgspec.Struct, frozen=True):
    value: str


class Facts(msgspec.Struct, frozen=True):
    """What a child knows of its own process."""

    main: str
    modules: list[str]
    secret_in_environment: bool
    contexts: int
    threads: int


class ExoticError(MarketdError):
    """An exception of our own."""


async def serve(actor: ActorHandle) -> None:
    """Answer until asked to stop."""
    calls = 0

    async def echo(number: Number) -> Number:
        nonlocal calls
        calls += 1
        return number

    async def refuse(text: Text) -> None:
        raise RequestRefused(text.value, "as you wish")

    async def crash() -> None:
        raise ExoticError("in a handler")

    async def block(number: Number) -> None:
        time.sleep(number.value)  # to block the loop is the point

    async def facts() -> Facts:
        import tractor

        return Facts(
            main=str(getattr(sys.modules["__main__"], "__file__", "")),
            modules=sorted(name for name, module in sys.modules.items() if module is not None),
            secret_in_environment=any("SECRET" in name for name in os.environ),
            contexts=len(tractor.current_actor()._contexts),
            threads=threading.active_count(),
        )

    actor.link.handle("echo", Number, echo)
    actor.link.handle("refuse", Text, refuse)
    actor.link.handle("crash", None, crash)
    actor.link.handle("block", Number, block)
    actor.link.handle("facts", None, facts)
    actor.statistics(lambda: Number(calls))
    await actor.ready(Text("serving"))
    await actor.stopping.wait()


async def flood(actor: ActorHandle) -> None:
    """Notify the parent as fast as it goes; ``config`` is how many bytes each time, from how many tasks."""
    config = actor.config(Flood)
    payload = Text("x" * config.bytes)

    async def flooder() -> None:
        while True:
            await actor.link.notify("noise", payload)

    async def ignore(_: Text) -> None:
        await trio.sleep(0.01)  # slower than what comes

    actor.link.handle("noise", Text, ignore)
    await actor.ready()
    async with trio.open_nursery() as nursery:
        for _ in range(config.tasks):
            nursery.start_soon(flooder)
        await actor.stopping.wait()
        nursery.cancel_scope.cancel()


class Flood(msgspec.Struct, frozen=True):
    bytes: int = 1000
    tasks: int = 4


async def raise_exotic(actor: ActorHandle) -> None:
    await actor.ready()
    raise ExoticError("nobody expects this")


async def raise_exit(actor: ActorHandle) -> None:
    await actor.ready()
    sys.exit(7)


async def raise_interrupt(actor: ActorHandle) -> None:
    await actor.ready()
    raise KeyboardInterrupt


async def exit_in_a_task(actor: ActorHandle) -> None:
    async def leave() -> None:
        raise SystemExit(7)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(leave)
        nursery.start_soon(trio.sleep_forever)


async def raise_in_statistics(actor: ActorHandle) -> None:
    def provider() -> Number:
        raise ExoticError("no statistics today")

    actor.statistics(provider)
    await trio.sleep_forever()


async def exit_hard(actor: ActorHandle) -> None:
    os._exit(3)


async def return_soon(actor: ActorHandle) -> None:
    await actor.ready(Text("done"))


async def return_before_ready(actor: ActorHandle) -> None:
    await trio.lowlevel.checkpoint()


async def ignore_stop(actor: ActorHandle) -> None:
    await actor.ready()
    await trio.sleep_forever()


async def never_ready(actor: ActorHandle) -> None:
    await actor.stopping.wait()


async def say_much_and_return(actor: ActorHandle) -> None:
    """Queue last words, then return at once: none may be lost."""
    await actor.ready()
    for value in range(500):
        await actor.link.notify("word", Number(value))


async def talk_nonsense(actor: ActorHandle) -> None:
    await actor.ready()
    await actor.link._send(b"\xc1 is no message")
    await trio.sleep_forever()
