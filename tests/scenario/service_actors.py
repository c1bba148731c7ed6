"""Actors that die in every way that an actor can."""

from __future__ import annotations

import time

import trio

from marketd.supervise.handle import ActorHandle


async def run_well(actor: ActorHandle) -> None:
    """Live until asked to stop."""
    await actor.ready()
    await actor.stopping.wait()


async def run_and_raise(actor: ActorHandle) -> None:
    """Be ready, then fail."""
    await actor.ready()
    raise ValueError("the price of tea is not a number")


async def run_and_block(actor: ActorHandle) -> None:
    """Be ready, then hold up the loop for ever."""
    await actor.ready()
    await trio.sleep(0.1)
    while True:
        time.sleep(1)


async def run_and_ignore_stop(actor: ActorHandle) -> None:
    """Live on when asked to stop."""
    await actor.ready()
    await trio.sleep_forever()


async def run_never_ready(actor: ActorHandle) -> None:
    """Never say ready."""
    await trio.sleep_forever()
