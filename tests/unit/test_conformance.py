"""docs/conformance.json is what the code says, and the Python client makes of it what it shall."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import numpy as np
import pytest

from marketd.client.subscription import Subscription
from marketd.ring import layout, steps
from marketd.rpc import messages, vectors
from marketd.rpc.framing import Deframer
from tests.conftest import PROJECT

VECTORS: dict[str, Any] = json.loads((PROJECT / "docs" / "conformance.json").read_text())


def test_file_is_what_the_code_makes() -> None:
    made = json.loads(json.dumps(vectors.vectors(), ensure_ascii=False))
    assert made == VECTORS, "`python -m marketd.rpc.vectors > docs/conformance.json` makes it anew"


def test_messages_are_read_as_they_are_written_down() -> None:
    for vector in VECTORS["messages"]:
        assert vectors._plain(msgspec.msgpack.decode(bytes.fromhex(vector["hex"]))) == vector["json"]


def test_frames_are_found_wherever_the_stream_is_cut() -> None:
    for vector in VECTORS["frames"]:
        deframer = Deframer(1 << 20)
        found = [bytes(p) for piece in vector["pieces"] for p in deframer.receive_data(bytes.fromhex(piece))]
        assert found == [bytes.fromhex(payload) for payload in vector["payloads"]]


def test_rows_are_those_of_the_layout() -> None:
    ticks = np.frombuffer(bytes.fromhex(VECTORS["rows"]["ticks"]["hex"]), layout.ROW)
    bars = np.frombuffer(bytes.fromhex(VECTORS["rows"]["bars"]["hex"]), steps.BAR)
    for rows, expected in ((ticks, VECTORS["rows"]["ticks"]["rows"]), (bars, VECTORS["rows"]["bars"]["rows"])):
        for row, fields in zip(rows, expected, strict=True):
            typed = row if rows is bars else np.array([row]).view(layout.BY_KIND[int(row["kind"])])[0]
            for name, value in fields.items():
                if name != "kind":
                    wanted = int(value[:-1]) if isinstance(value, str) else value
                    assert typed[name] == wanted, name


@pytest.mark.parametrize("vector", VECTORS["positions"], ids=lambda vector: vector["name"])
def test_positions_are_kept_as_the_page_says(vector: dict[str, Any]) -> None:
    subscription = Subscription(messages.SubscribeParams(["*"]), 1 << 20)
    position = vector["position"]
    feeds = [] if position is None else [messages.SubscribedFeed("sim", position["epoch"], position["cursor"], {})]
    subscription.opened(messages.SubscribeResult(1, "lossless", "rows", ["trade"], 10.0, feeds, []))
    for told in vector["messages"]:
        where = (1, "sim", told["epoch"], told["cursor_first"], told["cursor_last"])
        if told["method"] == "gap":
            assert subscription.receive(messages.Gap(*where, told["lost"], told["reason"], 0, 0))
            continue
        rows = np.zeros(len(told["cursors"]), layout.ROW)
        rows["cursor"], rows["kind"] = told["cursors"], 1
        assert subscription.receive(messages.Rows(*where, memoryview(rows.tobytes())))
    tells = []
    while (frame := subscription.next_nowait()) is not None:
        if frame.kind == "gap":
            tells.append(["gap", frame.cursor_first, frame.cursor_last, frame.detail])
        elif len(frame.rows):
            tells.append(["rows", *frame.rows["cursor"].tolist()])
    assert tells == vector["tells"]
