"""Check tables of a TOML file against structs, and say everything that is wrong at once.

msgspec stops at the first mistake, and does not say what would have been allowed; an operator wants one list.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any, get_args

import msgspec
from msgspec import inspect


def check_table(table: Mapping[str, Any], struct: type[msgspec.Struct], where: str = "") -> list[str]:
    """Compare a table with the struct that will decode it.

    Args:
        where: dotted path of the table in its file, empty for the file itself.

    Returns:
        One sentence for each unknown key, missing key and bad value, in the file's order; empty when all is well.
    """
    fields = {field.encode_name: field for field in msgspec.structs.fields(struct)}
    problems = []
    for key, value in table.items():
        path = f"{where}.{key}" if where else key
        if key not in fields:
            problems.append(f"{path}: unknown key; {suggest(key, fields)}")
            continue
        problems += _check_value(value, fields[key].type, path)
    missing = [name for name, field in fields.items() if field.required and name not in table]
    problems += [
        f"{where}.{name}: missing; it must be {_allowed(inspect.type_info(fields[name].type))}" for name in missing
    ]
    if not problems:
        problems += _check_whole(table, struct, where)
    return problems


def suggest(word: str, known: Iterable[str]) -> str:
    """``did you mean 'rows'?``, or the whole list where nothing is like the word."""
    words = sorted(known)
    close = difflib.get_close_matches(word, words, n=1)
    return f"did you mean {close[0]!r}?" if close else f"allowed are {', '.join(words) or 'none'}"


def _check_value(value: object, type_: type, path: str) -> list[str]:
    kind = inspect.type_info(type_)
    if isinstance(kind, inspect.StructType) and isinstance(value, Mapping):
        return check_table(value, kind.cls, path)
    if isinstance(kind, inspect.DictType) and isinstance(value, Mapping):
        name_type, item_type = get_args(type_)
        problems = [_check_value(name, name_type, f"{path}: the name") for name in value]
        problems += [_check_value(item, item_type, f"{path}.{name}") for name, item in value.items()]
        return list(chain.from_iterable(problems))
    try:
        msgspec.convert(value, type_)
    except msgspec.ValidationError as error:
        # Deep inside a list or a table msgspec's own sentence is the better one: it names the place.
        deep = "" if " - at " not in str(error) else f" ({error})"
        return [f"{path} is {_shown(value)}: it must be {_allowed(kind)}{deep}"]
    return []


def _check_whole(table: Mapping[str, Any], struct: type[msgspec.Struct], where: str) -> list[str]:
    """Let the struct's own ``__post_init__`` speak, once each value is right by itself."""
    try:
        msgspec.convert(table, struct)
    except msgspec.ValidationError as error:
        return [f"{where}: {error}" if where else str(error)]
    return []


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


def _allowed(kind: inspect.Type) -> str:
    """A type in an operator's words: ``a whole number from 1 to 16``."""
    match kind:
        case inspect.Metadata(type=inner):
            return _allowed(inner)
        case inspect.BoolType():
            return "true or false"
        case inspect.LiteralType(values=values):
            return "one of " + ", ".join(repr(value) for value in values)
        case inspect.IntType() | inspect.FloatType():
            return ("a whole number" if isinstance(kind, inspect.IntType) else "a number") + _bounds(kind)
        case inspect.StrType(pattern=pattern):
            return "text" + (f" that matches {pattern}" if pattern else "")
        case inspect.ListType(item_type=item):
            return f"a list, each item {_allowed(item)}"
        case inspect.UnionType(types=types):
            return " or ".join(_allowed(item) for item in types if not isinstance(item, inspect.NoneType))
        case inspect.StructType() | inspect.DictType():
            return "a table"
    return f"a value of type {type(kind).__name__.removesuffix('Type').lower()}"


def _bounds(kind: inspect.IntType | inspect.FloatType) -> str:
    bounds = (("greater than", kind.gt), ("at least", kind.ge), ("less than", kind.lt), ("at most", kind.le))
    return "".join(f", {word} {bound}" for word, bound in bounds if bound is not None)
