"""The protocol as JSON Schema, for programs: ``python -m marketd.rpc.schema > docs/protocol.schema.json``.

    {protocol, version, errors: {code: number}, methods: {name: {params, result}}, notifications: {name: params},
     envelopes: {request, result, error, notification}, rows: {row_bytes, row_hash, kinds, fields by kind, sides, flags,
     gap_reasons}, steps: {step_bytes, step_hash, kinds, fields, bar_states, index_states}, $defs: the structs}

MessagePack carries what is a base64 text in these schemas, the rows of a message, as binary data.
"""

from __future__ import annotations

import sys
from enum import IntEnum
from typing import Any

import msgspec
import numpy as np

from marketd.model import Flag, GapReason, Side
from marketd.ring import layout, steps
from marketd.rpc import messages

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schema() -> dict[str, Any]:
    """Describe every method, every message and the row layout."""
    methods = messages.METHODS
    types = [t for pair in methods.values() for t in pair] + [*messages.NOTIFICATIONS.values(), messages.ErrorBody]
    references, definitions = msgspec.json.schema_components(types, ref_template="#/$defs/{name}")
    reference = dict(zip(types, references, strict=True))
    return {
        "$schema": DIALECT,
        "protocol": "marketd",
        "version": messages.PROTOCOL_VERSION,
        "errors": {code.name.lower(): int(code) for code in messages.ErrorCode},
        "methods": {
            name: {"params": reference[params], "result": reference[result]}
            for name, (params, result) in methods.items()
        },
        "notifications": {name: reference[params] for name, params in messages.NOTIFICATIONS.items()},
        "envelopes": envelopes(reference[messages.ErrorBody]),
        "rows": rows(),
        "steps": step_rows(),
        "$defs": definitions,
    }


def envelopes(error: dict[str, Any]) -> dict[str, Any]:
    """Describe what is around parameters and results. By hand: their structs leave these to a second decoding."""
    number = {"type": ["integer", "string"]}
    known = {"enum": list(messages.METHODS)}
    return {
        "request": {
            "type": "object",
            "properties": {
                "id": number,
                "method": known,
                "params": {"type": "object", "default": {}},
                "deadline_ms": {"type": "integer", "exclusiveMinimum": 0},
                "jsonrpc": {"const": "2.0"},
            },
            "required": ["id", "method"],
        },
        "result": {"type": "object", "properties": {"id": number, "result": {}}, "required": ["id", "result"]},
        "error": {
            "type": "object",
            "properties": {"id": {"type": ["integer", "string", "null"]}, "error": error},
            "required": ["id", "error"],
        },
        "notification": {
            "type": "object",
            "properties": {"method": {"enum": list(messages.NOTIFICATIONS)}, "params": {"type": "object"}},
            "required": ["method", "params"],
        },
    }


def rows() -> dict[str, Any]:
    """Describe a row's bytes: offsets, and types in numpy's spelling, ``<`` for little endian."""
    return {
        "row_bytes": layout.ROW_BYTES,
        "row_hash": f"{layout.dtype_hash():016x}",
        "kinds": {name: number for number, name in layout.KIND_NAMES.items()},
        "fields": {layout.KIND_NAMES[kind]: fields(dtype) for kind, dtype in layout.BY_KIND.items()},
        "sides": numbers(Side),
        "flags": {flag.name.lower(): int(flag) for flag in Flag if flag.name},
        "gap_reasons": numbers(GapReason),
    }


def step_rows() -> dict[str, Any]:
    """Describe the bytes of bars and index events; ``kinds`` has the first and the last number of each sort."""
    return {
        "step_bytes": steps.STEP_BYTES,
        "step_hash": f"{steps.STEPS.hash():016x}",
        "kinds": {
            "bar": [steps.BAR_KIND_FIRST, steps.BAR_KIND_FIRST + steps.SERIES_MAX - 1],
            "index": [steps.INDEX_KIND_FIRST, steps.INDEX_KIND_FIRST + steps.SERIES_MAX - 1],
        },
        "fields": {"bar": fields(steps.BAR), "index": fields(steps.INDEX)},
        "bar_states": numbers(steps.BarState),
        "index_states": numbers(steps.IndexState),
    }


def fields(dtype: np.dtype[np.void]) -> dict[str, Any]:
    """Say where each field is."""
    return {name: {"offset": found[1], "type": found[0].str} for name, found in (dtype.fields or {}).items()}


def numbers(names: type[IntEnum]) -> dict[str, int]:
    """Say which number each name has."""
    return {each.name.lower(): int(each) for each in names}


def text() -> str:
    """Print the schema, the same at every call."""
    return msgspec.json.format(msgspec.json.encode(schema(), order="sorted"), indent=2).decode() + "\n"


if __name__ == "__main__":
    sys.stdout.write(text())
