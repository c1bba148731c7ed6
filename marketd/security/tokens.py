"""The file of tokens: who may connect from elsewhere, and what each may do.

    {"version": 1, "tokens": [{"name", "sha256", "scopes", "instruments", "quotas", "created_ns", "expires_ns"} …]}

A token is ``mdt_`` and 256 random bits in base64. The file has its SHA-256 and nothing else of it: what is as random as
that can't be guessed from its hash, so the slow hashes that passwords need would only make connecting slow.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import stat
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import msgspec

from marketd.errors import ConfigError
from marketd.security.scopes import Scope

PREFIX = "mdt_"
SECRET_BYTES = 32
TOKEN_CHARACTERS_MAX = 256
FILE_BYTES_MAX = 16 << 20
FILE_MODE = 0o600
VERSION = 1

Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}\Z")]
Pattern = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]


class Quotas(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What one token may use of each gateway process; 0 is as much as any client may have.

    Attributes:
        connections: at a time; an answer of HTTP counts as long as it lasts.
        subscriptions: at a time, of all its connections.
        requests_per_s: on average; a second's worth may come at once.
        bytes_per_day: that are sent to it, from midnight to midnight UTC.
    """

    connections: Annotated[int, msgspec.Meta(ge=0)] = 0
    subscriptions: Annotated[int, msgspec.Meta(ge=0)] = 0
    requests_per_s: Annotated[float, msgspec.Meta(ge=0, le=1_000_000)] = 0.0
    bytes_per_day: Annotated[int, msgspec.Meta(ge=0)] = 0


class Token(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What is known of a token.

    Attributes:
        name: who has it, for people.
        sha256: of the token's text, in hexadecimal digits.
        scopes: what it is for; ``admin`` includes the others.
        instruments: names and globs that it may see; empty for all.
        expires_ns: when it stops being good; 0 for never.
    """

    name: Name
    sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
    scopes: Annotated[tuple[Scope, ...], msgspec.Meta(min_length=1)]
    instruments: tuple[Pattern, ...] = ()
    quotas: Quotas = Quotas()
    created_ns: int = 0
    expires_ns: int = 0

    def __post_init__(self) -> None:
        """Refuse what does not go together. Raises ValueError."""
        if "admin" in self.scopes and self.instruments:
            raise ValueError(
                "the scope admin goes with no instrument patterns: who may record a feed or restart a service "
                "sees all of it anyway"
            )

    def expired(self, now_ns: int) -> bool:
        """Whether it is not good any more."""
        return bool(self.expires_ns) and now_ns >= self.expires_ns


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: int
    tokens: list[Token]


def new_token() -> str:
    """Return a token that nobody has had before."""
    return PREFIX + secrets.token_urlsafe(SECRET_BYTES)


def hash_of(token: str) -> str:
    """Return what is kept of a token."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def find(tokens: Iterable[Token], text: str) -> Token | None:
    """Return the token of this text; takes as long for a nearly right one as for any other."""
    if len(text) > TOKEN_CHARACTERS_MAX:
        return None
    wanted = hash_of(text)
    found = None
    for token in tokens:
        if hmac.compare_digest(token.sha256, wanted):
            found = token
    return found


def load(path: Path) -> list[Token] | None:
    """Read the file; None if there is none.

    Raises:
        ConfigError: it is not ours alone, can't be read, or is not what :func:`save` writes.
    """
    try:
        with path.open("rb") as file:
            facts = os.fstat(file.fileno())
            _check_private(path, facts)
            data = file.read(FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(
            f"{path}: the tokens can't be read: {error.strerror}; the file must belong to the daemon's user, mode 0600"
        ) from error
    try:
        decoded = msgspec.json.decode(data, type=_File)
    except (msgspec.MsgspecError, ValueError) as error:
        raise ConfigError(
            f"{path} is no file of tokens: {error}; put a copy of it back, or remove it and create the tokens anew "
            "with `marketd token create`"
        ) from error
    if decoded.version != VERSION:
        raise ConfigError(f"{path} has version {decoded.version}; this marketd knows version {VERSION}: upgrade it")
    names = [token.name for token in decoded.tokens]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"{path} has more than one token called {', '.join(twice)}: remove all but one")
    return decoded.tokens


def _check_private(path: Path, facts: os.stat_result) -> None:
    if facts.st_uid not in (os.geteuid(), 0):
        raise ConfigError(f"{path} belongs to user {facts.st_uid}: `chown` it to the daemon's user ({os.geteuid()})")
    if stat.S_IMODE(facts.st_mode) & 0o077:
        mode = stat.S_IMODE(facts.st_mode)
        raise ConfigError(
            f"{path} is open to other users (mode {mode:04o}): look whether anybody has changed it, then `chmod 600 "
            f"{path}`"
        )


def save(path: Path, tokens: list[Token]) -> None:
    """Replace the file as a whole: who reads it sees the old one or the new one. Root gives it to the folder's owner.

    Raises:
        ConfigError: it can't be written.
    """
    data = msgspec.json.format(msgspec.json.encode(_File(VERSION, tokens)), indent=2) + b"\n"
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # of mode 0600
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            if os.geteuid() == 0:
                owner = path.parent.stat()
                os.chown(name, owner.st_uid, owner.st_gid)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise ConfigError(f"{path}: the tokens can't be written: {error.strerror}") from error
