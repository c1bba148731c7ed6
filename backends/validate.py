"""Check a backend's declaration, and say everything that is wrong or missing in one list."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

from backends.backend import NAMES, Backend, load
from backends.live import LiveConfig

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_FOLDER = Path(__file__).parent
_PROTOCOL_FILES = ("wire", "normalize", "protocol")


def validate_backend(backend: Backend) -> list[str]:
    """Return one sentence for each problem; none when the declaration is whole.

    Looks at the declaration and at which files there are; opens nothing and connects to nothing.
    """
    problems = [*_check_texts(backend), *_check_config(backend), *_check_abilities(backend)]
    return [f"backend {backend.name!r}: {problem}" for problem in problems]


def _check_texts(backend: Backend) -> Iterator[str]:
    if not _NAME.fullmatch(backend.name):
        yield "the name must be lower-case letters, digits and underscores: it is a package and the end of an FQME"
    if backend.name not in NAMES:
        yield "it is not in backends.backend.NAMES, so nobody can load it"
    if not backend.description or "\n" in backend.description:
        yield "the description must be one line"


def _check_config(backend: Backend) -> Iterator[str]:
    config = backend.config
    if not config.__struct_config__.forbid_unknown_fields:
        yield f"{config.__name__} must forbid unknown fields: a misspelt key must not pass in silence"
    if not config.__struct_config__.frozen:
        yield f"{config.__name__} must be frozen"
    fields = msgspec.structs.fields(config)
    explained = "".join(base.__doc__ or "" for base in config.__mro__)
    yield from (
        f"{config.__name__} must explain its key {field.encode_name!r} in its docstring"
        for field in fields
        if f"{field.encode_name}:" not in explained
    )
    if not any(field.required for field in fields):
        try:
            msgspec.convert({}, config)
        except msgspec.ValidationError as error:
            yield f"the defaults of {config.__name__} don't go together: {error}"


def _check_abilities(backend: Backend) -> Iterator[str]:
    if not backend.live and backend.open_protocol is None:
        yield "it has none of open_source, open_venues and open_protocol, and so can do nothing"
    if backend.open_venues is not None and not issubclass(backend.config, LiveConfig):
        yield f"it has open_venues, so {backend.config.__name__} must inherit from backends.live.LiveConfig"
    if backend.open_protocol is None:
        if backend.url_prefixes:
            yield "it has url_prefixes but no open_protocol to play recordings of those addresses"
        return
    if not backend.url_prefixes:
        yield "it has open_protocol but no url_prefixes, so replay will never choose it"
    yield from (
        f"there is no backends/{backend.name}/{name}.py"
        for name in _PROTOCOL_FILES
        if not (_FOLDER / backend.name / f"{name}.py").is_file()
    )
    for prefix in backend.url_prefixes:
        if "://" not in prefix:
            yield f"the url prefix {prefix!r} has no scheme"
        for other in _claimants(backend, prefix):
            yield f"the url prefix {prefix!r} is claimed by {other!r} as well"


def _claimants(backend: Backend, prefix: str) -> Iterator[str]:
    for name in NAMES:
        if name != backend.name and any(
            prefix.startswith(other) or other.startswith(prefix) for other in load(name).url_prefixes
        ):
            yield name
