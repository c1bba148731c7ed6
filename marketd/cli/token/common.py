"""What the token commands share: where the file is, and how a change to it is made and noted."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from marketd.cli.common import daemon_packages, fail
from marketd.errors import ConfigError

if TYPE_CHECKING:
    from marketd.security.tokens import Token

ConfigOption = Annotated[Path | None, typer.Option("--config", "-c", help="The daemon's configuration file.")]
InstanceOption = Annotated[str | None, typer.Option("--instance", help="The daemon's name, if it has one of its own.")]
BaseOption = Annotated[Path | None, typer.Option("--base", help="Where the daemon's folders are, as for run.")]


class Place:
    """The files of one daemon.

    Attributes:
        tokens: its file of tokens.
        audit: its audit log.
    """

    def __init__(self, config: Path | None, instance: str | None, base: Path | None) -> None:
        with daemon_packages():
            from marketd.config import load
            from marketd.paths import Paths
        loaded, _ = load(config)
        paths = Paths.for_instance(instance or loaded.instance, base)
        self.tokens = Path(loaded.security.tokens or paths.tokens)
        self.audit = paths.audit

    def read(self) -> list[Token]:
        """Return the tokens that there are. Raises ConfigError: the file is of no use."""
        from marketd.security import tokens

        return tokens.load(self.tokens) or []

    @contextlib.contextmanager
    def changing(self) -> Iterator[list[Token]]:
        """Give the list of tokens to change, and write it, while no other command changes it.

        Raises:
            ConfigError: the file can't be read or written.
        """
        from marketd.security import tokens

        folder = self.tokens.parent
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise ConfigError(f"{folder}: the tokens can't be kept there: {error.strerror}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            found = self.read()
            yield found
            tokens.save(self.tokens, found)
        finally:
            os.close(lock)

    def note(self, action: str, detail: object) -> None:
        """Write it into the audit log, if the daemon has a folder for that already."""
        from marketd.security.audit import append, entry_of

        if self.audit.parent.is_dir():
            try:
                append(self.audit, entry_of(action, token="", peer=f"user:{_user()}", result="done", detail=detail))
            except OSError as error:
                fail(f"it is done, but {self.audit} can't be written to: {error.strerror}")


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
