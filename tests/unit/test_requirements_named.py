"""Each requirement on streams, broadcasts and feeds stands in the docstring of a test that proves it."""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterator

from tests.conftest import PROJECT

# An id on its own or several with commas between them, in front of a colon or a full stop.
IDS = re.compile(r"(?:[A-Z]\d+, )*[A-Z]\d+(?=[:.])")
REQUIRED = {
    f"{letter}{number:0{width}}"
    for letter, width, numbers in (
        ("B", 1, itertools.chain(range(4, 7), range(12, 23))),
        ("R", 2, itertools.chain(range(12, 21), range(30, 46))),
    )
    for number in numbers
}


def docstrings(text: str) -> Iterator[str]:
    """The docstrings of the test functions in a module."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            yield ast.get_docstring(node) or ""


def named(text: str) -> set[str]:
    """The requirements that the tests in a module are named for."""
    found = (IDS.match(docstring) for docstring in docstrings(text))
    return {number for match in found if match for number in match[0].split(", ")}


def test_every_requirement_is_named_by_a_test() -> None:
    assert len(REQUIRED) == 14 + 25
    every = set().union(*(named(path.read_text()) for path in (PROJECT / "tests").rglob("test_*.py")))
    assert not (missing := sorted(REQUIRED - every)), f"no test is named for {', '.join(missing)}"


def test_only_the_beginning_of_a_tests_docstring_names_requirements() -> None:
    text = '''
def helper():
    """B1: no test."""


class TestMore:
    def test_method(self):
        """B2, R03: two."""


async def test_function():
    """As B4: says, not."""


def test_other():
    """R05 is meant, perhaps."""
'''
    assert named(text) == {"B2", "R03"}
