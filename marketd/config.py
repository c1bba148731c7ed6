"""The configuration: one TOML file, one struct. Unknown keys and bad values are refused as it loads, all at once.

`deploy/marketd.toml` explains every key; a test holds the two together. Nothing here ever writes a file.
"""

from __future__ import annotations

import ipaddress
import os
import tomllib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from backends.backend import NAMES as BACKENDS
from backends.backend import Backend
from backends.backend import load as load_backend
from marketd.config_check import check_table, suggest
from marketd.errors import ConfigError
from marketd.paths import NAME_PATTERN, config_folder
from marketd.periods import DEFAULT_PERIODS, check_periods, parse_activity
from marketd.ring.steps import SERIES_MAX
from marketd.security.doors import TLS_PREFIX, host_of, with_tls
from marketd.supervise.messages import LimitsSpec

Name = Annotated[str, msgspec.Meta(pattern=NAME_PATTERN)]

SYSTEM_FILE = Path("/etc/marketd/marketd.toml")


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class Log(_Table, frozen=True):
    """How the daemon speaks."""

    level: Literal["debug", "info", "warning", "error", "critical"] = "info"
    format: Literal["auto", "console", "json"] = "auto"


class Ring(_Table, frozen=True):
    """Sizes of each feed's shared memory."""

    rows: Annotated[int, msgspec.Meta(ge=1024, le=1 << 28)] = 1 << 20
    instruments: Annotated[int, msgspec.Meta(ge=1, le=1 << 20)] = 16384


class Bars(_Table, frozen=True):
    """What bars are made, of all instruments of all feeds. Without periods there are none, and no sampler.

    Attributes:
        periods: of the time bars; multiples of the shortest.
        lateness_ms: so much after its end a bar is out, if the venue speaks; a tick that comes later revises it.
        lateness_ms_by_feed: the same for single feeds.
        rows: how many bars of each instrument are held, by period, in place of what is usual.
        step_rows: how many of each feed's bars and index events are held for clients that lag.
        activity: bars that other things end, by name or glob of the instruments: 1000t, 50v, 1e6d.
    """

    periods: list[str] = msgspec.field(default_factory=lambda: list(DEFAULT_PERIODS))
    lateness_ms: Annotated[float, msgspec.Meta(ge=0, le=3_600_000)] = 500.0
    lateness_ms_by_feed: dict[Name, Annotated[float, msgspec.Meta(ge=0, le=3_600_000)]] = {}
    rows: dict[str, Annotated[int, msgspec.Meta(ge=8, le=1 << 24)]] = {}
    step_rows: Annotated[int, msgspec.Meta(ge=1024, le=1 << 26)] = 1 << 16
    activity: dict[str, list[str]] = {}


class History(_Table, frozen=True):
    """What is stored and kept whole. Without periods and ticks there is no history actor.

    Attributes:
        periods: of the bars that are stored, if they are made.
        depth_days: how far back the venue is asked for what is not stored.
        flush_s: so often bars that are out are written to disk; what a power cut takes of them is asked for again.
        verify_every_s: so often an hour's bars of each feed, from anywhere, are compared with the venue's own; 0 never.
        record_ticks: names and globs of the instruments whose trades and quotes are stored, too.
        file_ticks_s: so often they go from their log to parquet files, or when 64 MiB of them have come.
        replay_mib: so much of each feed's recorded ticks streams can resume from, when its ring has them no more.
        store: its folder; empty for ``store`` in the state folder.
    """

    periods: list[str] = msgspec.field(default_factory=lambda: ["1m"])
    depth_days: Annotated[float, msgspec.Meta(ge=0, le=36_525)] = 1.0
    flush_s: Annotated[float, msgspec.Meta(ge=0.1, le=3600)] = 60.0
    verify_every_s: Annotated[float, msgspec.Meta(ge=0)] = 3600.0
    record_ticks: list[str] = []
    file_ticks_s: Annotated[float, msgspec.Meta(ge=1, le=86_400)] = 600.0
    replay_mib: Annotated[int, msgspec.Meta(ge=0, le=1 << 24)] = 1024
    store: str = ""


class Gateway(_Table, frozen=True):
    """Where clients connect.

    Attributes:
        listen: addresses of the protocol.
        unix: makes a socket in the runtime folder as well.
        http: addresses of HTTP: /v1/bars, /v1/instruments, /ws, /healthz, /readyz, /metrics; none for no HTTP.
        processes: how many gateways share these addresses and the clients. The Unix socket is the first one's.
        hosts: names by which browsers may reach it, besides IP addresses and localhost.
        limits: of each client.
    """

    listen: list[str] = msgspec.field(default_factory=lambda: ["127.0.0.1:7600"])
    unix: bool = True
    http: list[str] = msgspec.field(default_factory=lambda: ["127.0.0.1:7601"])
    hosts: list[str] = []
    processes: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    limits: LimitsSpec = LimitsSpec()


class Security(_Table, frozen=True):
    """Who may do what, and how it is kept from others.

    Attributes:
        tokens: the file of tokens; empty for ``tokens.json`` in the state folder.
        require_token: also on loopback and the Unix socket.
        allow_plaintext: let addresses that other machines reach do without TLS.
        certificate: PEM file for TLS.
        key: PEM file of its private key.
    """

    tokens: str = ""
    require_token: bool = False
    allow_plaintext: bool = False
    certificate: str = ""
    key: str = ""


class Config(_Table, frozen=True):
    """The whole file. ``feeds`` maps a feed's name to its table: ``backend`` and that backend's own keys."""

    instance: Name = "default"
    log: Log = Log()
    ring: Ring = Ring()
    bars: Bars = Bars()
    history: History = History()
    gateway: Gateway = Gateway()
    security: Security = Security()
    feeds: dict[Name, dict[str, Any]] = {}


def load(path: Path | None = None, env: Mapping[str, str] = os.environ) -> tuple[Config, Path | None]:
    """Find the configuration file, read and check it.

    Args:
        path: the file that the operator named; without it the search is ``$MARKETD_CONFIG``, the user's
            configuration folder, ``/etc/marketd/marketd.toml``.

    Returns:
        The configuration and the file it came from. No file anywhere gives one simulated feed, and None.

    Raises:
        ConfigError: a file that was named is not there, or the file found is wrong: every mistake in it is listed.
    """
    found = _find(path, env)
    if found is None:
        return Config(feeds={"sim": {"backend": "sim"}}), None
    try:
        table = tomllib.loads(found.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{found}: can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{found}: is no text in UTF-8: byte {error.start} is {error.object[error.start]:#04x}"
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{found}: is no valid TOML: {error}") from error
    return decode(table, str(found)), found


def search_places(env: Mapping[str, str] = os.environ) -> list[Path]:
    """The files that are looked for when none is named, first the one that wins."""
    return [config_folder(env) / "marketd.toml", SYSTEM_FILE]


def decode(table: Mapping[str, Any], source: str) -> Config:
    """Make the struct of a file's contents.

    Raises:
        ConfigError: with one line for each thing that is wrong; ``source`` names the file in it.
    """
    problems = check_table(table, Config)
    if not problems:
        config = msgspec.convert(table, Config)
        problems = check(config)
        if not problems:
            return config
    else:
        feeds = table.get("feeds")
        problems += _check_feeds(feeds if isinstance(feeds, Mapping) else {})
    if len(problems) == 1:
        raise ConfigError(f"{source}: {problems[0]}")
    raise ConfigError(f"{source}: {len(problems)} mistakes\n" + "\n".join(f"  {problem}" for problem in problems))


def check(config: Config) -> list[str]:
    """Check what single values can't tell: how they go together, and the feeds' own tables."""
    problems = []
    if config.ring.rows & (config.ring.rows - 1):
        lower = 1 << (config.ring.rows.bit_length() - 1)
        problems.append(f"ring.rows is {config.ring.rows}: it must be a power of two, e.g. {lower} or {2 * lower}")
    problems += _check_bars(config.bars, config.feeds)
    problems += _check_history(config.history, config.bars)
    for name, value in msgspec.structs.asdict(config.gateway.limits).items():
        if value <= 0:
            problems.append(f"gateway.limits.{name} is {value}: it must be greater than 0")
    return problems + _check_listen(config.gateway, config.security) + _check_feeds(config.feeds)


def _check_bars(bars: Bars, feeds: Mapping[str, Any]) -> list[str]:
    problems = [f"bars.periods: {problem}" for problem in check_periods(bars.periods)]
    if bars.step_rows & (bars.step_rows - 1):
        problems.append(f"bars.step_rows is {bars.step_rows}: it must be a power of two")
    known = [*bars.periods, *(name for names in bars.activity.values() for name in names)]
    problems += [
        f"bars.rows: there are no bars {name!r}; there are: {', '.join(known)}"
        for name in bars.rows
        if name not in known
    ]
    problems += [
        f"bars.lateness_ms_by_feed: there is no feed {name!r}; {suggest(name, feeds)}"
        for name in bars.lateness_ms_by_feed
        if name not in feeds
    ]
    for pattern, names in bars.activity.items():
        for name in names:
            try:
                parse_activity(name)
            except ValueError as error:
                problems.append(f"bars.activity.{pattern!r}: {error}")
    if bars.activity and not bars.periods:
        problems.append("bars.activity needs bars.periods: bars of activity are made beside those of time")
    if len(set(known)) > SERIES_MAX:
        problems.append(f"bars has {len(set(known))} periods and sizes: at most {SERIES_MAX} are possible")
    return problems


def _check_history(history: History, bars: Bars) -> list[str]:
    if history.periods == History().periods:
        return []  # nobody's mistake: where bars of it are not made, none are stored
    return [
        f"history.periods: there are no bars of {text!r}; bars.periods has {', '.join(bars.periods)}"
        for text in history.periods
        if text not in bars.periods
    ] + [f"history.periods: {problem}" for problem in check_periods(history.periods) if "more than once" in problem]


def _find(path: Path | None, env: Mapping[str, str]) -> Path | None:
    from_env = env.get("MARKETD_CONFIG")
    named = path or (Path(from_env) if from_env else None)
    if named is None:
        return next((place for place in search_places(env) if _exists(place)), None)
    if not _exists(named):
        raise ConfigError(f"{named}: there is no such file; {'--config' if path else '$MARKETD_CONFIG'} names it")
    return named


def _exists(path: Path) -> bool:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True  # in a folder that is closed to us, say: reading the file will tell
    return True


def _check_listen(gateway: Gateway, security: Security) -> list[str]:
    if not gateway.listen and not gateway.unix:
        return ["gateway.listen is empty and gateway.unix is false: nobody could connect; give one of them"]
    keys = {"gateway.listen": gateway.listen, "gateway.http": gateway.http}
    problems = [
        f"{key}: {problem}"
        for key, addresses in keys.items()
        for address in addresses
        if (problem := _check_address(address, security))
    ]
    if bool(security.certificate) != bool(security.key):
        has, lacks = ("certificate", "key") if security.certificate else ("key", "certificate")
        problems.append(f"security.{has} is given and security.{lacks} is not: TLS needs both")
    # Port 0 takes a free one each time, so it may stand there twice.
    counts = Counter(address for addresses in keys.values() for address in addresses if not address.endswith(":0"))
    twice = [address for address, count in counts.items() if count > 1]
    return problems + [f"gateway: {address!r} is there more than once, in listen or http" for address in twice]


def _check_address(address: str, security: Security) -> str | None:
    if address.startswith("unix:"):
        return None if address[5:].startswith("/") else f"{address!r}: the path after unix: must begin with /"
    host, port = host_of(address), address.rpartition(":")[2]
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        return f"{address!r} is no address: host:port is, e.g. 127.0.0.1:7600, [::1]:7600, or unix:/path"
    try:
        ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        return f"{address!r}: {host!r} is no IP address; use 127.0.0.1, ::1 or localhost, or 0.0.0.0 or [::] for all"
    if security.certificate or not with_tls(address, plaintext=security.allow_plaintext).startswith(TLS_PREFIX):
        return None
    make = "`marketd cert` makes a certificate for security.certificate and security.key"
    if address.startswith(TLS_PREFIX):
        return f"{address!r} is to speak TLS, for which there is no certificate: {make}"
    return (
        f"{address!r} is reachable from other machines, which needs TLS: {make}; or, in a network where nobody "
        "listens, say security.allow_plaintext = true"
    )


def _check_feeds(feeds: Mapping[str, Any]) -> list[str]:
    problems = []
    for name, table in feeds.items():
        if isinstance(table, Mapping):
            problems += _check_feed(f"feeds.{name}", table)
    return problems


def _check_feed(where: str, table: Mapping[str, Any]) -> list[str]:
    backend = table.get("backend")
    if backend is None:
        return [f"{where}.backend: missing; it must be one of {', '.join(BACKENDS)}"]
    if backend not in BACKENDS:
        return [f"{where}.backend is {backend!r}: no such backend; {suggest(str(backend), BACKENDS)}"]
    settings = {key: value for key, value in table.items() if key != "backend"}
    declared = load_backend(backend)
    if not declared.live:
        return [f'{where}.backend is {backend!r}: it can only replay recordings so far; use backend = "replay"']
    return check_table(settings, declared.config, where) or _check_kinds(where, settings, declared)


def _check_kinds(where: str, settings: Mapping[str, Any], declared: Backend) -> list[str]:
    """Refuse what the venue does not have; `settings` are well-formed."""
    if declared.open_venues is None:
        return []
    strangers = [kind for kind in settings.get("kinds", ()) if kind not in declared.kinds]
    has = ", ".join(map(repr, declared.kinds))
    return [f"{where}.kinds has {kind!r}: the backend {declared.name!r} has {has}" for kind in strangers]
