"""What the supervisor and its actors say to each other. Control only: no row of market data comes this way."""

from __future__ import annotations

from typing import Any

import msgspec

from marketd.model import MktPair
from marketd.rpc.messages import ClientStatus, FeedState

# --- specs: what an actor is started with ---


class LogSpec(msgspec.Struct, frozen=True):
    """``format`` is ``console`` or ``json``."""

    level: str = "info"
    format: str = "console"


class ActorSpec(msgspec.Struct, frozen=True):
    """Everything a new actor process needs to know.

    ``run`` is ``module:function``, an ``async def run(actor: ActorHandle) -> None``; ``config`` is that function's own
    struct in MessagePack.
    """

    name: str
    run: str
    config: msgspec.Raw
    log: LogSpec = LogSpec()


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


class FeedInfo(msgspec.Struct, frozen=True):
    """What a gateway needs to read a feed."""

    name: str
    backend: str
    ring_path: str
    table_path: str
    bells_path: str
    state: FeedState
    detail: str = ""


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


class GatewaySpec(msgspec.Struct, frozen=True):
    """``listen``: ``host:port`` and ``unix:/path`` addresses. Port 0 takes a free one."""

    instance: str
    listen: list[str]
    limits: LimitsSpec = LimitsSpec()


# --- supervisor -> feed ---


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


class FeedOutage(msgspec.Struct, frozen=True):
    """Notification ``outage`` to a feed: a simulated venue goes away for so long."""

    duration_s: float


# --- feed -> supervisor ---


class FeedReport(msgspec.Struct, frozen=True):
    """A feed's statistics, sent with every pulse, and with the notification ``finished`` when its source has ended."""

    state: FeedState
    instruments: int
    rows_by_kind: dict[str, int]
    messages: dict[str, int]  # used, unused.<type>, bad, unknown
    gaps: int
    last_event_ns: int
    last_received_ns: int
    detail: str = ""


# --- gateway -> supervisor ---


class GatewayReady(msgspec.Struct, frozen=True):
    """The addresses that are really listened on."""

    addresses: list[str]


class GatewayReport(msgspec.Struct, frozen=True):
    """A gateway's statistics, sent with every pulse."""

    clients: list[ClientStatus]


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


# Requests of a gateway without parameters: `feeds` -> list[FeedInfo], `status` -> StatusResult,
# `backends` -> list[BackendInfo]. The supervisor notifies gateways of `feeds_changed` with a list[FeedInfo].
