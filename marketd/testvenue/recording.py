"""Reads recordings, to play the venue's side of them. Written apart from the product's own reader on purpose.

    FILE.ws    URL " <-> " TIME               a connection was opened
               URL " <- " TIME ": " MESSAGE   what the client sent: left out
               TIME ": " MESSAGE              what the venue sent
    FILE.rest  URL " -> " TIME ": " BODY      an answer to a REST request

TIME is in seconds since 1970. Either may be gzipped (`.gz`).
"""

from __future__ import annotations

import gzip
import urllib.parse
from dataclasses import dataclass, field
from pathlib import Path

import trio

from marketd.errors import RecordingError
from marketd.testvenue.connection import Connection
from marketd.testvenue.venue import Say, decode_object

# Which venue plays what came from these hosts.
HOSTS = {
    "fstream.binance.com": "binance-futures",
    "fapi.binance.com": "binance-futures",
    "stream.binance.com": "binance",
    "api.binance.com": "binance",
    "data-stream.binance.vision": "binance",
    "stream.binance.us": "binance",
    "api.binance.us": "binance",
    "ws.kraken.com": "kraken",
    "api.kraken.com": "kraken",
    "api.kucoin.com": "kucoin",
}


@dataclass
class Recording:
    """What one venue has said: messages with their times in seconds from the first, and REST bodies by path."""

    messages: list[tuple[float, bytes]] = field(default_factory=list)
    bodies: dict[str, bytes] = field(default_factory=dict)


def read(paths: list[Path]) -> dict[str, Recording]:
    """Read files, and sort them by venue.

    Raises:
        RecordingError: the text names file and line.
    """
    recordings: dict[str, Recording] = {}
    for path in paths:
        lines = _lines(path)
        if path.name.removesuffix(".gz").endswith(".rest"):
            for number, line in enumerate(lines, 1):
                _read_body(path, number, line, recordings)
        else:
            _read_messages(path, lines, recordings)
    return recordings


async def play(recording: Recording, connection: Connection, speed: float) -> None:
    """Send a recording's messages to one connection, as fast as they came times ``speed``.

    The session itself says what belongs to this connection and not to the recorded one: welcomes, acks, pongs.
    """
    began_s = trio.current_time()
    for offset_s, payload in recording.messages:
        await trio.sleep_until(began_s + offset_s / speed)
        if not _is_control(payload):
            connection.say([Say(payload, "data", "recording")])


def _is_control(payload: bytes) -> bool:
    if len(payload) > 400:
        return False
    message = decode_object(payload)
    if message is None:
        return False
    return message.get("type") in ("welcome", "ack", "pong") or "result" in message or message.get("event") == "pong"


def _read_messages(path: Path, lines: list[bytes], recordings: dict[str, Recording]) -> None:
    url = lines[0].partition(b" <-> ")[0] if lines and b" <-> " in lines[0] else b""
    if not url:
        raise RecordingError(f"{path}:1: the first line of a recording is 'URL <-> TIME'")
    recording = recordings.setdefault(_venue(path, url.decode(errors="replace")), Recording())
    first_s: float | None = None
    for number, line in enumerate(lines, 1):
        head, colon, payload = line.partition(b": ")
        if not colon or not head[:1].isdigit():
            continue
        try:
            time_s = float(head)
        except ValueError:
            raise RecordingError(f"{path}:{number}: {head[:40]!r} is no time") from None
        first_s = time_s if first_s is None else first_s
        recording.messages.append((max(time_s - first_s, 0.0), payload))


def _read_body(path: Path, number: int, line: bytes, recordings: dict[str, Recording]) -> None:
    url, arrow, rest = line.partition(b" -> ")
    if not arrow or not url.startswith(b"http"):
        return
    address = url.decode(errors="replace")
    parts = urllib.parse.urlsplit(address)
    key = parts.path + (f"?{parts.query}" if parts.query else "")
    body = rest.partition(b": ")[2]
    if not body:
        raise RecordingError(f"{path}:{number}: it is no 'URL -> TIME: BODY'")
    recordings.setdefault(_venue(path, address), Recording()).bodies[key] = body


def _venue(path: Path, url: str) -> str:
    host = urllib.parse.urlsplit(url).hostname or ""
    if host.startswith(("push-", "ws-api")) and host.endswith(".kucoin.com"):
        return "kucoin"
    if host not in HOSTS:
        raise RecordingError(f"{path}: {url} is of no venue that is known here")
    return HOSTS[host]


def _lines(path: Path) -> list[bytes]:
    try:
        data = path.read_bytes()
        return (gzip.decompress(data) if path.name.endswith(".gz") else data).splitlines()
    except (OSError, EOFError) as error:
        raise RecordingError(f"{path}: {error}") from error
