"""docs/protocol.md and docs/protocol.schema.json say what the code does."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import msgspec
import numpy as np
import pytest

from marketd.gateway.encode import encode_shared, encode_tail
from marketd.model import Flag, GapReason, Kind, MktPair, Quality, Side
from marketd.ring import layout, steps
from marketd.rpc import messages, schema
from marketd.rpc.framing import frame
from tests.conftest import PROJECT

DOC = (PROJECT / "docs" / "protocol.md").read_text()


def chapter(number: int) -> str:
    """The text of a numbered chapter."""
    found = re.search(rf"^## {number}\. .*?(?=^## |\Z)", DOC, re.DOTALL | re.MULTILINE)
    assert found
    return found[0]


def section(heading: str, chapter_number: int = 4) -> str:
    """The text below a heading in a chapter, up to the next heading. `hello` has a chapter of its own."""
    if heading == "hello":
        return chapter(3)
    found = re.search(
        rf"^### {re.escape(heading)}\n(.*?)(?=^###|\Z)", chapter(chapter_number), re.DOTALL | re.MULTILINE
    )
    assert found, f"there is no heading {heading!r} in chapter {chapter_number}"
    return found[1]


def keys(struct: type[msgspec.Struct]) -> Iterator[str]:
    """The struct's keys as they are on the wire, and those of the structs in it."""
    for field in msgspec.structs.fields(struct):
        yield field.encode_name
        for inner in _structs(field.type):
            yield from keys(inner)


def _structs(type_: object) -> Iterator[type[msgspec.Struct]]:
    if isinstance(type_, type) and issubclass(type_, msgspec.Struct):
        yield type_
    for inner in getattr(type_, "__args__", ()):
        yield from _structs(inner)


def assert_named(text: str, names: Iterator[str] | list[str]) -> None:
    missing = [name for name in names if f"`{name}`" not in text]
    assert not missing, f"not in the page where they should be: {missing}"


@pytest.mark.parametrize("method", [method for method in messages.METHODS if method != "hello"])
def test_every_method_is_described_with_every_key(method: str) -> None:
    params, result = messages.METHODS[method]
    text = section(method) + ("" if result is not messages.SubscribeResult else section("subscribe"))
    text += "`epoch` `cursor`" if "{epoch, cursor}" in text else ""
    assert_named(text, [*keys(params), *keys(result)])


def test_hello_is_described_with_every_key() -> None:
    text = section("hello")
    assert_named(text, [*keys(messages.HelloParams), *keys(messages.HelloResult)])
    assert f"`{layout.dtype_hash():016x}`" in text
    assert f"`{steps.STEPS.hash():016x}`" in text


@pytest.mark.parametrize("name", messages.NOTIFICATIONS)
def test_every_notification_is_described_with_every_key(name: str) -> None:
    text = section(name, 6) + ("`epoch` `cursor`" if name == "notice" else "")
    assert_named(text, keys(messages.NOTIFICATIONS[name]))


def test_defaults_are_those_of_the_code() -> None:
    for method, (params, _) in messages.METHODS.items():
        text = section(method)
        for field in msgspec.structs.fields(params):
            row = re.search(rf"^\| `{field.encode_name}` \|[^|]*\|([^|]*)\|", text, re.MULTILINE)
            assert row, f"{method}: no row for {field.encode_name}"
            default = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
            said = row[1].strip().strip("`")
            if default is msgspec.NODEFAULT:
                assert said == "", (method, field.encode_name)
            else:
                assert json.loads(said) == json.loads(msgspec.json.encode(default)), (method, field.encode_name)


def test_every_error_is_described_with_its_number() -> None:
    for code in messages.ErrorCode:
        assert f"| `{code.name.lower()}` | {int(code)} |" in DOC


def test_every_constant_of_a_row_is_described() -> None:
    text = chapter(7)
    for kind in Kind:
        assert f"| {kind.value} | `{kind.name.lower()}` |" in text
    for reason in GapReason:
        assert f"| {reason.value} | `{reason.name.lower()}` |" in text
    for quality in Quality:
        assert f"| {quality.value} | `{quality.name.lower()}` |" in text
    for flag in Flag:
        assert f"| {flag.value} | `{(flag.name or '').lower()}`" in text
    for side in Side:
        assert f"| {side.value} | `{side.name.lower()}` |" in text


def test_every_state_of_a_bar_and_of_a_step_is_described() -> None:
    bars, index = section("Bars as they are made", 5).split("**Index events**")
    for states, text in ((steps.BarState, bars), (steps.IndexState, index)):
        for state in states:
            assert f"| {state.value} | `{state.name.lower()}` |" in text


STEPS_HEADING = "### Rows of bars and index events"


def test_every_field_of_a_row_is_described_at_its_place() -> None:
    text = chapter(7).partition(STEPS_HEADING)[0]
    assert f"{layout.ROW_BYTES} bytes, **little endian**" in text
    for kind, dtype in layout.BY_KIND.items():
        assert_placed(text, f"| {kind} | `{layout.KIND_NAMES[kind]}`", dtype)


def test_every_field_of_a_bar_and_of_an_index_event_is_described_at_its_place() -> None:
    text = chapter(7).partition(STEPS_HEADING)[2]
    assert f"{steps.STEP_BYTES} bytes, **little endian**" in text
    for name, first, dtype in (
        ("bar", steps.BAR_KIND_FIRST, steps.BAR),
        ("index", steps.INDEX_KIND_FIRST, steps.INDEX),
    ):
        assert_placed(text, f"| {first} to {first + steps.SERIES_MAX - 1} | `{name}.…`", dtype)


def assert_placed(text: str, line_start: str, dtype: np.dtype) -> None:
    """What all kinds have is in a table, what one kind has in its line."""
    types = {"<u8": "u64", "<i8": "i64", "<u4": "u32", "|u1": "u8", "|i1": "i8", "<u2": "u16", "<f8": "f64"}
    line = next(line for line in text.splitlines() if line.startswith(line_start))
    for name, (code, offset, *_) in (dtype.fields or {}).items():
        if offset < 40:
            assert f"| {offset} | {code.itemsize} | {types[code.str]} | `{name}` |" in text
        else:
            assert f"{types[code.str]} `{name}` at {offset}" in line


def test_every_state_and_every_key_of_a_market_is_named() -> None:
    assert_named(section("status"), [*messages.FeedState.__args__])
    assert_named(section("instrument"), list(MktPair.__struct_fields__))


EXAMPLES = re.findall(r"<!-- (params|result|message): ([a-z.]+) -->\n```json\n(.*?)```", DOC, re.DOTALL)


@pytest.mark.parametrize(("what", "name", "text"), EXAMPLES)
def test_every_example_is_valid(what: str, name: str, text: str) -> None:
    if what == "message":
        struct: type[msgspec.Struct] = messages.NOTIFICATIONS[name]
    else:
        struct = messages.METHODS[name][0 if what == "params" else 1]
    example = msgspec.json.decode(text, type=struct)
    assert set(json.loads(text)) <= {field.encode_name for field in msgspec.structs.fields(type(example))}
    if isinstance(example, messages.Columns):
        assert set(example.columns) == set(layout.TRADE.names or ())
    if isinstance(example, messages.BarsResult):
        assert list(example.columns) == list(steps.BAR.names or ())
    if isinstance(example, messages.Bars):
        [bar] = np.frombuffer(example.data, steps.BAR)
        assert (bar["open_ns"], bar["instrument"], bar["state"]) == (
            1_700_000_040_000_000_000,
            1,
            steps.BarState.CLOSED,
        )
        assert bar["number"] * bar["period_ns"] == bar["open_ns"]
        assert example.cursor_first <= bar["cursor"] <= example.cursor_last


def test_dumped_frames_are_what_is_really_sent() -> None:
    row = layout.PACK.pack(7, 1_700_000_000_000_000_000, 1_700_000_000_001_500_000, 42, 3, 1, 1, 1, 30123.5, 0.25, 0, 0)
    fields: dict[str, object] = {"feed": "sim", "epoch": 4503599627370497, "cursor_last": 7, "data": row}
    params = msgspec.Raw(msgspec.msgpack.encode(messages.HelloParams(client="doc")))
    expected = {
        "hello": frame(msgspec.msgpack.encode(messages.Request(1, "hello", params))),
        "rows": bytes(encode_shared("rows", fields)) + encode_tail(1, 5),
    }
    for name, sent in expected.items():
        dump = re.search(rf"<!-- dump: {name} -->\n```\n(.*?)```", DOC, re.DOTALL)
        assert dump
        assert bytes.fromhex("".join(line[6:54] for line in dump[1].splitlines())) == sent
    assert expected["rows"][0x45 : 0x45 + 72] == row


def test_schema_is_current() -> None:
    kept = (PROJECT / "docs" / "protocol.schema.json").read_text()
    assert kept == schema.text(), "run: python -m marketd.rpc.schema > docs/protocol.schema.json"


def test_schema_has_every_method_message_and_error() -> None:
    found = schema.schema()
    assert set(found["methods"]) == set(messages.METHODS)
    assert set(found["notifications"]) == set(messages.NOTIFICATIONS)
    assert len(found["errors"]) == len(messages.ErrorCode)
    named = {reference["$ref"].rpartition("/")[2] for reference in found["notifications"].values()}
    assert named <= set(found["$defs"])
