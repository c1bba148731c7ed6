"""`marketd status`: what runs, what is live, what lags and what is missing."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from marketd.cli.common import AddressOption, JsonOption, exits, resolve_address

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

    from marketd.rpc.messages import ActorStatus, ClientStatus, FeedStatus, HistoryStatus, StatusResult

EXAMPLE = "marketd status --json | jq .ready"
DAY_S = 86_400
_STYLES = {"live": "green", "finished": "green", "starting": "yellow", "down": "red", "failing": "bold red"}


@exits()
def status(address: AddressOption = None, json: JsonOption = False) -> None:
    """Show the daemon's actors, feeds and clients."""
    from marketd.cli.output import console, print_json
    from marketd.client import connect

    with connect(resolve_address(address), client="marketd status") as md:
        result = md.status()
    if json:
        print_json(result)
    else:
        console().print(render(result))


def render(status: StatusResult) -> RenderableType:
    """Draw a status. Pure: the same status gives the same picture."""
    from rich.console import Group

    parts: list[RenderableType] = [_headline(status), *_problems(status.problems)]
    parts += [actors_table(status.actors), _feeds(status.feeds, status.now_ns)]
    if status.history is not None:
        parts.append(_history(status.history))
    if status.clients:
        parts.append(clients_table(status.clients))
    return Group(*parts)


def _headline(status: StatusResult) -> Text:
    from rich.text import Text

    from marketd.cli.output import duration_text

    ready = ("ready", "bold green") if status.ready else ("not ready", "bold red")
    up = duration_text(status.uptime_s)
    return Text.assemble(f"marketd {status.version}  instance {status.instance}  pid {status.pid}  up {up}  ", ready)


def _problems(problems: Iterable[str]) -> Iterable[Text]:
    from rich.text import Text

    return [Text(f"  {problem}", style="yellow") for problem in problems]


def actors_table(actors: Iterable[ActorStatus]) -> Table:
    """Draw actors, or services."""
    from marketd.cli.output import bytes_text, duration_text

    table = _table("actor", "state", ">pid", ">up", ">restarts", ">memory", ">cpu", "detail")
    for actor in actors:
        table.add_row(
            actor.name,
            _state(actor.state),
            str(actor.pid) if actor.pid else "-",
            duration_text(actor.uptime_s),
            str(actor.restarts),
            bytes_text(actor.rss_bytes) if actor.rss_bytes else "-",
            duration_text(actor.cpu_s),
            actor.detail,
        )
    return table


def _feeds(feeds: Iterable[FeedStatus], now_ns: int) -> Table:
    table = _table("feed", "backend", "state", ">instruments", ">trades", ">quotes", ">gaps", ">last tick", "detail")
    for feed in feeds:
        table.add_row(
            feed.name,
            feed.backend,
            _state(feed.state),
            str(feed.instruments),
            f"{feed.rows_by_kind.get('trade', 0):,}",
            f"{feed.rows_by_kind.get('quote', 0):,}",
            _alert(feed.gaps),
            _last_tick(feed.last_received_ns, now_ns),
            feed.detail,
        )
    return table


def _last_tick(last_ns: int, now_ns: int) -> str:
    """How long ago; the time itself where that is long ago, as in a replay, whose clock is the recording's."""
    from marketd.cli.output import duration_text

    if not last_ns:
        return "never"
    age_s = (now_ns - last_ns) / 1e9
    if age_s > DAY_S:
        return datetime.fromtimestamp(last_ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S")
    return f"{duration_text(age_s)} ago"


def _history(history: HistoryStatus) -> Text:
    from rich.text import Text

    counts = f"{history.series:,} series, {history.bars:,} bars written, {history.pages:,} pages asked for"
    text = Text(f"\nhistory  {counts}, {history.verified:,} bars compared with the venues' own")
    if history.differing:
        text.append(f", {history.differing:,} differed", style="red")
    if history.pages_failed:
        text.append(f", {history.pages_failed:,} failed", style="red")
    for feed, why in history.trouble.items():
        text.append(f"\n  {feed}: {why}", style="yellow")
    return text


def clients_table(clients: Iterable[ClientStatus]) -> Table:
    """Draw who is connected."""
    from marketd.cli.output import bytes_text, duration_text

    table = _table(">client", "name", "address", ">streams", ">rows sent", ">sent", ">lost", ">connected")
    for client in clients:
        table.add_row(
            str(client.id),
            client.name,
            client.address,
            str(client.subscriptions),
            f"{client.rows_sent:,}",
            bytes_text(client.bytes_sent),
            _alert(client.lost),
            duration_text(client.connected_s),
        )
    return table


def _table(*headings: str) -> Table:
    """Make a table; a heading that begins with ``>`` has its column aligned to the right."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in headings:
        table.add_column(heading.removeprefix(">"), justify="right" if heading[0] == ">" else "left", no_wrap=True)
    table.columns[-1].no_wrap = False
    return table


def _state(state: str) -> Text:
    from rich.text import Text

    return Text(state, style=_STYLES.get(state, ""))


def _alert(count: int) -> Text:
    from rich.text import Text

    return Text(f"{count:,}", style="red" if count else "")
