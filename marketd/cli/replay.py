"""`marketd replay`: a daemon of its own whose feeds are recordings."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from marketd.cli.common import EXIT_USAGE, JsonOption, daemon_packages, exits, fail

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from rich.table import Table

    from marketd.config import Config
    from marketd.rpc.messages import FeedStatus

EXAMPLE = "marketd replay monday.ws --speed max --wait-client --exit-when-done --json"


@exits(interrupted=0)
def replay(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE",
            exists=True,
            dir_okay=False,
            readable=True,
            help="Recordings (.ws), and saved REST trades (.json).",
        ),
    ],
    speed: Annotated[str, typer.Option("--speed", metavar="N|max", help="Recorded seconds in one of ours.")] = "1",
    wait_client: Annotated[bool, typer.Option("--wait-client", help="Begin at the first subscription.")] = False,
    exit_when_done: Annotated[bool, typer.Option("--exit-when-done", help="End when all have been played.")] = False,
    instance: Annotated[str, typer.Option("--instance", help="A name of its own beside other daemons.")] = "replay",
    address: Annotated[
        str, typer.Option("--address", "-a", metavar="HOST:PORT", help="Where it listens; port 0 takes a free one.")
    ] = "127.0.0.1:7600",
    log_level: Annotated[str, typer.Option("--log-level", metavar="LEVEL", help="As in `marketd run`.")] = "info",
    json: JsonOption = False,
) -> None:
    """Play recordings through their venues' protocols to this daemon's clients, then sum up what they held.

    Each file is a feed. The recording's clock is the daemon's clock. Without --exit-when-done the daemon stays for its
    clients until Ctrl-C. Logs go to standard error, the summary alone to standard output.

    Saved trades are what Kraken's REST answered to /0/public/Trades: one body, or several one after the other. They are
    put in order of time and played like a recording; each counts as a message. Names may end in .gz.
    """
    with daemon_packages():
        from marketd import logs
        from marketd.cli.output import console, print_json
        from marketd.cli.run import supervise
        from marketd.config import decode
        from marketd.errors import InstanceRunningError
        from marketd.paths import Paths, runtime_folder
    by_feed = dict(zip(feed_names(files), (path.absolute() for path in files), strict=True))
    table = _config_table(by_feed, instance, address, log_level, _parse_speed(speed), wait_client)
    config: Config = decode(table, "marketd replay")
    begins_ns = _open_once(config)
    logs.configure(config.log.level, config.log.format, "supervisor")
    base = runtime_folder() / ".replay"
    try:
        statuses = supervise(config, Paths.for_instance(instance, base), exit_when_done=exit_when_done)
    except InstanceRunningError:
        raise  # what lies there is the other daemon's
    except BaseException:
        shutil.rmtree(base / instance, ignore_errors=True)
        raise
    shutil.rmtree(base / instance, ignore_errors=True)
    summary = summarize(statuses, by_feed, begins_ns)
    if json:
        print_json(summary)
    else:
        console().print(render(summary))


def feed_names(files: Iterable[Path]) -> list[str]:
    """Make feeds' names of the files': ``Monday 1.ws`` is ``monday-1``, and the second of that name ``monday-1-2``."""
    names: list[str] = []
    for file in files:
        stem = file.name.removesuffix(".gz").removesuffix(".ws").removesuffix(".json").lower()
        name = plain = re.sub(r"[^a-z0-9_-]+", "-", stem).strip("-_")[:28] or "recording"
        number = 1
        while name in names:
            number += 1
            name = f"{plain}-{number}"
        names.append(name)
    return names


def summarize(
    statuses: Sequence[FeedStatus], files: Mapping[str, Path], begins_ns: Mapping[str, int]
) -> dict[str, list[dict[str, Any]]]:
    """Say of each feed what became of its messages. ``seconds`` is how much recorded time was played."""
    feeds = []
    for status in statuses:
        messages: dict[str, Any] = {"used": {}, "unused": {}, "bad": 0, "unknown": 0}
        for key, count in status.messages.items():
            group, dot, type_ = key.partition(".")
            if dot:
                messages[group][type_] = count
            else:
                messages[group] = count
        played_ns = status.last_received_ns - begins_ns[status.name]
        feeds.append(
            {
                "feed": status.name,
                "file": str(files[status.name]),
                "messages": messages,
                "rows": {kind: status.rows_by_kind.get(kind, 0) for kind in ("trade", "quote")},
                "gaps": status.gaps,
                "seconds": max(0.0, round(played_ns / 1e9, 3)),
            }
        )
    return {"feeds": feeds}


def render(summary: Mapping[str, Sequence[Mapping[str, Any]]]) -> Table:
    """Draw a summary for people."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("feed", no_wrap=True)
    table.add_column("messages", no_wrap=True)
    for heading in ("trades", "quotes", "gaps", "seconds"):
        table.add_column(heading, justify="right", no_wrap=True)
    for feed in summary["feeds"]:
        table.add_row(
            feed["feed"],
            _messages(feed["messages"]),
            f"{feed['rows']['trade']:,}",
            f"{feed['rows']['quote']:,}",
            f"{feed['gaps']:,}",
            f"{feed['seconds']:.1f}",
        )
    return table


def _messages(messages: Mapping[str, Any]) -> str:
    """One line a type, those without rows behind the others."""
    used = [f"{count:,} {name}" for name, count in messages["used"].items()]
    unused = [f"{count:,} {name}, unused" for name, count in messages["unused"].items()]
    return "\n".join([*used, *unused, f"{messages['bad']:,} bad, {messages['unknown']:,} unknown"])


def _config_table(
    files: Mapping[str, Path], instance: str, address: str, log_level: str, speed: float | str, wait_client: bool
) -> dict[str, Any]:
    return {
        "instance": instance,
        "log": {"level": log_level},
        "gateway": {"listen": [address], "unix": False, "http": []},
        "feeds": {
            name: {"backend": "replay", "files": [str(path)], "speed": speed, "wait_client": wait_client}
            for name, path in files.items()
        },
    }


def _parse_speed(text: str) -> float | str:
    if text == "max":
        return text
    try:
        return float(text)
    except ValueError:
        fail(f"--speed {text!r}: allowed are numbers greater than 0, and max", EXIT_USAGE)


def _open_once(config: Config) -> dict[str, int]:
    """Refuse what can't be played, or is of no known venue, before anything starts; return when each begins.

    Raises:
        RecordingError: the text names the file, and the line of a recording.
    """
    from backends.replay.source import open_track

    begins_ns = {}
    for name, table in config.feeds.items():
        [path] = map(Path, table["files"])
        begins_ns[name] = open_track(path).begin_ns
    return begins_ns
