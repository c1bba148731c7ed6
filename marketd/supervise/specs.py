"""Pure: what each actor is started with, from the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import msgspec

from backends import backend as backends
from marketd.config import Config
from marketd.paths import Paths
from marketd.security.doors import TLS_PREFIX, with_tls
from marketd.supervise.messages import (
    HTTP_PREFIX,
    HTTPS_PREFIX,
    ActorSpec,
    FeedInfo,
    FeedSpec,
    GatewaySettings,
    GatewaySpec,
    HistorySpec,
    LogSpec,
    SamplerSpec,
    SecuritySpec,
)

CLIENTS_OF_A_GATEWAY = 1_000_000  # numbers of clients


def log_spec(config: Config) -> LogSpec:
    """How an actor speaks, unless somebody wants it otherwise."""
    return LogSpec(level=config.log.level, format=config.log.format)


def feed_spec(config: Config, paths: Paths, name: str, *, begun: bool) -> ActorSpec:
    """Make a feed's spec; ``begun`` as in :class:`FeedSpec`."""
    settings = config.feeds[name]
    spec = FeedSpec(
        name=name,
        backend=settings["backend"],
        settings={key: value for key, value in settings.items() if key != "backend"},
        ring_path=str(paths.segment(name, "ring")),
        table_path=str(paths.segment(name, "table")),
        bells_path=str(paths.segment(name, "bells")),
        recordings_path=str(paths.recordings),
        state_path=str(paths.state / "feeds" / name),
        cache_path=str(paths.cache / "feeds" / name),
        begun=begun,
    )
    return _actor(f"feed.{name}", "marketd.feed.actor:run_feed", spec)


def sampler_spec(config: Config, feeds: list[FeedInfo]) -> ActorSpec:
    """Make the sampler's spec."""
    bars = config.bars
    spec = SamplerSpec(
        feeds=feeds,
        lateness_ms=bars.lateness_ms,
        lateness_ms_by_feed=bars.lateness_ms_by_feed,
        activity=bars.activity,
    )
    return _actor("sampler", "marketd.sample.actor:run_sampler", spec)


def history_spec(config: Config, paths: Paths, feeds: list[FeedInfo]) -> ActorSpec:
    """Make the history manager's spec."""
    history = config.history
    spec = HistorySpec(
        feeds=feeds,
        periods=history.periods,
        store_path=history.store or str(paths.store),
        socket_path=str(paths.history_socket),
        depth_days=history.depth_days,
        flush_s=history.flush_s,
        verify_every_s=history.verify_every_s,
        record_ticks=history.record_ticks,
        file_ticks_s=history.file_ticks_s,
        replay_bytes=history.replay_mib << 20,
    )
    return _actor("history", "marketd.history.actor:run_history", spec)


def stores_history(config: Config) -> bool:
    """Whether there is anything for a history manager to store."""
    live = any(not backends.load(settings["backend"]).recorded for settings in config.feeds.values())
    bars = set(config.history.periods) & set(config.bars.periods)
    return live and bool(bars or config.history.record_ticks)


def gateway_name(number: int) -> str:
    """``gateway``, ``gateway.2``, and so on."""
    return f"gateway.{number + 1}" if number else "gateway"


def gateway_of(client: int) -> int:
    """Which gateway has a client of this number."""
    return (client - 1) // CLIENTS_OF_A_GATEWAY


def gateway_settings(config: Config, paths: Paths) -> GatewaySettings:
    """What a gateway can be told while it runs."""
    return GatewaySettings(config.gateway.limits, str(paths.history_socket) if stores_history(config) else "")


def addresses_for_gateway(announced: list[str]) -> tuple[list[str], list[str]]:
    """Split what a gateway listens at into what its successor is to listen at: for the protocol, and for HTTP."""
    schemes = {HTTP_PREFIX: "", HTTPS_PREFIX: TLS_PREFIX}
    http = [
        prefix + address.removeprefix(scheme)
        for address in announced
        for scheme, prefix in schemes.items()
        if address.startswith(scheme)
    ]
    return [address for address in announced if not address.startswith(tuple(schemes))], http


def gateway_spec(
    config: Config, paths: Paths, number: int, had: list[str], passed: Mapping[str, int] = MappingProxyType({})
) -> ActorSpec:
    """Make the spec of one gateway.

    Args:
        number: the first one, 0, takes the addresses of the configuration and the Unix socket.
        had: the addresses that it really had; every other one, and each successor, takes these.
        passed: sockets that are open already, by their addresses; all gateways share them.
    """
    gateway, security = config.gateway, config.security
    listen, http = addresses_for_gateway(had)
    if not had:
        listen = [with_tls(address, plaintext=security.allow_plaintext) for address in gateway.listen]
        http = [with_tls(address, plaintext=security.allow_plaintext) for address in gateway.http]
    unix = f"unix:{paths.socket}"
    if number:
        listen = [address for address in listen if address in passed or not address.startswith("unix:")]
    elif gateway.unix and unix not in listen:
        listen.append(unix)
    settings = gateway_settings(config, paths)
    spec = GatewaySpec(
        instance=config.instance,
        listen=listen,
        limits=settings.limits,
        history_socket=settings.history_socket,
        http=http,
        hosts=gateway.hosts,
        shared=gateway.processes > 1,
        first_client=1 + number * CLIENTS_OF_A_GATEWAY,
        passed=dict(passed),
        security=SecuritySpec(
            tokens_path=security.tokens or str(paths.tokens),
            audit_path=str(paths.audit),
            require_token=security.require_token,
            certificate=security.certificate,
            key=security.key,
        ),
    )
    actor = _actor(gateway_name(number), "marketd.gateway.actor:run_gateway", spec)
    return msgspec.structs.replace(actor, descriptors=tuple(passed.values()))


def _actor(name: str, run: str, config: msgspec.Struct) -> ActorSpec:
    return ActorSpec(name=name, run=run, config=msgspec.Raw(msgspec.msgpack.encode(config)))
