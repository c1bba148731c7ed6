from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from backends.backend import NAMES, Backend, load
from backends.validate import validate_backend


class Loose(msgspec.Struct):
    """Says nothing of its key."""

    depth: int = 1


class Contradiction(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Its own defaults are wrong.

    Attributes:
        size: a size.
    """

    size: int = 0

    def __post_init__(self):
        raise ValueError("size is 0")


def test_all_problems_are_told_at_once():
    """R41: every problem is named, by the one validation function."""
    problems = "\n".join(validate_backend(Backend("No Venue", "two\nlines", Loose, url_prefixes=("wss://x",))))
    for part in (
        "lower-case",
        "NAMES",
        "one line",
        "forbid unknown",
        "frozen",
        "'depth'",
        "do nothing",
        "url_prefixes",
    ):
        assert part in problems


def test_protocol_needs_its_files_and_addresses_of_its_own():
    binance = load("binance")
    problems = "\n".join(validate_backend(replace(binance, name="sim2", url_prefixes=("nowhere", "sim://x"))))
    for part in ("sim2/wire.py", "sim2/normalize.py", "sim2/protocol.py", "no scheme", "claimed by 'sim'"):
        assert part in problems
    assert any("never choose it" in problem for problem in validate_backend(replace(binance, url_prefixes=())))


def test_defaults_that_contradict_each_other_are_told():
    problems = validate_backend(replace(load("sim"), config=Contradiction))
    assert problems == ["backend 'sim': the defaults of Contradiction don't go together: size is 0"]


@pytest.mark.parametrize("name", NAMES)
def test_our_own_backends_are_whole(name):
    assert validate_backend(load(name)) == []
