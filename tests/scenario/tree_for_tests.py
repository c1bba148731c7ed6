"""A tree in a process of its own, for tests that kill the root: ``python -m tests.scenario.tree_for_tests ACTOR...``.

Starts the named functions of `actors_for_tests`, prints one line of JSON, and sleeps. It does not guard its
``__main__``, so that a child that ran it again would be seen.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import AsyncExitStack

import trio

from marketd.supervise.actor import open_tree
from marketd.supervise.messages import LogSpec
from tests.scenario.actors_for_tests import Flood, Number, Text, actor_spec

LIFETIME_S = 60


async def main(names: list[str]) -> None:
    """Run the tree until it is killed, or told by a line on standard input to end."""
    async with AsyncExitStack() as stack:
        tree = await stack.enter_async_context(open_tree("twin", LogSpec(level="critical")))
        children = [
            await stack.enter_async_context(tree.open_actor(actor_spec(name, Flood()), ignore)) for name in names
        ]
        for child in children:
            await child.wait_ready(10)
        facts = {"pid": os.getpid(), "port": tree._root.accept_addr[1], "children": [child.pid for child in children]}
        print(json.dumps(facts), flush=True)
        with trio.move_on_after(LIFETIME_S):
            async for line in trio.lowlevel.FdStream(os.dup(0)):
                await obey(line.decode().strip(), children)
                if line.strip() == b"end":
                    break


async def obey(order: str, children: list) -> None:
    """``block`` lets the first child block its loop; ``echo`` asks each child something and prints ``alive``."""
    if order == "block":
        await children[0].link.notify("block", Number(LIFETIME_S))
    if order == "echo":
        for child in children:
            await child.link.request("echo", Number(1), result=Number, timeout_s=5)
        print("alive", flush=True)


def ignore(link) -> None:
    """Handle the noise of a flood by not handling it."""

    async def hear(_: Text) -> None:
        pass

    link.handle("noise", Text, hear)


print("main runs", flush=True)
if sys.argv[1:]:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    trio.run(main, sys.argv[1:])
