"""`marketd run`: the daemon itself, in the foreground."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from marketd.cli.common import daemon_packages, exits, fail
from marketd.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from marketd.config import Config
    from marketd.paths import Paths
    from marketd.rpc.messages import FeedStatus
    from marketd.supervise.activation import PassedSocket
    from marketd.supervise.notify import Notifier
    from marketd.supervise.reloader import Loaded

EXAMPLE = "marketd run --config deploy/marketd.toml --log-level debug"
LogLevel = Annotated[
    str | None, typer.Option("--log-level", metavar="LEVEL", help="debug, info, warning, error or critical.")
]
SOCKET_PATH_BYTES_MAX = 107  # sockaddr_un.sun_path less its final zero: unix(7)


@exits(interrupted=0)
def run(
    config: Annotated[Path | None, typer.Option("--config", "-c", help="The configuration file.")] = None,
    instance: Annotated[str | None, typer.Option("--instance", help="A name of its own beside other daemons.")] = None,
    log_level: LogLevel = None,
    address: Annotated[
        str | None,
        typer.Option("--address", "-a", metavar="HOST:PORT", help="Listen here, not at gateway.listen."),
    ] = None,
    http: Annotated[
        str | None,
        typer.Option("--http", metavar="HOST:PORT", help="Serve HTTP here, not at gateway.http; none for no HTTP."),
    ] = None,
    base: Annotated[
        Path | None, typer.Option("--base", help="Keep state, runtime and cache files below this folder.")
    ] = None,
    parent: Annotated[int | None, typer.Option("--parent", hidden=True)] = None,
) -> None:
    """Run the daemon until Ctrl-C or SIGTERM; logs go to standard error.

    SIGHUP lets it read its configuration again, as `marketd reload` does.

    Without --config the file is looked for in $MARKETD_CONFIG, ~/.config/marketd/marketd.toml and
    /etc/marketd/marketd.toml. Where there is none, the daemon runs one simulated feed.

    Under systemd it says when it is ready, how it stands and that it makes progress, and takes sockets that were opened
    for it in place of gateway.listen and, by the name http, of gateway.http.
    """
    with daemon_packages():
        import structlog

        from marketd.config import load, search_places
        from marketd.paths import Paths
        from marketd.supervise.activation import http_addresses, protocol_addresses, take_sockets
        from marketd.supervise.notify import Notifier
        from marketd.supervise.reloader import Loaded
    notifier, passed = Notifier.from_environment(), take_sockets()
    if parent is not None:
        _end_with(parent)

    def read() -> Loaded:
        loaded, source = load(config)
        listen = protocol_addresses(passed) or ([] if address is None else [address])
        whole = _with_options(
            loaded, instance, log_level, listen=listen, http=http_addresses(passed) or ([] if http is None else [http])
        )
        return Loaded(whole, source)

    whole, source = read()
    paths = Paths.for_instance(whole.instance, base)
    _configure_logs(whole)
    log = structlog.get_logger("marketd.cli.run")
    if source is None:
        log.warning("config.none_found", searched=[str(place) for place in search_places()], using="one feed, sim")
    else:
        log.info("config.loaded", file=str(source), feeds=list(whole.feeds))
    if passed:
        log.info("daemon.activated", sockets={sock.address: sock.name for sock in passed})
    supervise(whole, paths, read_again=read, notifier=notifier, passed=passed)


def supervise(
    config: Config,
    paths: Paths,
    *,
    on_ready: Callable[[list[str]], None] | None = None,
    exit_when_done: bool = False,
    read_again: Callable[[], Loaded] | None = None,
    notifier: Notifier | None = None,
    passed: Sequence[PassedSocket] = (),
) -> list[FeedStatus]:
    """Run the supervisor to its end; what can be seen to fail is refused before anything starts."""
    with daemon_packages():
        from functools import partial

        import trio

        from marketd.supervise import supervisor
    if config.gateway.unix and len(os.fsencode(paths.socket)) > SOCKET_PATH_BYTES_MAX:
        raise ConfigError(f"the path of the Unix socket is too long: {paths.socket}; or set gateway.unix = false")
    os.umask(0o077)  # what the daemon and its actors make, wherever that is, is for this user alone
    _check_security(config, paths)
    ours = {sock.address for sock in passed}  # and so they are in use
    _refuse_taken([address for address in config.gateway.listen if address not in ours], "--address")
    _refuse_taken([address for address in config.gateway.http if address not in ours], "--http")
    return trio.run(
        partial(
            supervisor.run,
            config,
            paths,
            on_ready=on_ready,
            exit_when_done=exit_when_done,
            read_again=read_again,
            notifier=notifier,
            passed=passed,
        ),
        restrict_keyboard_interrupt_to_checkpoints=True,
    )


def _with_options(
    config: Config, instance: str | None, log_level: str | None, *, listen: list[str], http: list[str]
) -> Config:
    """Let the command line and passed sockets win over the file; their values are checked as the file's are."""
    import msgspec

    from marketd.config import decode

    table = msgspec.to_builtins(config)
    if instance is not None:
        table["instance"] = instance
    if log_level is not None:
        table["log"]["level"] = log_level
    if listen:
        table["gateway"]["listen"] = listen
    if http:
        table["gateway"]["http"] = [] if http == ["none"] else http
    return decode(table, "command line")


def _configure_logs(config: Config) -> None:
    from marketd import logs

    logs.configure(config.log.level, config.log.format, "supervisor")


def _check_security(config: Config, paths: Paths) -> None:
    """Refuse tokens and certificates that no gateway could use, and warn of doors that nobody can go through.

    Raises:
        ConfigError: a file is of no use; the text says what to do.
    """
    import structlog

    from marketd.security import tokens
    from marketd.security.doors import demands_token, door_of
    from marketd.security.server_tls import server_context

    path = Path(config.security.tokens or paths.tokens)
    found = tokens.load(path)
    if config.security.certificate:
        server_context(config.security.certificate, config.security.key)
    if found:
        return
    addresses = [*config.gateway.listen, *config.gateway.http, *(["unix:"] if config.gateway.unix else [])]
    required, defined = config.security.require_token, found is not None
    shut = [each for each in addresses if demands_token(door_of(each), defined=defined, required=required)]
    if shut:
        log = structlog.get_logger("marketd.security")
        log.warning("security.no_tokens", addresses=shut, file=str(path), remedy="marketd token create NAME")


def _refuse_taken(addresses: list[str], option: str) -> None:
    """Try each TCP address: a gateway that can't have it would be started again and again."""
    import errno
    import socket

    from marketd.client.address import parse_address

    for text in addresses:
        if text.startswith("unix:") or text.endswith(":0"):
            continue
        address = parse_address(text)
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address.host, address.port))
            except OSError as error:
                reason = "is in use" if error.errno == errno.EADDRINUSE else f"can't be listened at ({error.strerror})"
                fail(f"the address {text} {reason}; give another with {option}")


def _end_with(parent: int) -> None:
    """Stop this daemon when the process that started it is gone, however it ended."""

    def watch() -> None:
        with contextlib.suppress(ProcessLookupError):
            poll = select.poll()
            poll.register(os.pidfd_open(parent), select.POLLIN)  # readable once the process has ended: pidfd_open(2)
            poll.poll()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
