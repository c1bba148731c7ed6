"""The picture of a status, for `marketd status`. Pure: the same status gives the same picture."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from marketd.cli.output import bytes_text, duration_text
from marketd.rpc.messages import (
    ActorStatus,
    ClientStatus,
    FeedStatus,
    HistoryStatus,
    StatusResult,
    VenueClock,
    VenueStatus,
)

DAY_S = 86_400
NAME_WIDTH = 12
_BAD = ("stale", "gap", "resyncing")
_STYLES = {"live": "green", "finished": "green", "starting": "yellow", "down": "red", "failing": "bold red"}


def render(status: StatusResult) -> RenderableType:
    """Draw a status."""
    parts: list[RenderableType] = [_headline(status)]
    if status.clock.skewed:
        parts.append(Text(status.clock.detail, style="bold red"))
    parts += [Text(f"  {problem}", style="yellow") for problem in status.problems]
    parts.append(actors_table(status.actors, tree=True))
    parts += [Text(f"  {actor.name}: {actor.trouble}", style="yellow") for actor in status.actors if actor.trouble]
    parts += [_feeds(status.feeds, status.now_ns)]
    if any(feed.venue is not None for feed in status.feeds):
        parts.append(_venues(status.feeds, status.now_ns))
    if status.history is not None:
        parts.append(_history(status.history))
    if status.clients:
        parts.append(clients_table(status.clients))
    return Group(*parts)


def _headline(status: StatusResult) -> Text:
    ready = ("ready", "bold green") if status.ready else ("not ready", "bold red")
    up = duration_text(status.uptime_s)
    return Text.assemble(f"marketd {status.version}  instance {status.instance}  pid {status.pid}  up {up}  ", ready)


def actors_table(actors: list[ActorStatus], *, tree: bool = False) -> Table:
    """Draw actors; as the branches of the first one, or each for itself."""
    table = _table("actor", "state", ">pid", ">up", ">restarts", ">memory", ">cpu", ">files", ">loop lag", "detail")
    for actor in actors:
        branch = "" if not tree or actor is actors[0] else "└─ " if actor is actors[-1] else "├─ "
        table.add_row(
            branch + actor.name,
            _state(actor.state),
            str(actor.pid) if actor.pid else "-",
            duration_text(actor.uptime_s),
            _alert(actor.restarts),
            bytes_text(actor.rss_bytes) if actor.rss_bytes else "-",
            duration_text(actor.cpu_s),
            str(actor.fds or "-"),
            _milliseconds(actor.loop_lag_ms),
            actor.detail,
        )
    return table


def _feeds(feeds: Iterable[FeedStatus], now_ns: int) -> Table:
    table = _table(
        *("feed", "backend", "state", ">instruments", "quality", ">rows/s", ">lag", ">trades", ">quotes", ">gaps"),
        *(">last tick", "detail"),
    )
    for feed in feeds:
        table.add_row(
            feed.name,
            feed.backend,
            _state(feed.state),
            str(feed.instruments),
            _qualities(feed.qualities),
            f"{feed.rows_per_s:,.0f}",
            _milliseconds(feed.lag_ms),
            f"{feed.rows_by_kind.get('trade', 0):,}",
            f"{feed.rows_by_kind.get('quote', 0):,}",
            _alert(feed.gaps),
            _last_tick(feed.last_received_ns, now_ns),
            feed.detail,
        )
    return table


def _venues(feeds: Iterable[FeedStatus], now_ns: int) -> Table:
    table = _table("venue of", ">subscribed", ">connections", ">lost", ">our clock ahead by", ">jitter", "budget used")
    for feed in feeds:
        venue, clock = feed.venue, feed.clock or VenueClock()
        if venue is not None:
            table.add_row(
                feed.name,
                f"{venue.live}/{venue.wanted}",
                str(venue.connections),
                _alert(venue.losses),
                _offset(clock),
                _milliseconds(clock.jitter_ms),
                _budget(venue, now_ns),
            )
    return table


def _budget(venue: VenueStatus, now_ns: int) -> Text:
    parts = [f"{name} {venue.used.get(name, 0)}/{most}" for name, most in venue.capacity.items()]
    for name, until_ns in venue.resting_until_ns.items():
        parts.append(f"{name} rests for {duration_text((until_ns - now_ns) / 1e9)}")
    return Text(", ".join(parts), style="red" if venue.resting_until_ns else "")


def _offset(clock: VenueClock) -> str:
    if clock.offset_ms is None:
        return "-"
    if clock.uncertainty_ms is None:  # events came before they happened: it is behind by that at least
        return f"{clock.offset_ms:,.0f} ms at most"
    return f"{clock.offset_ms:,.0f} ± {clock.uncertainty_ms:,.0f} ms"


def _qualities(counts: dict[str, int]) -> Text:
    parts = [Text(f"{count} {name}", "yellow" if name in _BAD else "") for name, count in counts.items()]
    return Text(", ").join(parts) if parts else Text("-")


def _milliseconds(value_ms: float | None) -> str:
    return "-" if value_ms is None else f"{value_ms:,.2f} ms" if abs(value_ms) < 10 else f"{value_ms:,.0f} ms"


def _last_tick(last_ns: int, now_ns: int) -> str:
    """How long ago; the time itself where that is long ago, as in a replay, whose clock is the recording's."""
    if not last_ns:
        return "never"
    age_s = (now_ns - last_ns) / 1e9
    if age_s > DAY_S:
        return datetime.fromtimestamp(last_ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S")
    return f"{duration_text(age_s)} ago"


def _history(history: HistoryStatus) -> Text:
    counts = f"{history.series:,} series, {history.bars:,} bars written, {history.pages:,} pages asked for"
    text = Text(f"\nhistory  {counts}, {history.verified:,} bars compared with the venues' own")
    if history.differing:
        text.append(f", {history.differing:,} differed", style="red")
    if history.pages_failed:
        text.append(f", {history.pages_failed:,} failed", style="red")
    if history.store.measured_ns:
        store = history.store
        text.append(f"\nstore    {bytes_text(store.bytes)}, {store.files:,} files, {bytes_text(store.free_bytes)} free")
    for feed, left in history.backfill.items():
        if left.bars:
            since = datetime.fromtimestamp(left.from_ns / 1e9, UTC).strftime("%Y-%m-%d")
            text.append(f"\nbackfill {feed}: {left.bars:,} bars of {left.series:,} series to ask for, since {since}")
    return text


def clients_table(clients: Iterable[ClientStatus]) -> Table:
    """Draw who is connected."""
    table = _table(
        *(">client", "name", "address", ">streams", "kinds", ">instruments", ">rows sent", ">sent", ">behind", ">lost"),
        ">connected",
    )
    for client in clients:
        behind = f"{client.lag_rows:,} rows, {duration_text(client.lag_s)}" if client.lag_rows else "-"
        table.add_row(
            str(client.id),
            client.name,
            client.address,
            str(client.subscriptions),
            " ".join(client.kinds),
            f"{client.instruments:,}",
            f"{client.rows_sent:,}",
            bytes_text(client.bytes_sent),
            Text(behind, style="red" if client.slow else ""),
            _alert(client.lost),
            duration_text(client.connected_s),
        )
    return table


def _table(*headings: str) -> Table:
    """Make a table; a heading that begins with ``>`` has its column aligned to the right."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in headings:
        table.add_column(heading.removeprefix(">"), justify="right" if heading[0] == ">" else "left", no_wrap=True)
    table.columns[-1].no_wrap = False
    table.columns[0].min_width = NAME_WIDTH  # what the row is about must be seen, however narrow the terminal is
    return table


def _state(state: str) -> Text:
    return Text(state, style=_STYLES.get(state, ""))


def _alert(count: int) -> Text:
    return Text(f"{count:,}", style="red" if count else "")
