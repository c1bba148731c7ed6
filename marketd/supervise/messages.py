"""What the supervisor and its actors say to each other. Control only: of market data, pages of the past at most."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from marketd.model import MktPair
from marketd.observe.histogram import HistogramReport
from marketd.observe.vitals import Vitals
from marketd.rpc.messages import ClientStatus, FeedState, Served, StatusResult, VenueClock, VenueStatus

ROUTE_S = 5.0  # what a request that goes through the supervisor may take longer than the work itself

# --- any actor: request `actor.debug` -> DebugReport ---


class DebugReport(msgspec.Struct, frozen=True):
    """What an actor says of itself when somebody looks for trouble: its last log lines, its tasks' stacks."""

    log: list[str]
    stacks: str


class DebugParts(msgspec.Struct, frozen=True):
    """Answer of the request ``debug`` of a gateway: files by name, and whose part is not there, and why."""

    files: dict[str, str]
    missing: dict[str, str]


# --- specs: what an actor is started with ---


class LogSpec(msgspec.Struct, frozen=True):
    """``format`` is ``console`` or ``json``."""

    level: str = "info"
    format: str = "console"


class ActorSpec(msgspec.Struct, frozen=True):
    """Everything a new actor process needs to know.

    ``run`` is ``module:function``, an ``async def run(actor: ActorHandle) -> None``; ``config`` is that function's own
    struct in MessagePack. Without ``log`` it speaks as its tree does. ``descriptors`` are open files of ours that the
    process inherits, under the same numbers.
    """

    name: str
    run: str
    config: msgspec.Raw
    log: LogSpec | None = None
    descriptors: tuple[int, ...] = ()


class FeedSpec(msgspec.Struct, frozen=True):
    """A feed's share of the configuration and the paths of its two segments and its doorbells.

    ``settings`` is the feed's TOML table without the keys ``backend``; the backend's own struct decodes it. In the
    folder ``state_path`` is what the feed must not forget, in ``cache_path`` what it could ask for again; both are the
    feed's own, and made when there is something to put there. Empty: it keeps nothing.
    """

    name: str
    backend: str
    settings: dict[str, Any]
    ring_path: str
    table_path: str
    bells_path: str
    recordings_path: str
    state_path: str = ""
    cache_path: str = ""
    begun: bool = False  # a successor of a feed that had begun does not wait for a client again


class SeriesInfo(msgspec.Struct, frozen=True):
    """One series of a feed's bars: its period's name, its kind in the step ring, its segment.

    ``period_ns`` is 0 where no period ends the bars.
    """

    name: str
    kind: int
    period_ns: int
    path: str


class FeedInfo(msgspec.Struct, frozen=True):
    """What a gateway and the sampler need to read a feed.

    ``recorded``: its clock is what its rows say, and not the machine's. Without ``series`` it has no bars, and no step
    ring either. ``epoch`` is its ring's: a feed of the same name and another epoch is another feed. The file
    ``epochs_path`` tells how the epochs before have ended.
    """

    name: str
    backend: str
    ring_path: str
    table_path: str
    bells_path: str
    state: FeedState
    detail: str = ""
    recorded: bool = False
    series: list[SeriesInfo] = []
    steps_path: str = ""
    steps_bells_path: str = ""
    epoch: int = 0
    epochs_path: str = ""


class SamplerSpec(msgspec.Struct, frozen=True):
    """The sampler's share of the configuration; see ``[bars]`` there."""

    feeds: list[FeedInfo]
    lateness_ms: float
    lateness_ms_by_feed: dict[str, float] = {}
    activity: dict[str, list[str]] = {}

    def lateness_ms_of(self, feed: str) -> float:
        """How late a feed's ticks may be."""
        return self.lateness_ms_by_feed.get(feed, self.lateness_ms)


class HistorySpec(msgspec.Struct, frozen=True):
    """The history manager's share of the configuration; see ``[history]`` there."""

    feeds: list[FeedInfo]
    periods: list[str]
    store_path: str
    socket_path: str
    depth_days: float
    flush_s: float
    verify_every_s: float
    record_ticks: list[str] = []
    file_ticks_s: float = 600.0
    replay_bytes: int = 0


class LimitsSpec(msgspec.Struct, frozen=True):
    """Limits for each client, as in the configuration's ``[gateway.limits]``."""

    clients_max: int = 2000
    subscriptions_max: int = 64
    instruments_max: int = 100_000
    requests_max: int = 64
    frame_bytes_max: int = 1 << 20
    hello_timeout_s: float = 10.0
    frame_timeout_s: float = 10.0
    stall_timeout_s: float = 10.0


HTTP_PREFIX = "http://"
HTTPS_PREFIX = "https://"


class SecuritySpec(msgspec.Struct, frozen=True):
    """Where the gateway finds who may do what; see ``[security]`` in the configuration.

    ``certificate``, ``key``: of the addresses that begin with ``tls://``. ``audit_path``: empty for no file.
    """

    tokens_path: str = ""
    audit_path: str = ""
    require_token: bool = False
    certificate: str = ""
    key: str = ""


class GatewaySpec(msgspec.Struct, frozen=True):
    """``listen``, ``http``: ``host:port``, ``tls://host:port`` and ``unix:/path`` addresses. Port 0 takes a free one.

    ``hosts``: names by which browsers may reach it. ``history_socket``: empty where nothing is stored. ``shared``:
    other gateways listen at the same addresses. ``first_client``: the number of its first client; theirs are others.
    ``passed``: inherited sockets, by those of the addresses at which they listen.
    """

    instance: str
    listen: list[str]
    limits: LimitsSpec = LimitsSpec()
    history_socket: str = ""
    http: list[str] = []
    hosts: list[str] = []
    shared: bool = False
    first_client: int = 1
    passed: dict[str, int] = {}
    security: SecuritySpec = SecuritySpec()


# --- supervisor -> gateway ---


class GatewaySettings(msgspec.Struct, frozen=True):
    """Notification ``settings`` to a gateway: what holds from now on, see :class:`GatewaySpec`."""

    limits: LimitsSpec
    history_socket: str


class GatewayKick(msgspec.Struct, frozen=True):
    """Request ``kick`` to a gateway: send this client away; answered with its ``ClientStatus``."""

    client: int
    reason: str


# --- supervisor -> feed ---


class FeedDeclare(msgspec.Struct, frozen=True):
    """Request ``declare`` to a live feed: the names and globs that its configuration says from now on."""

    instruments: list[str]


class FeedSearch(msgspec.Struct, frozen=True):
    """Request ``search`` to a feed; answered with a list of ``SearchHit``."""

    text: str
    limit: int


class FeedRecord(msgspec.Struct, frozen=True):
    """Request ``record`` to a feed; answered with ``RecordResult`` when the duration is over."""

    name: str
    duration_s: float


class FeedBegin(msgspec.Struct, frozen=True):
    """Notification ``begin`` to a feed: somebody has subscribed; a replay that waits for a client starts."""


class FeedDemand(msgspec.Struct, frozen=True):
    """Notification ``demand`` to a live feed: all names and globs that ``owner`` wants of it from now on."""

    owner: str
    names: list[str]


class FeedFind(msgspec.Struct, frozen=True):
    """Request ``find`` to a live feed: the instruments of these names; answered with a list of ``MktPair``.

    With ``carry`` each gets its row id at once, so that readers of the table know it before its first row.
    """

    names: list[str]
    carry: bool = False


class FeedPage(msgspec.Struct, frozen=True):
    """Request ``page`` to a live feed: of ``[start_ns, end_ns)`` the bars that one page of the venue's has of its end.

    Or, with ``period_s`` 0, trades, of its beginning. Answered with :class:`PageResult`.
    """

    fqme: str
    period_s: int
    start_ns: int
    end_ns: int
    timeout_s: float


class FeedOutage(msgspec.Struct, frozen=True):
    """Notification ``outage`` to a feed: a simulated venue goes away for so long."""

    duration_s: float


# --- feed -> supervisor ---


class FeedReport(msgspec.Struct, frozen=True):
    """A feed's statistics, sent with every pulse, and with the notification ``finished`` when its source has ended.

    ``reached``: its venue has been reached, in this life: what is wanted of it could be had. ``quiet``: see
    :meth:`backends.backend.Source.quiet`. ``event_lag``: from the venue's time of an event to ours; ``publish_lag``:
    from then until readers could see it.
    """

    state: FeedState
    instruments: int
    rows_by_kind: dict[str, int]
    messages: dict[str, int]  # used, unused.<type>, bad, unknown
    gaps: int
    last_event_ns: int
    last_received_ns: int
    detail: str = ""
    reached: bool = True
    quiet: bool = False
    gaps_by_reason: dict[str, int] = {}
    rows_per_s: float = 0.0
    lag_ms: float | None = None
    qualities: dict[str, int] = {}
    venue: VenueStatus | None = None
    clock: VenueClock | None = None
    event_lag: HistogramReport = HistogramReport()
    publish_lag: HistogramReport = HistogramReport()


class PageResult(msgspec.Struct, frozen=True):
    """What a venue's page has, or why there is none.

    ``outcome``: ``page``; ``empty``, the venue has nothing there; ``none``, it has no such history; ``refused``, not
    this one, for now; ``failed``, it could not be asked, and ``retry_s`` says when to try again, if anybody knows.

    ``bars`` are open_ns, open, high, low, close, volume and trade count (-1: not known); ``trades`` event_ns, trade id,
    price, size and side, and ``next_ns`` is where the next page of trades begins, 0 after the last.
    """

    outcome: Literal["page", "empty", "none", "refused", "failed"]
    bars: list[tuple[int, float, float, float, float, float, int]] = []
    trades: list[tuple[int, int, float, float, int]] = []
    next_ns: int = 0
    rows_max: int = 0
    detail: str = ""
    retry_s: float = 0.0


# --- history manager -> supervisor: `HistoryStatus` with every pulse ---


class FilledBars(msgspec.Struct, frozen=True):
    """Notification ``fill``, by way of the supervisor to the sampler: bars as the venue has told them afterwards.

    ``kind``: of the series in the step ring; ``bars`` as in :class:`PageResult`.
    """

    feed: str
    instrument: int
    kind: int
    bars: list[tuple[int, float, float, float, float, float, int]]


class FilledRange(msgspec.Struct, frozen=True):
    """Notification ``filled``, by way of the supervisor to the gateway: what a venue has told of a range is stored."""

    feed: str
    fqme: str
    period: str
    from_ns: int
    to_ns: int
    bars: int


# --- sampler -> supervisor ---


class SampledFeed(msgspec.Struct):
    """Counts of one feed: rows read, steps begun, bars told, revised ones, rows lost, trades of no known time; bars of
    which something was missing and that their venue has told since.
    """

    rows: int = 0
    steps: int = 0
    bars: int = 0
    revised: int = 0
    lapped: int = 0
    misdated: int = 0
    filled: int = 0


class SamplerReport(msgspec.Struct, frozen=True):
    """The sampler's statistics, sent with every pulse. ``cursors``: by feed, the newest row that its bars know."""

    feeds: dict[str, SampledFeed]
    cursors: dict[str, int] = {}


# --- gateway -> supervisor ---


class GatewayReady(msgspec.Struct, frozen=True):
    """The addresses that are really listened on; those of HTTP begin with ``http://``, or ``https://``."""

    addresses: list[str]


class GatewayReport(msgspec.Struct, frozen=True):
    """A gateway's statistics, sent with every pulse.

    ``feeds``: those that it reads, with the epochs of their rings; ``cursors``: the newest row of each that its clients
    may read. ``delivery_lag``: from when a row was received until a client's socket had it.
    """

    clients: list[ClientStatus]
    served: Served = Served()
    feeds: dict[str, int] = {}
    cursors: dict[str, int] = {}
    delivery_lag: HistogramReport = HistogramReport()


class Measures(msgspec.Struct, frozen=True):
    """Answer of the request ``measures``: the status, and what of the pulses only metrics show, by actor and by feed.

    ``reader_lag_rows``: by reader and feed, how far its ring is ahead.
    """

    status: StatusResult
    vitals: dict[str, Vitals]
    event_lag: dict[str, HistogramReport]
    publish_lag: dict[str, HistogramReport]
    delivery_lag: HistogramReport
    reader_lag_rows: dict[str, dict[str, int]]


class RoutePage(msgspec.Struct, frozen=True):
    """Request ``page`` of the history manager: ask one feed; answered with :class:`PageResult`, which goes through
    unread.
    """

    feed: str
    page: FeedPage


class RouteSearch(msgspec.Struct, frozen=True):
    """Request ``search``: ask one feed; answered with a list of ``SearchHit``."""

    feed: str
    text: str
    limit: int


class RouteRecord(msgspec.Struct, frozen=True):
    """Request ``record``: ask one feed; answered with ``RecordResult``."""

    feed: str
    name: str
    duration_s: float


class RouteExplain(msgspec.Struct, frozen=True):
    """Request ``explain``: ask one live feed what it knows of an instrument; answered with ``VenueFacts``."""

    feed: str
    fqme: str


class RouteFind(msgspec.Struct, frozen=True):
    """Request ``find``: ask every live feed, see :class:`FeedFind`; answered with a list of :class:`Found`."""

    names: list[str]
    carry: bool = False


class Found(msgspec.Struct, frozen=True):
    """An instrument that a feed can carry."""

    feed: str
    market: MktPair


class Demand(msgspec.Struct, frozen=True):
    """Notification ``demand``: how many subscriptions each feed has at this gateway, and to which full names."""

    subscriptions: dict[str, int]
    names: dict[str, list[str]] = {}


# Requests of a gateway without parameters: `feeds` -> list[FeedInfo], `status` -> StatusResult, `measures` -> Measures,
# `debug` -> DebugParts,
# `backends` -> list[BackendInfo]. The supervisor notifies gateways and the sampler of `feeds_changed` with a
# list[FeedInfo].
