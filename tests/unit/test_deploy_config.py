"""`deploy/marketd.toml` and the structs say the same."""

import itertools
import re
import tomllib
from collections.abc import Iterator

import msgspec
import pytest
from msgspec import inspect

from backends import backend
from marketd.config import Config, decode, load
from tests.conftest import PROJECT

FILE = PROJECT / "deploy" / "marketd.toml"


def _with_examples() -> str:
    """The file with its examples uncommented; prose has a blank after the `#`."""
    return re.sub(r"^#(?=[a-z\[])", "", FILE.read_text(), flags=re.MULTILINE)


def _keys(struct: type[msgspec.Struct], where: str = "") -> Iterator[tuple[str, msgspec.structs.FieldInfo]]:
    """Every key of a struct and of those in it, by dotted path."""
    for field in msgspec.structs.fields(struct):
        yield f"{where}{field.encode_name}", field
        for inner in _structs(inspect.type_info(field.type)):
            yield from _keys(inner, f"{where}{field.encode_name}.")


def _structs(kind: inspect.Type) -> Iterator[type[msgspec.Struct]]:
    if isinstance(kind, inspect.StructType):
        yield kind.cls
    elif isinstance(kind, inspect.ListType):
        yield from _structs(kind.item_type)
    elif isinstance(kind, inspect.UnionType):
        for each in kind.types:
            yield from _structs(each)


def _look_up(tables, path: str):
    """All values of a dotted path in these tables; a step goes through each item of a list."""
    for step in path.split("."):
        items = [item for table in tables for item in (table if isinstance(table, list) else [table])]
        tables = [item[step] for item in items if step in item]
    return tables


def test_the_file_is_the_default_configuration():
    found, source = load(FILE, {})
    assert source == FILE
    [(name, sim)] = found.feeds.items()
    assert msgspec.structs.replace(found, feeds={}) == Config()
    assert (name, sim.pop("backend")) == ("sim", "sim")
    assert msgspec.convert(sim, backend.load("sim").config) == backend.load("sim").config()


def test_the_examples_in_it_load_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "monday.ws").touch()
    found = decode(tomllib.loads(_with_examples()), "the examples")
    assert set(found.feeds) == {"sim", "office", "monday", "binance", "kraken", "kucoin"}


def test_every_key_of_the_daemon_is_in_it():
    table = tomllib.loads(FILE.read_text())
    for path, _ in _keys(Config):
        assert _look_up([table], path), f"{path} is not in {FILE.name}"


@pytest.mark.parametrize("name", backend.NAMES)
def test_every_key_of_a_backend_is_in_it_with_its_default(name):
    feeds = tomllib.loads(_with_examples())["feeds"].values()
    live = backend.load(name).open_venues is not None
    # What live venues have in common is explained once, with the first of them.
    tables = [table for table in feeds if table["backend"] == name or (live and table["backend"] == "binance")]
    for path, field in _keys(backend.load(name).config):
        if path == "ca_file":  # TOML has no word for "none"
            assert "ca_file = " in FILE.read_text()
            continue
        values = _look_up(tables, path)
        assert values, f"{path} of the backend {name} is not in {FILE.name}"
        if not field.required:
            default = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
            assert default in values, f"{path} of the backend {name} is {values} in {FILE.name}, by default {default}"


def test_every_key_in_it_is_explained():
    lines = FILE.read_text().splitlines()
    examples = {"instruments", "sessions", "outages", "backend"}  # explained where they stand first
    for before, line in itertools.pairwise(lines):
        key = re.match(r"^#?([a-z_]+) = ", line)
        if key and not (line.startswith("#") and key[1] in examples):
            assert before.startswith("# ") or key[1] == "backend", f"{key[1]} has no explanation above it"
