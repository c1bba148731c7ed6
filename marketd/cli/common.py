"""What all commands share: options, exit codes, and how an error becomes one sentence on standard error."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from marketd.errors import ConfigError, InputError, MarketdError, RecordingError

EXIT_ERROR = 1
EXIT_USAGE = 2
EXIT_UNREACHABLE = 3
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it

AddressOption = Annotated[
    str | None,
    typer.Option(
        "--address",
        "-a",
        metavar="HOST:PORT|tls://HOST:PORT|unix:PATH",
        help="Where the daemon is.",
        show_default="$MARKETD_ADDRESS, else this user's daemon, else 127.0.0.1:7600",
    ),
]
TokenFileOption = Annotated[
    Path | None,
    typer.Option(
        "--token-file",
        metavar="FILE",
        help="A file with the token for the daemon. It is no option itself: others see those.",
        show_default="$MARKETD_TOKEN, or what is in $MARKETD_TOKEN_FILE",
    ),
]
CaFileOption = Annotated[
    Path | None,
    typer.Option(
        "--ca-file",
        metavar="FILE",
        help="PEM file of the authorities to trust with tls://.",
        show_default="$MARKETD_CA_FILE, else the system's",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


@contextlib.contextmanager
def exits(*, interrupted: int = EXIT_INTERRUPTED) -> Iterator[None]:
    """Turn what a command may end with into an exit code and, for errors, one sentence. Use as a decorator.

    Args:
        interrupted: the exit code for Ctrl-C: the usual end of a daemon, but not of a client.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise typer.Exit(interrupted) from None
    except Exception as error:
        cause = innermost(error)
        if isinstance(cause, BrokenPipeError):
            # Whoever read our output (`head`) has enough. Python would complain when it flushes at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None
        if isinstance(cause, typer.Exit):
            raise cause from None
        if not isinstance(cause, MarketdError):
            raise
        fail(str(cause), exit_code(cause))


def exit_code(error: BaseException) -> int:
    """Say whose doing an error was: the caller's (2), nobody's at the other end (3), or anything else (1)."""
    if isinstance(error, ConfigError | RecordingError | InputError):
        return EXIT_USAGE
    return EXIT_UNREACHABLE if isinstance(error, ConnectionError) else EXIT_ERROR


def fail(sentence: str, code: int = EXIT_ERROR) -> NoReturn:
    """Say it on standard error, and end."""
    print(f"marketd: {sentence}", file=sys.stderr)
    raise typer.Exit(code)


def show_to_daemons(token_file: Path | None, ca_file: Path | None) -> None:
    """Let every client that this process makes show this token and trust these authorities."""
    if token_file is None and ca_file is None:
        return  # and nothing has to be imported, for `--help` of an install that lacks something, say
    from marketd.client import trust

    if token_file is not None:
        os.environ.pop(trust.TOKEN_VARIABLE, None)
        os.environ[trust.TOKEN_FILE_VARIABLE] = str(token_file)
    if ca_file is not None:
        os.environ[trust.CA_FILE_VARIABLE] = str(ca_file)


def resolve_address(given: str | None) -> str:
    """Return the address to connect to.

    Raises:
        ConfigError: it is none; the text says what one looks like.
    """
    from marketd.client.address import default_address, parse_address

    address = given or default_address()
    try:
        parse_address(address)
    except ValueError as error:
        raise ConfigError(f"--address: {error}" if given else f"$MARKETD_ADDRESS: {error}") from None
    return address


@contextlib.contextmanager
def daemon_packages() -> Iterator[None]:
    """Wrap the imports of what only a full install has."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("marketd", "backends", "storage"):
            raise  # ours: that would be a bug and not a choice of what to install
        fail(
            f"the daemon's packages are not installed: there is no module {error.name!r}. "
            "This install is for clients; run the daemon from a checkout (`make setup`), see README.md"
        )


def innermost(error: BaseException) -> BaseException:
    """Unwrap groups of one, which task groups make of a single error."""
    inner: Sequence[BaseException] = getattr(error, "exceptions", ())
    return innermost(inner[0]) if len(inner) == 1 else error
