"""The server: one port for all venues, each below its own path."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from marketd.clock import Clock, SystemClock
from marketd.errors import ConfigError
from marketd.testvenue import listing, recording, script
from marketd.testvenue.binance.venue import Binance
from marketd.testvenue.candles import DAY_NS
from marketd.testvenue.engine import Engine
from marketd.testvenue.faults import Fault
from marketd.testvenue.http import HttpConnection
from marketd.testvenue.kraken.venue import Kraken
from marketd.testvenue.kucoin.venue import Kucoin
from marketd.testvenue.market import Instrument, Market
from marketd.testvenue.venue import Venue

if TYPE_CHECKING:
    from trio_typing import TaskStatus  # trio's own is missing from the stubs

VENUES = ("binance", "binance-futures", "kraken", "kucoin")


@dataclass(frozen=True)
class Settings:
    """What to serve.

    Attributes:
        port: 0 takes a free one.
        instruments: how many each venue lists.
        rate: messages a second over all instruments of a venue; None gives each instrument its own pace.
        history_days: how long ago trading began, counted from the last midnight UTC.
        recordings: files to play; a venue that is in them has no simulated market.
        speed: of recordings.
        certificate, key: files, for TLS.
    """

    host: str = "127.0.0.1"
    port: int = 0
    instruments: int = 20
    rate: float | None = None
    seed: int = 1
    history_days: int = 7
    recordings: tuple[Path, ...] = ()
    speed: float = 1.0
    script: Path | None = None
    certificate: Path | None = None
    key: Path | None = None


class VenueServer:
    """A running server, for whoever started it."""

    def __init__(self, engine: Engine, host: str, port: int, *, secure: bool) -> None:
        self.engine = engine
        self.host = host
        self.port = port
        self._letter = "s" if secure else ""

    def ws_url(self, venue: str) -> str:
        """Where a venue's websockets are."""
        return f"ws{self._letter}://{self.host}:{self.port}/{venue}"

    def rest_url(self, venue: str) -> str:
        """Where a venue's REST is."""
        return f"http{self._letter}://{self.host}:{self.port}/{venue}"

    @property
    def control_url(self) -> str:
        """Where faults are asked for."""
        return f"http{self._letter}://{self.host}:{self.port}/control"

    def inject(self, **table: object) -> Fault:
        """Let a fault happen, as `POST /control/faults` does.

        Raises:
            ConfigError: it is none.
        """
        return self.engine.inject_table(table)

    def state(self, venue: str) -> dict[str, Any]:
        """One venue's part of `GET /control/state`."""
        part: dict[str, Any] = self.engine.state()["venues"][venue]
        return part


async def serve(
    settings: Settings,
    clock: Clock | None = None,
    task_status: TaskStatus[VenueServer] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled; tells the running :class:`VenueServer` when it listens.

    Raises:
        ConfigError, RecordingError: a file can't be used, or the port is taken.
    """
    clock = clock or SystemClock()
    engine = build(settings, clock)
    faults = script.read(settings.script, VENUES) if settings.script else []
    context = _tls(settings)
    try:
        listeners = await trio.open_tcp_listeners(settings.port, host=settings.host)
    except OSError as error:
        raise ConfigError(f"{settings.host}:{settings.port} can't be listened at: {error.strerror}") from error
    port: int = listeners[0].socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run)
        for fault in faults:
            engine.striker.inject(fault)
        handler = partial(_serve_connection, engine, context)
        nursery.start_soon(partial(trio.serve_listeners, handler, listeners))
        task_status.started(VenueServer(engine, settings.host, port, secure=context is not None))


def build(settings: Settings, clock: Clock) -> Engine:
    """Make the venues.

    Raises:
        RecordingError: a recording can't be read.
    """
    recordings = recording.read(list(settings.recordings))
    now_ns = clock.now_ns()
    origin_ns = now_ns - now_ns % DAY_NS - settings.history_days * DAY_NS

    def market(name: str, ticks: listing.Ticks) -> Market:
        listed: list[Instrument] = []
        if name not in recordings:
            listed = listing.instruments(ticks, settings.instruments, settings.rate)
        return Market(listed, settings.seed, origin_ns)

    venues: list[Venue] = [
        Binance(market("binance", listing.BINANCE), futures=False),
        Binance(market("binance-futures", listing.BINANCE_FUTURES), futures=True),
        Kraken(market("kraken", listing.KRAKEN)),
        Kucoin(market("kucoin", listing.KUCOIN)),
    ]
    for venue in venues:
        venue.known_all = venue.name in recordings
    return Engine(venues, clock, recordings, settings.speed)


def snippet(server: VenueServer) -> str:
    """A configuration whose feeds take their data from this server."""
    feeds = [
        f'[feeds.{name}]\nbackend = "{name}"\nws_url = "{server.ws_url(name)}"\nrest_url = "{server.rest_url(name)}"\n'
        for name in ("binance", "kraken", "kucoin")
    ]
    return "\n".join(feeds)


async def _serve_connection(engine: Engine, context: ssl.SSLContext | None, stream: trio.SocketStream) -> None:
    if context is None:
        await HttpConnection(engine, stream, secure=False).serve()
    else:
        secured = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
        await HttpConnection(engine, secured, secure=True).serve()


def _tls(settings: Settings) -> ssl.SSLContext | None:
    if settings.certificate is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(settings.certificate, settings.key)
    except OSError as error:
        raise ConfigError(f"{settings.certificate}: {error}") from error
    return context
