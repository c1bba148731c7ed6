"""Scripts: faults at given times, from a file.

TOML has a table for each, JSON lines an object on each line; ``at_s`` counts from the server's start:

    [[fault]]
    at_s = 10
    venue = "binance"
    fault = "cut"
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import msgspec

from marketd.errors import ConfigError
from marketd.testvenue.faults import Fault, check


def read(path: Path, venues: tuple[str, ...]) -> list[Fault]:
    """Read a script.

    Raises:
        ConfigError: the text names the file and the fault.
    """
    try:
        text = path.read_text("utf-8")
        tables = _tables(path, text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.DecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error
    return [_fault(f"{path}: fault {number}", table, venues) for number, table in enumerate(tables, 1)]


def parse(where: str, table: object, venues: tuple[str, ...]) -> Fault:
    """Make one fault of its table.

    Raises:
        ConfigError: the text begins with ``where``.
    """
    try:
        fault = msgspec.convert(table, Fault)
        check(fault, venues)
    except (msgspec.ValidationError, ConfigError) as error:
        raise ConfigError(f"{where}: {error}") from None
    return fault


def _tables(path: Path, text: str) -> list[Any]:
    if path.suffix != ".toml":
        return [msgspec.json.decode(line) for line in text.splitlines() if line.strip()]
    tables = tomllib.loads(text).get("fault", [])
    return tables if isinstance(tables, list) else [tables]


def _fault(where: str, table: object, venues: tuple[str, ...]) -> Fault:
    if isinstance(table, dict) and "at_s" in table:
        table = {("after_s" if key == "at_s" else key): value for key, value in table.items()}
    return parse(where, table, venues)
