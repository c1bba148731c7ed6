"""Files of saved answers: which they are, how their bodies are parted, and how they are refused."""

from __future__ import annotations

import gzip
from decimal import Decimal

import pytest

from backends.saved import is_saved, price_tick, read_bodies, split_bodies
from marketd.errors import RecordingError, WireError


@pytest.mark.parametrize(
    ("name", "content", "saved"),
    [
        ("a.json", b"", True),
        ("a.json", b"wss://x <-> 1\n", True),
        ("a.json.gz", b"no gzip", True),
        ("a.ws", b'{"error":[]}', False),
        ("a.ws.gz", b"no gzip", False),
        ("a", b' \n {"error":[]}', True),
        ("a", b"[1]", True),
        ("a", b"wss://x <-> 1\n", False),
        ("a.txt", b"buy milk", False),
    ],
)
def test_the_name_tells_a_saved_answer_or_else_its_beginning(tmp_path, name, content, saved):
    path = tmp_path / name
    path.write_bytes(content)
    assert is_saved(path) == saved


@pytest.mark.parametrize(
    ("text", "bodies"),
    [
        (b'{"a":1}', [b'{"a":1}']),
        (b' {"a":1}\n', [b'{"a":1}']),
        (b'{"a":1}{"b":2}', [b'{"a":1}', b'{"b":2}']),
        (b'{"a":1}\r\n\r\n[2]\n', [b'{"a":1}', b"[2]"]),
        (b'{\n "a": 1.50\n}\n{\n "b": "}"\n}\n', [b'{\n "a": 1.50\n}', b'{\n "b": "}"\n}']),
        (b'\xef\xbb\xbf{"a":1}', [b'{"a":1}']),
        ('{"é":1}\n{"\U0001f600":2}'.encode(), ['{"é":1}'.encode(), '{"\U0001f600":2}'.encode()]),
    ],
)
def test_bodies_are_parted_and_their_bytes_are_kept(text, bodies):
    assert split_bodies(text) == bodies


@pytest.mark.parametrize(
    "text",
    [b"", b"  \n", b"buy milk", b'{"a":', b'{"a":1}{"b":', b'{"a":1},{"b":2}', b"\xff\xfe", b"[" * 100_000,
     b'{"a":1}\n' + b"[" * 100_000, b'{"a":1}\x00', b"1" * 6000 + b"x"],
)  # fmt: skip
def test_what_is_no_json_or_is_cut_is_refused(text):
    with pytest.raises(WireError):
        split_bodies(text)


def test_gzip_is_read_when_the_name_says_so(tmp_path):
    packed = gzip.compress(b'{"a":1}\n{"b":2}')
    for name in ("a.json.gz", "cut.json.gz", "a.json"):
        (tmp_path / name).write_bytes(packed if name != "cut.json.gz" else packed[:-9])
    (tmp_path / "plain.json.gz").write_bytes(b'{"a":1}')
    assert read_bodies(tmp_path / "a.json.gz") == [b'{"a":1}', b'{"b":2}']
    with pytest.raises(RecordingError, match=r"cut\.json\.gz is cut"):
        read_bodies(tmp_path / "cut.json.gz")
    with pytest.raises(RecordingError, match=r"a\.json is gzip: its name must end in \.gz"):
        read_bodies(tmp_path / "a.json")
    with pytest.raises(RecordingError, match=r"plain\.json\.gz: Not a gzipped file"):
        read_bodies(tmp_path / "plain.json.gz")


def test_a_file_has_a_size_limit(tmp_path, monkeypatch):
    monkeypatch.setattr("backends.saved.BYTES_MAX", 1 << 20)
    path = tmp_path / "a.json.gz"
    path.write_bytes(gzip.compress(b" " * (1 << 20) + b"1"))
    with pytest.raises(RecordingError, match=r"a\.json\.gz is larger than 1 MiB"):
        read_bodies(path)


@pytest.mark.parametrize(
    ("prices", "tick"), [([], "1"), ([5.0, 120.0], "1"), ([0.1, 0.25], "0.01"), ([1e-9], "1E-9"), ([1e22], "1")]
)
def test_the_price_step_is_that_of_the_most_digits(prices, tick):
    assert price_tick(prices) == Decimal(tick)
