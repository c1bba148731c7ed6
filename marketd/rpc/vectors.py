"""Conformance vectors: what a client in any language must make of some bytes. They are `docs/conformance.json`.

    python -m marketd.rpc.vectors > docs/conformance.json

`messages`: payloads in MessagePack (hex) and what they say, as JSON has it; in that, numbers beyond 2^53 are text with
an `n` behind it, and binary data `{"hex": …}`. `frames`: a byte stream, cut into pieces, and the payloads in it.
`rows`: rows of ticks and of bars, and their fields. `positions`: for each case a position, messages in the order in
which they come, and what a client tells of them (rule 2 of section 8 of docs/protocol.md): the cursors of rows; the
range and reason of gaps.
"""

from __future__ import annotations

import json
import struct
import sys
from typing import Any

import msgspec

from marketd.model import Flag, GapReason, Kind, Side
from marketd.ring import layout
from marketd.rpc.framing import frame

SAFE = 2**53 - 1
BAR = struct.Struct("<QqqqIBBH5d4q")
EPOCH, OTHER = 4503599627370497, 4503599627370498


def vectors() -> dict[str, Any]:
    """Return all of them."""
    return {"messages": _messages(), "frames": _frames(), "rows": _rows(), "positions": _positions()}


def _messages() -> list[dict[str, Any]]:
    said: list[Any] = [
        {"id": 1, "method": "hello", "params": {"client": "doc", "heartbeat_s": 5.0}},
        {"id": 1, "result": {"version": 1, "limits": {"frame_bytes_max": 1 << 20}, "row_hash": "ea606afd6eae5184"}},
        {"method": "heartbeat", "params": {}},
        {"id": None, "error": {"code": -32700, "message": "nö", "data": {"code": "parse_error"}}},
        {"id": "a", "result": {"feeds": [{"name": "sim", "epoch": EPOCH, "instruments": {1: "btc/usdt.spot.sim"}}]}},
        {"method": "status", "params": {"subscription": 1, "feed": "sim", "state": "down", "detail": ""}},
        {"values": [0, 127, 128, 255, 256, 65535, 65536, 2**32, SAFE, SAFE + 1, 2**64 - 1]},
        {"values": [-1, -32, -33, -128, -129, -32768, -32769, -(2**31) - 1, -SAFE - 2, -(2**63)]},
        {"values": [True, False, None, 0.5, -1e300, "x" * 31, "y" * 32, "z" * 256, b"", b"\x00\xff"]},
        {"values": [list(range(16)), {f"k{n}": n for n in range(16)}, {}, []]},
    ]
    return [{"hex": msgspec.msgpack.encode(each).hex(), "json": _plain(each)} for each in said]


def _frames() -> list[dict[str, Any]]:
    payloads = [b"", b"\x80", bytes(300)]
    whole = b"".join(map(frame, payloads))
    cuts = [[whole], [whole[:1], whole[1:3], whole[3:9], whole[9:]], [whole[n : n + 1] for n in range(len(whole))]]
    return [{"pieces": [piece.hex() for piece in pieces], "payloads": [p.hex() for p in payloads]} for pieces in cuts]


def _rows() -> dict[str, Any]:
    at_ns = 1_700_000_000_000_000_000
    ticks = [
        layout.PACK.pack(7, at_ns, at_ns + 1_500_000, 42, 3, Kind.TRADE, Side.BUY, Flag.LAST, 30123.5, 0.25, 0, 0),
        layout.PACK.pack(8, at_ns + 1, at_ns + 2, 2**62, 1, Kind.QUOTE, 0, 3, 1.0, 2.0, 1.5, 0.125),
        layout.PACK.pack(9, at_ns, at_ns, 0, 2, Kind.LEVEL, Side.SELL, 0, 99.5, 0.0, 0, 0),
        layout.PACK_INTEGERS.pack(10, at_ns, at_ns, 0, 0, Kind.GAP, 0, 0, at_ns - 5, at_ns, GapReason.SEQUENCE, -1),
        layout.PACK_INTEGERS.pack(11, at_ns, at_ns, 0, 3, Kind.STATUS, 0, 1, 1, 0, 0, 0),
    ]
    bar = BAR.pack(8, at_ns, at_ns + 9, 60 * 10**9, 1, 19, 2, 0, 1.0, 2.0, 0.5, 1.5, 12.25, 31, 42, 72, 28)
    return {
        "names": {"1": "eth/usdt.spot.sim", "2": "sol/usdt.spot.sim", "3": "btc/usdt.spot.sim"},
        "kinds": {"19": "bar.1m"},
        "ticks": {"hex": b"".join(ticks).hex(), "rows": [
            {"kind": "trade", "cursor": 7, "event_ns": f"{at_ns}n", "received_ns": f"{at_ns + 1_500_000}n",
             "sequence": "42n", "instrument": 3, "side": 1, "flags": 1, "price": 30123.5, "size": 0.25},
            {"kind": "quote", "cursor": 8, "event_ns": f"{at_ns + 1}n", "sequence": f"{2**62}n", "bid": 1.0,
             "bid_size": 2.0, "ask": 1.5, "ask_size": 0.125, "flags": 3},
            {"kind": "level", "cursor": 9, "side": -1, "price": 99.5, "size": 0.0},
            {"kind": "gap", "cursor": 10, "instrument": 0, "from_ns": f"{at_ns - 5}n", "to_ns": f"{at_ns}n",
             "reason": 2, "lost": -1},
            {"kind": "status", "cursor": 11, "instrument": 3, "code": 1},
        ]},
        "bars": {"hex": bar.hex(), "rows": [
            {"kind": "bar.1m", "cursor": 8, "open_ns": f"{at_ns}n", "period_ns": "60000000000n", "instrument": 1,
             "state": 2, "open": 1.0, "high": 2.0, "low": 0.5, "close": 1.5, "volume": 12.25, "trade_count": 31,
             "first_id": "42n"},
        ]},
    }  # fmt: skip


def _positions() -> list[dict[str, Any]]:
    def rows(first: int, last: int, epoch: int = EPOCH) -> dict[str, Any]:
        return {
            "method": "rows",
            "epoch": epoch,
            "cursor_first": first,
            "cursor_last": last,
            "cursors": [*range(first, last + 1)],
        }

    def gap(first: int, last: int, reason: str, epoch: int = EPOCH) -> dict[str, Any]:
        return {
            "method": "gap",
            "epoch": epoch,
            "cursor_first": first,
            "cursor_last": last,
            "reason": reason,
            "lost": -1,
        }

    at5 = {"epoch": EPOCH, "cursor": 5}
    cases: list[tuple[str, Any, list[Any], list[Any]]] = [
        ("the next rows", at5, [rows(6, 8), rows(9, 9)], [["rows", 6, 7, 8], ["rows", 9]]),
        ("no position yet", None, [rows(40, 41)], [["rows", 40, 41]]),
        ("had before", at5, [rows(1, 5), rows(6, 6)], [["rows", 6]]),
        ("partly had before", at5, [rows(4, 7)], [["rows", 6, 7]]),
        ("a hole", at5, [rows(9, 10)], [["gap", 6, 8, "sequence"], ["rows", 9, 10]]),
        ("a gap that is told", at5, [gap(6, 20, "lapped"), rows(21, 21)], [["gap", 6, 20, "lapped"], ["rows", 21]]),
        ("an empty range moves on", at5, [rows(6, 9) | {"cursors": []}, rows(10, 10)], [["rows", 10]]),
        ("another epoch", at5, [rows(3, 4, OTHER)], [["gap", 1, 2, "epoch"], ["rows", 3, 4]]),
        (
            "another epoch that is told",
            at5,
            [gap(1, 30, "epoch", OTHER), rows(31, 31, OTHER)],
            [["gap", 1, 30, "epoch"], ["rows", 31]],
        ),
        ("ahead of the feed", {"epoch": EPOCH, "cursor": 99}, [gap(1, 30, "epoch"), rows(31, 31)],
         [["gap", 1, 30, "epoch"], ["rows", 31]]),
    ]  # fmt: skip
    return [
        {"name": name, "position": position, "messages": told, "tells": tells} for name, position, told, tells in cases
    ]


def _plain(value: Any) -> Any:  # noqa: ANN401 - anything that JSON has
    match value:
        case dict():
            return {str(key): _plain(item) for key, item in value.items()}
        case list():
            return [_plain(item) for item in value]
        case bytes():
            return {"hex": value.hex()}
        case bool():
            return value
        case int() if abs(value) > SAFE:
            return f"{value}n"
    return value


if __name__ == "__main__":
    json.dump(vectors(), sys.stdout, ensure_ascii=False, indent=1)
    sys.stdout.write("\n")
