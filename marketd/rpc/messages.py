"""The protocol: every method with its parameters and its answer, and every message of a stream.

JSON-RPC 2.0 semantics. A request is ``{id, method, params, deadline_ms}``, an answer ``{id, result}`` or
``{id, error: {code, message, data}}``, a message of a stream ``{method, params}`` without an id. ``METHODS`` and
``NOTIFICATIONS`` below *are* the protocol: decoding is the validation, and `docs/protocol.md` says it in prose.
"""

from __future__ import annotations

import enum
from typing import Annotated, Any, Literal

import msgspec

from marketd.model import MktPair

PROTOCOL_VERSION = 1

Contract = Literal["lossless", "frames", "trade_safe", "latest"]
Format = Literal["rows", "columns"]
KindName = Annotated[str, msgspec.Meta(pattern=r"^(trade|quote|level|gap|status|(bar|index)\.[0-9][0-9a-z.]{0,31})$")]
Order = Literal["newest", "oldest"]
LogLevel = Literal["debug", "info", "warning", "error", "critical"]
FeedState = Literal["starting", "live", "down", "failing", "finished", "stopped"]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]


class ErrorCode(enum.IntEnum):
    """JSON-RPC's numbers; clients should look at the stable text in ``error.data.code``, the name in lower case."""

    PARSE_ERROR = -32700
    INVALID_REQUEST = -32600
    UNKNOWN_METHOD = -32601
    INVALID_PARAMS = -32602
    INTERNAL = -32603
    HELLO_REQUIRED = -32000
    UNSUPPORTED_VERSION = -32001
    UNKNOWN_INSTRUMENT = -32002
    UNKNOWN_SUBSCRIPTION = -32003
    UNKNOWN_FEED = -32004
    LIMIT_EXCEEDED = -32005
    DEADLINE_EXCEEDED = -32006
    UNAVAILABLE = -32007
    FRAME_TOO_LARGE = -32008
    UNAUTHORIZED = -32009
    FORBIDDEN = -32010
    UNKNOWN_SERVICE = -32020
    UNKNOWN_CLIENT = -32021
    INVALID_CONFIG = -32022


class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Parameters of a request: a misspelt key is an error and not a surprise."""


class Result(msgspec.Struct, frozen=True):
    """An answer or a stream's message: unknown keys are ignored, so that servers can add some."""


# --- envelopes ---


class Request(msgspec.Struct, frozen=True, omit_defaults=True):
    """A request as it is read off the wire; ``params`` is decoded once the method is known."""

    id: int | str
    method: str
    params: msgspec.Raw = msgspec.Raw(b"\x80")
    deadline_ms: Annotated[int, msgspec.Meta(gt=0)] | None = None
    jsonrpc: str = "2.0"


class ErrorBody(msgspec.Struct, frozen=True):
    """``data`` always holds ``code``, the stable text; more where it helps (``key``, ``limit``, ``unknown`` …)."""

    code: int
    message: str
    data: dict[str, Any]


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """An answer or a notification as a client reads it: ``method`` is empty in answers."""

    id: int | str | None = None
    result: msgspec.Raw = msgspec.Raw(b"")
    error: ErrorBody | None = None
    method: str = ""
    params: msgspec.Raw = msgspec.Raw(b"")


# --- hello, ping, heartbeat ---


class HelloParams(Params, frozen=True):
    """``heartbeat_s``: the longest silence wanted in either direction; 0 for none."""

    version: int = PROTOCOL_VERSION
    client: str = ""
    token: str | None = None
    heartbeat_s: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 0.0


class Limits(Result, frozen=True):
    """What one client may ask for."""

    frame_bytes_max: int
    subscriptions_max: int
    instruments_max: int
    requests_max: int


class HelloResult(Result, frozen=True):
    """``row_bytes`` and ``row_hash`` tell a client of the ``rows`` format whether it knows this row layout;
    ``step_bytes`` and ``step_hash`` the same of rows of bars and index events.
    """

    version: int
    server: str
    instance: str
    heartbeat_s: float
    limits: Limits
    row_bytes: int
    row_hash: str
    step_bytes: int = 0
    step_hash: str = ""


class PingParams(Params, frozen=True):
    """``payload`` comes back as it was."""

    payload: str = ""


class PingResult(Result, frozen=True):
    """``server_ns``: the server's clock."""

    payload: str
    server_ns: int


# --- status, backends, search, instrument ---


class EmptyParams(Params, frozen=True):
    """No parameters."""


class ActorStatus(Result, frozen=True):
    """One actor process. ``cpu_s`` is user and system time together.

    ``loop_lag_ms``: how late its event loop's timers were, but for one in a hundred; None: not known. ``trouble``: what
    it can't do at the moment, and why; empty if all is well.
    """

    name: str
    state: str
    pid: int | None
    restarts: int
    uptime_s: float
    rss_bytes: int = 0
    cpu_s: float = 0.0
    detail: str = ""
    tasks: int = 0
    threads: int = 0
    fds: int = 0
    loop_lag_ms: float | None = None
    trouble: str = ""


class VenueStatus(Result, frozen=True):
    """How a live feed stands with its venue.

    ``wanted`` and ``live`` instruments; subscriptions ``pending``; open ``connections``; ``connects`` tried, ``losses``
    of connections and attempts, planned ``handovers``; ``duplicates`` dropped. By bucket of the rate budget: weight
    ``used`` of ``capacity``; how often it was throttled or banned (``rests``); until when it is now.
    """

    wanted: int = 0
    live: int = 0
    pending: int = 0
    connections: int = 0
    connects: int = 0
    losses: int = 0
    handovers: int = 0
    duplicates: int = 0
    used: dict[str, int] = {}
    capacity: dict[str, int] = {}
    rests: dict[str, int] = {}
    resting_until_ns: dict[str, int] = {}


class VenueClock(Result, frozen=True):
    """A venue's clock beside ours.

    ``offset_ms``: how much ours is ahead of the venue's, and how far that may be wrong; None: not known. ``source`` of
    it: the venue's ``server_time``, or ``events`` that came before they happened: then ours is behind by at least that.
    ``lag_min_ms``: the least that any event took lately from the venue's clock to ours; ``jitter_ms``: by how much that
    changes from one event to the next, on average.
    """

    offset_ms: float | None = None
    uncertainty_ms: float | None = None
    source: Literal["", "server_time", "events"] = ""
    lag_min_ms: float | None = None
    jitter_ms: float | None = None


class FeedStatus(Result, frozen=True):
    """One feed and its ring. ``bars``: what the sampler has counted since it started; empty where there is none.

    ``lag_ms``: what events took lately from the venue's clock to ours, on average; None: none came, or they carry no
    time, or not that of a clock. ``qualities``: how many instruments have which quality.
    """

    name: str
    backend: str
    state: FeedState
    instruments: int
    epoch: int
    cursor: int
    ring_rows: int
    gaps: int
    rows_by_kind: dict[str, int]
    messages: dict[str, int]
    last_event_ns: int
    last_received_ns: int
    detail: str = ""
    bars: dict[str, int] = {}
    gaps_by_reason: dict[str, int] = {}
    rows_per_s: float = 0.0
    lag_ms: float | None = None
    qualities: dict[str, int] = {}
    venue: VenueStatus | None = None
    clock: VenueClock | None = None


class ClientStatus(Result, frozen=True):
    """One connected client. ``lag_rows``: how many rows of a feed it is behind, at most, and ``lag_s``: how old the
    first of these is. ``slow``: it was told that it is about to lose some. ``token``: the name of the one that it came
    with; empty for none.
    """

    id: int
    name: str
    address: str
    subscriptions: int
    rows_sent: int
    bytes_sent: int
    lost: int
    connected_s: float
    kinds: list[str] = []
    instruments: int = 0
    lag_rows: int = 0
    lag_s: float = 0.0
    slow: bool = False
    token: str = ""


class BackfillStatus(Result, frozen=True):
    """What of a feed's history is still to be asked of its venue: so many ``bars``, of ``series`` that lack some.

    ``from_ns``: where the oldest of these begins; 0 when nothing is missing.
    """

    series: int = 0
    bars: int = 0
    from_ns: int = 0


class StoreStatus(Result, frozen=True):
    """The store: its files, their ``bytes``, what is free beside them. ``measured_ns``: 0, nobody has looked yet."""

    files: int = 0
    bytes: int = 0
    free_bytes: int = 0
    measured_ns: int = 0


class HistoryStatus(Result, frozen=True):
    """What the history manager has done since it started, and what is left to do, by feed.

    ``bars`` written to disk; ``pages`` asked of venues, of which ``pages_failed``; stored bars ``verified`` with their
    venue's, of which ``differing``; ``trouble``: by feed, why its pages don't come now, or its ticks are not stored.
    """

    series: int
    bars: int
    pages: int
    pages_failed: int
    verified: int = 0
    differing: int = 0
    trouble: dict[str, str] = {}
    backfill: dict[str, BackfillStatus] = {}
    store: StoreStatus = StoreStatus()


class Served(Result, frozen=True):
    """What the gateways have done for their clients since they started, those that have left included.

    ``rows_lost`` were overwritten before they could be sent, and were told as gaps.
    """

    connections: int = 0
    rows_sent: int = 0
    bytes_sent: int = 0
    rows_lost: int = 0


class HostClock(Result, frozen=True):
    """This machine's clock. ``skewed``: most venues contradict it, by ``offset_ms`` (positive: it is ahead), and
    ``detail`` says so in a sentence. ``jumps``: how often it was set while the daemon ran.
    """

    skewed: bool = False
    offset_ms: float | None = None
    detail: str = ""
    jumps: int = 0


class StatusResult(Result, frozen=True):
    """The whole daemon. ``ready``: every feed is live (or finished) and read, and no actor is down.

    ``problems``: in sentences, what keeps it from being ready. What was stopped on purpose does not.
    """

    version: str
    instance: str
    pid: int
    uptime_s: float
    ready: bool
    now_ns: int
    actors: list[ActorStatus]
    feeds: list[FeedStatus]
    clients: list[ClientStatus]
    history: HistoryStatus | None = None
    served: Served = Served()
    problems: list[str] = []
    clock: HostClock = HostClock()


class BackendInfo(Result, frozen=True):
    """A backend that this daemon can run; ``feeds`` names the feeds that do."""

    name: str
    description: str
    feeds: list[str]


class BackendsResult(Result, frozen=True):
    """All backends."""

    backends: list[BackendInfo]


class SearchParams(Params, frozen=True):
    """``text``: words that must all occur in the name (``btc usdt``), or a glob."""

    text: Annotated[str, msgspec.Meta(max_length=256)]
    limit: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 100


class SearchHit(Result, frozen=True):
    """``score``: from 1 (exact) down to 0."""

    fqme: str
    type: str
    feed: str
    score: float


class SearchResult(Result, frozen=True):
    """Ends a search; the hits came before it as ``search.hits`` messages. ``failed``: feeds that gave no answer."""

    count: int
    failed: list[str]


class InstrumentParams(Params, frozen=True):
    """``fqme`` in any case."""

    fqme: Name


class InstrumentResult(Result, frozen=True):
    """``id`` is the number in this feed's rows, for this epoch."""

    fqme: str
    feed: str
    id: int
    epoch: int
    quality: str
    market: MktPair


class WhyParams(Params, frozen=True):
    """``fqme`` in any case; it may be one that nobody has."""

    fqme: Name


class Reason(Result, frozen=True):
    """One thing that bears on an instrument: a stable ``code``, whether it is ``fine``, worth a ``note`` or a
    ``problem`` that keeps it from being live, a sentence, and what to do about it.
    """

    code: str
    level: Literal["fine", "note", "problem"]
    text: str
    todo: str = ""


class WhyResult(Result, frozen=True):
    """Why an instrument is live, or is not. ``fqme`` and ``feed`` are empty where nobody has it."""

    fqme: str
    feed: str
    live: bool
    summary: str
    reasons: list[Reason]


class DebugResult(Result, frozen=True):
    """An ``archive`` (tar, gzip) for who looks for trouble, what it may be called, and which ``files`` are in it.

    ``missing``: what could not be had, by process or file, and why.
    """

    name: str
    files: list[str]
    missing: dict[str, str]
    archive: bytes


# --- streams ---


class Position(Result, frozen=True):
    """Where a client stands in a feed: it has had every row of this epoch up to and with ``cursor``."""

    epoch: int
    cursor: int


class SubscribeParams(Params, frozen=True):
    """``instruments``: names and globs. ``rate_hz``: for all contracts but ``lossless``. ``resume``: positions by feed
    name.

    ``forming_hz``: how often at most bars are told that are still forming; 0: not before they are out. ``snapshot``:
    begin with the newest quote and trade of each instrument. ``from_ns``: begin with the rows that came then or later,
    of feeds that ``resume`` does not name.
    """

    instruments: Annotated[list[Name], msgspec.Meta(min_length=1, max_length=100_000)]
    kinds: Annotated[tuple[KindName, ...], msgspec.Meta(min_length=1, max_length=16)] = ("trade", "quote")
    contract: Contract = "lossless"
    format: Format = "rows"
    rate_hz: Annotated[float, msgspec.Meta(gt=0, le=1000)] = 10.0
    resume: dict[str, Position] = {}
    forming_hz: Annotated[float, msgspec.Meta(ge=0, le=100)] = 0.0
    snapshot: bool = False
    from_ns: int | None = None


class SubscribedFeed(Result, frozen=True, omit_defaults=True):
    """A feed that a subscription reads. Rows after ``cursor`` follow; ``instruments`` maps row ids to names.

    ``kinds`` maps the kinds of its rows that depend on the configuration, those of bars and index events, to names.
    """

    name: str
    epoch: int
    cursor: int
    instruments: dict[int, str]
    kinds: dict[int, str] = {}


class SubscribeResult(Result, frozen=True):
    """What the server will really do. ``unmatched``: globs that select nothing yet."""

    subscription: int
    contract: Contract
    format: Format
    kinds: list[str]
    rate_hz: float
    feeds: list[SubscribedFeed]
    unmatched: list[str]


class UpdateParams(Params, frozen=True):
    """Change a subscription: names and globs to add or remove, another rate, pause or resume."""

    subscription: int
    add: list[Name] = []
    remove: list[Name] = []
    rate_hz: Annotated[float, msgspec.Meta(gt=0, le=1000)] | None = None
    paused: bool | None = None


class UnsubscribeParams(Params, frozen=True):
    """Close a subscription; nothing of it follows the answer."""

    subscription: int


class UnsubscribeResult(Result, frozen=True):
    """``positions``: where it stood, to resume from."""

    positions: dict[str, Position]


class RecordParams(Params, frozen=True):
    """Record a feed's raw venue traffic into the daemon's own recordings folder."""

    feed: Name
    name: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,100}$")]
    duration_s: Annotated[float, msgspec.Meta(gt=0, le=86_400)]


class RecordResult(Result, frozen=True):
    """``path`` is on the daemon's machine."""

    path: str
    messages: int
    bytes: int


# --- bars ---


class BarsParams(Params, frozen=True):
    """Bars of one instrument in ``[start_ns, end_ns)``, as far as they are held; without a bound, all there are.

    ``period``: as in the kinds: ``1m``, ``1000t``. ``limit``: how many at most, counted from the end that ``order``
    names; they come in order of time either way.
    """

    fqme: Name
    period: Annotated[str, msgspec.Meta(min_length=2, max_length=32)] = "1m"
    start_ns: int | None = None
    end_ns: int | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=20_000)] = 20_000
    order: Order = "newest"
    format: Format = "rows"


class BarsResult(Result, frozen=True):
    """``data``: rows of a step ring, cursor 0; or ``columns``, the same fields as arrays.

    ``missing``: ranges ``[from_ns, to_ns)`` of what was asked for, up to ``complete_until_ns``, of which there is no
    whole bar here. Bars that end after ``complete_until_ns`` are still forming. Without a period both are empty.
    ``limited``: there are more than ``limit``.
    """

    fqme: str
    feed: str
    period: str
    period_ns: int
    complete_until_ns: int
    missing: list[tuple[int, int]]
    limited: bool
    data: bytes = b""
    columns: dict[str, list[int | float | None]] = {}


# --- history ---


class HistoryParams(Params, frozen=True):
    """Bars of some instruments in ``[start_ns, end_ns)``, of all that is held: live, and on disk.

    ``instruments``: names, or globs of those that the feeds have. ``period``: of bars that are made or stored, or a
    multiple of one that is stored. ``limit``: of each instrument so many at most, counted from the end that ``order``
    names. ``columns``: which, and in which order; all of the usual ones if null.
    """

    instruments: Annotated[list[Name], msgspec.Meta(min_length=1, max_length=10_000)]
    period: Annotated[str, msgspec.Meta(min_length=2, max_length=32)] = "1m"
    start_ns: int | None = None
    end_ns: int | None = None
    limit: Annotated[int, msgspec.Meta(ge=1)] | None = None
    order: Order = "newest"
    columns: Annotated[list[str], msgspec.Meta(min_length=1, max_length=32)] | None = None


class HistorySeries(Result, frozen=True):
    """What one instrument had. ``missing`` and ``complete_until_ns`` as in :class:`BarsResult`."""

    fqme: str
    rows: int
    complete_until_ns: int
    missing: list[tuple[int, int]]
    limited: bool = False


class HistoryResult(Result, frozen=True):
    """All batches have come: for each instrument, in the order in which they came."""

    period: str
    period_ns: int
    series: list[HistorySeries]


class TicksParams(Params, frozen=True):
    """Ticks of some instruments in ``[start_ns, end_ns)`` of the venue's time, of all that is held: rings, and disk.

    ``kind``: which ticks. The others as in :class:`HistoryParams`.
    """

    instruments: Annotated[list[Name], msgspec.Meta(min_length=1, max_length=10_000)]
    kind: Literal["trade", "quote"] = "trade"
    start_ns: int | None = None
    end_ns: int | None = None
    limit: Annotated[int, msgspec.Meta(ge=1)] | None = None
    order: Order = "newest"
    columns: Annotated[list[str], msgspec.Meta(min_length=1, max_length=32)] | None = None


class TicksResult(Result, frozen=True):
    """All batches have come, as in :class:`HistoryResult`; ``missing`` are times of which ticks may be missing."""

    kind: str
    series: list[HistorySeries]


class CoverageParams(Params, frozen=True):
    """What is known of the stored bars of one instrument, in ``[start_ns, end_ns)``."""

    fqme: Name
    period: Annotated[str, msgspec.Meta(min_length=2, max_length=32)] = "1m"
    start_ns: int | None = None
    end_ns: int | None = None


class CoverageSpan(Result, frozen=True):
    """``state``: complete, empty, missing, unverified. ``provenance``: observed, backfilled, imported …"""

    from_ns: int
    to_ns: int
    state: str
    provenance: str


class CoverageResult(Result, frozen=True):
    """In order of time. Of a time that no span has nothing is known."""

    fqme: str
    period: str
    spans: list[CoverageSpan]


class GapSpan(Result, frozen=True):
    """Bars that are not there. ``kind``: real, expected (closed market, or nothing is known to be), no_trade."""

    from_ns: int
    to_ns: int
    rows: int
    kind: str


class GapsResult(Result, frozen=True):
    """Of the range that was asked for, or from the first stored bar to the last."""

    fqme: str
    period: str
    gaps: list[GapSpan]


class BackfillParams(Params, frozen=True):
    """Let a range be asked of the venue, as far as it is not there."""

    fqme: Name
    start_ns: int
    end_ns: int | None = None
    period: Annotated[str, msgspec.Meta(min_length=2, max_length=32)] = "1m"


class BackfillResult(Result, frozen=True):
    """``bars``: so many the range has; ``missing``: of which so many are not there. ``detail``: why not."""

    fqme: str
    period: str
    bars: int
    missing: int
    detail: str = ""


# --- what an operator asks ---


class ServicesResult(Result, frozen=True):
    """All services: what :class:`ServiceParams` can name."""

    services: list[ActorStatus]


class ServiceParams(Params, frozen=True):
    """``service``: its name, as in the status; of a feed its own name will do."""

    service: Name


class ServiceResult(Result, frozen=True):
    """How the service stands now that it was done."""

    service: ActorStatus


class ClientsResult(Result, frozen=True):
    """Who is connected."""

    clients: list[ClientStatus]


class KickParams(Params, frozen=True):
    """``client``: its id; ``reason``: told to it, and to the log."""

    client: int
    reason: Annotated[str, msgspec.Meta(max_length=256)] = ""


class KickResult(Result, frozen=True):
    """How the client stood when it was sent away."""

    client: ClientStatus


class LogLevelParams(Params, frozen=True):
    """Without ``level``, only tell; without ``actor``, all of them."""

    level: LogLevel | None = None
    actor: Name | None = None


class LogLevelResult(Result, frozen=True):
    """What holds now, by actor."""

    levels: dict[str, str]


class Change(Result, frozen=True):
    """A key of the configuration that has another value, and what became of that.

    ``action``: ``applied``, at once; ``restarted``, what it concerns; of feeds also ``added``, ``removed``, and
    ``replaced``: by another one of the same name.
    """

    key: str
    action: str


class ReloadResult(Result, frozen=True):
    """``file``: what was read; empty where there is none. ``needs_restart``: keys whose new values do not hold yet."""

    file: str
    changes: list[Change]
    needs_restart: list[str]


# --- messages of a stream ---


class Rows(Result, frozen=True):
    """Ring rows as they are, ``len(data) // row_bytes`` of them; covers the whole cursor range.

    In the order of their cursors, or with the contracts `frames` and `trade_safe` by kind, and then in that order.
    ``merged``: with `latest` and `trade_safe`, for each row, how many rows of its kind and instrument it stands for.
    """

    subscription: int
    feed: str
    epoch: int
    cursor_first: int
    cursor_last: int
    data: bytes
    merged: list[int] | None = None


class Columns(Result, frozen=True):
    """Consecutive rows of one kind as arrays; field names are those of the kind's row."""

    subscription: int
    feed: str
    epoch: int
    cursor_first: int
    cursor_last: int
    kind: str
    columns: dict[str, list[int | float | None]]
    merged: list[int] | None = None


class KindColumns(Result, frozen=True):
    """The rows of one kind in a :class:`TickFrame`, in order, as arrays."""

    kind: str
    columns: dict[str, list[int | float | None]]
    merged: list[int] | None = None


class TickFrame(Result, frozen=True):
    """Contracts `frames` and `trade_safe` in format `columns`: all rows of a range, by kind."""

    subscription: int
    feed: str
    epoch: int
    cursor_first: int
    cursor_last: int
    kinds: list[KindColumns]


class Bars(Result, frozen=True):
    """Rows of a step ring as they are: bars that are out or have changed, and index events; else as :class:`Rows`.

    Bars that are still forming come in messages of their own, as often as ``forming_hz`` says. Their rows have the
    cursor 0, and the message's range of cursors is empty: ``cursor_last`` is ``cursor_first - 1``.
    """

    subscription: int
    feed: str
    epoch: int
    cursor_first: int
    cursor_last: int
    data: bytes


class Snapshot(Result, frozen=True, omit_defaults=True):
    """How one feed's instruments stood at ``cursor``, all of it: the newest quote and trade of each.

    Their rows are older than those that follow, and have the flag ``snapshot``. ``data`` in format `rows`, ``kinds`` in
    format `columns`.
    """

    subscription: int
    feed: str
    epoch: int
    cursor: int
    data: bytes = b""
    kinds: list[KindColumns] = []


class ReplayCompleted(Result, frozen=True):
    """What the feed had when the stream was opened, up to ``cursor``, was sent; what follows is live."""

    subscription: int
    feed: str
    epoch: int
    cursor: int


class GapFilled(Result, frozen=True):
    """The venue has told afterwards what it has of ``[from_ns, to_ns)``: so many ``bars``, which are stored by now.

    Told to who subscribed to this kind of this instrument. Bars in memory that are others then come as rows, revised.
    """

    subscription: int
    feed: str
    fqme: str
    kind: str
    from_ns: int
    to_ns: int
    bars: int


class Gap(Result, frozen=True):
    """Rows that this client will not get, told by the server and not by the feed (those come as ``gap`` rows)."""

    subscription: int
    feed: str
    epoch: int
    cursor_first: int
    cursor_last: int
    lost: int
    reason: str
    from_ns: int = 0
    to_ns: int = 0


class Instruments(Result, frozen=True, omit_defaults=True):
    """New row ids of a subscribed feed; comes before the first row that uses one. A new epoch replaces all ids.

    ``kinds``: as in :class:`SubscribedFeed`, of a feed that was not there before.
    """

    subscription: int
    feed: str
    epoch: int
    instruments: dict[int, str]
    kinds: dict[int, str] = {}


class Status(Result, frozen=True):
    """A subscribed feed changed its state."""

    subscription: int
    feed: str
    state: str
    detail: str = ""


class SearchHits(Result, frozen=True):
    """Hits of the running search request ``id``, as one feed answered."""

    id: int | str
    hits: list[SearchHit]


class HistoryBatch(Result, frozen=True):
    """The next piece of an instrument's bars for the running request ``id``.

    The ``data`` of one instrument, one after the other, are an Arrow IPC stream.
    """

    id: int | str
    fqme: str
    data: memoryview


class BackfillProgress(Result, frozen=True):
    """How far the running request ``id`` is; see :class:`BackfillResult`. ``detail``: why it does not go on now."""

    id: int | str
    bars: int
    missing: int
    detail: str = ""


class Notice(Result, frozen=True):
    """``code``: ``closing`` and ``kicked`` (with where each subscription stands), ``slow``, ``stalled`` …

    ``lost``: rows that the client's gaps have told as lost so far.
    """

    code: str
    message: str
    positions: dict[int, dict[str, Position]] = {}
    lost: int = 0


class Heartbeat(Result, frozen=True):
    """Nothing has happened; both ends are there."""


METHODS: dict[str, tuple[type[Params], type[Result]]] = {
    "hello": (HelloParams, HelloResult),
    "ping": (PingParams, PingResult),
    "status": (EmptyParams, StatusResult),
    "backends": (EmptyParams, BackendsResult),
    "search": (SearchParams, SearchResult),
    "instrument": (InstrumentParams, InstrumentResult),
    "why": (WhyParams, WhyResult),
    "debug": (EmptyParams, DebugResult),
    "subscribe": (SubscribeParams, SubscribeResult),
    "update": (UpdateParams, SubscribeResult),
    "unsubscribe": (UnsubscribeParams, UnsubscribeResult),
    "record": (RecordParams, RecordResult),
    "bars": (BarsParams, BarsResult),
    "history": (HistoryParams, HistoryResult),
    "ticks": (TicksParams, TicksResult),
    "coverage": (CoverageParams, CoverageResult),
    "gaps": (CoverageParams, GapsResult),
    "backfill": (BackfillParams, BackfillResult),
    "services.list": (EmptyParams, ServicesResult),
    "services.restart": (ServiceParams, ServiceResult),
    "services.stop": (ServiceParams, ServiceResult),
    "services.start": (ServiceParams, ServiceResult),
    "services.cancel": (ServiceParams, ServiceResult),
    "clients.list": (EmptyParams, ClientsResult),
    "clients.kick": (KickParams, KickResult),
    "log.level": (LogLevelParams, LogLevelResult),
    "reload": (EmptyParams, ReloadResult),
}

NOTIFICATIONS: dict[str, type[Result]] = {
    "rows": Rows,
    "columns": Columns,
    "frame": TickFrame,
    "bars": Bars,
    "snapshot": Snapshot,
    "replay_completed": ReplayCompleted,
    "gap_filled": GapFilled,
    "gap": Gap,
    "instruments": Instruments,
    "status": Status,
    "search.hits": SearchHits,
    "history.batch": HistoryBatch,
    "backfill.progress": BackfillProgress,
    "notice": Notice,
    "heartbeat": Heartbeat,
}
