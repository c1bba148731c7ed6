"""The examples in docs/client.md run as they are, against a fake daemon whose feed ticks."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator

import pytest

from marketd.model import Kind
from marketd.ring.steps import BarState
from tests.conftest import PROJECT
from tests.fake_server import FakeFeed, FakeServer, FakeSteps, World, held_bars

CODE = re.compile(r"```python\n(.*?)```", re.DOTALL)
DOC = (PROJECT / "docs" / "client.md").read_text()
SECTIONS = re.split(r"^## ", DOC, flags=re.MULTILINE)[1:]
EXAMPLES = [(text.partition("\n")[0], code) for text in SECTIONS for code in CODE.findall(text)]


@pytest.fixture
def address() -> Iterator[str]:
    names = {1: "btc/usdt.spot.sim", 2: "eth/usd.sim", 3: "sol/usdt.spot.sim"}
    bars = FakeSteps("sim/bars", names=names)
    world = World({"sim": FakeFeed("sim", names=names), "sim/bars": bars})
    world.bars["btc/usdt.spot.sim", "1m"] = held_bars("btc/usdt.spot.sim")
    stopping = threading.Event()

    def tick(server: FakeServer) -> None:
        while not stopping.wait(0.002):
            with server.lock:
                feed = world.feeds["sim"]
                feed.append(Kind.TRADE if feed.published % 3 else Kind.QUOTE, 1 + feed.published % 2)
                bars.append_step("bar.1m", 1 + bars.published % 2, BarState.CLOSED)

    with FakeServer(world) as server:
        thread = threading.Thread(target=tick, args=(server,))
        thread.start()
        yield server.address
        stopping.set()
        thread.join()


@pytest.mark.parametrize(("heading", "code"), EXAMPLES)
def test_example_runs(heading: str, code: str, address: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "127.0.0.1:7600" in code
    exec(compile(code.replace("127.0.0.1:7600", address), heading, "exec"), {"__name__": "example"})
    assert capsys.readouterr().out


def test_every_section_with_code_was_found() -> None:
    assert len(EXAMPLES) == DOC.count("```python") == 10
