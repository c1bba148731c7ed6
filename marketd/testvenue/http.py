"""One TCP connection's HTTP: REST requests, the control endpoint, and the way to a websocket."""

from __future__ import annotations

import contextlib
import http
import urllib.parse
from dataclasses import replace
from typing import Any

import h11
import msgspec
import trio
import wsproto
from wsproto import events
from wsproto.utilities import RemoteProtocolError

from marketd.errors import ConfigError
from marketd.testvenue.connection import reset
from marketd.testvenue.engine import Engine
from marketd.testvenue.faults import Fault, spoil
from marketd.testvenue.venue import SECOND_NS, Request, Response, Session, Venue, encode

BODY_BYTES_MAX = 1 << 20
HEAD_BYTES_MAX = 1 << 18  # addresses with a thousand streams are long
IDLE_S = 75.0
RECEIVE_BYTES = 65_536


class _Gone(Exception):  # noqa: N818 - nobody's mistake
    """The client is gone, or was sent away."""


class HttpConnection:
    """Reads requests from one TCP connection, and answers them in order."""

    def __init__(self, engine: Engine, stream: trio.abc.Stream, *, secure: bool) -> None:
        self._engine = engine
        self._stream = stream
        self._secure = secure
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES_MAX)

    async def serve(self) -> None:
        """Serve until the client goes, is sent away, or becomes a websocket and ends as that."""
        try:
            while await self._serve_request():
                self._http.start_next_cycle()
        except (_Gone, trio.BrokenResourceError, trio.ClosedResourceError, h11.LocalProtocolError):
            pass  # the last is an answer that can't be given, to a HEAD request for one
        except h11.RemoteProtocolError as error:
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError, h11.LocalProtocolError):
                await self._refuse_garbage(error)
        finally:
            await trio.aclose_forcefully(self._stream)

    async def _serve_request(self) -> bool:
        """Answer one request; False when there will be no more."""
        with trio.move_on_after(IDLE_S) as idle:
            head = await self._next_event()
        if idle.cancelled_caught or not isinstance(head, h11.Request):
            return False
        headers = {name.decode(): value.decode("latin-1") for name, value in head.headers}
        target = _split(head.target)
        path = urllib.parse.unquote(target.path)
        query = dict(urllib.parse.parse_qsl(target.query, keep_blank_values=True))
        upgrade = headers.get("upgrade", "").lower() == "websocket"
        body = b"" if upgrade else await self._body()
        if path.startswith("/control"):
            await self._send(self._control(head.method.decode(), path, body))
            return self._http.our_state is h11.DONE
        venue = next(
            (one for one in self._engine.venues.values() if path == one.prefix or path.startswith(one.prefix + "/")),
            None,
        )
        if venue is None:
            prefixes = [one.prefix for one in self._engine.venues.values()]
            await self._send(Response(404, encode({"error": f"{path}: the paths here begin with {prefixes}"})))
            return self._http.our_state is h11.DONE
        own_path = path[len(venue.prefix) :]
        request = Request(own_path, query, head.method.decode(), headers.get("host", ""), self._secure)
        await self._blackhole(venue)
        if upgrade:
            await self._websocket(venue, request, head)
            return False
        await self._send(await self._rest(venue, request, target.query))
        return self._http.our_state is h11.DONE

    async def _rest(self, venue: Venue, request: Request, raw_query: str) -> Response:
        """Answer as the venue does, or as a fault wants it."""
        take, name, path = self._engine.board.take, venue.name, request.path
        now_ns = self._engine.now_ns()
        counts = self._engine.counts[name]
        slow = take("rest_slow", name, path=path)
        if slow is not None:
            await trio.sleep(slow.delay_s)
        if take("rest_cut", name, path=path):
            counts.request(now_ns, path, 0)
            reset(self._stream)
            raise _Gone
        response = self._answer(venue, request, raw_query)
        garbage = take("rest_garbage", name, path=path)
        if garbage is not None:
            response = Response(response.status, spoil(response.body, garbage.variant), response.headers)
        counts.request(now_ns, path, response.status)
        return response

    def _answer(self, venue: Venue, request: Request, raw_query: str) -> Response:
        take, name, path, now_ns = self._engine.board.take, venue.name, request.path, self._engine.now_ns()
        failure = take("rest_error", name, path=path)
        if failure is not None:
            return Response(failure.status or 500, venue.unavailable().body)
        limited = take("rate_limit", name, path=path)
        if limited is not None:
            refusal = venue.refuse(limited.delay_s, now_ns)
            return Response(limited.status or refusal.status, refusal.body, refusal.headers)
        recording = self._engine.recordings.get(name)
        if recording is not None:
            body = recording.bodies.get(f"{path}?{raw_query}") or recording.bodies.get(path)
            if body is not None:
                return Response(200, body)
        skew = self._engine.board.find("clock_skew", name)
        if skew is not None:
            request = replace(request, skew_ns=int(skew.fault.skew_s * SECOND_NS))
        return venue.rest(request, now_ns)

    async def _websocket(self, venue: Venue, request: Request, head: h11.Request) -> None:
        now_ns, counts = self._engine.now_ns(), self._engine.counts[venue.name]
        refuse = self._engine.board.take("refuse", venue.name)
        if refuse is not None:
            counts.attempt(now_ns, "refused")
            if not refuse.status:
                reset(self._stream)
                raise _Gone
            await self._send(Response(refuse.status, venue.unavailable().body))
            return
        session = venue.session(request, now_ns)
        if isinstance(session, Response):
            counts.attempt(now_ns, str(session.status))
            await self._send(session)
            return
        counts.attempt(now_ns, "opened")
        await self._upgrade(venue, session, request, head)

    async def _upgrade(self, venue: Venue, session: Session, request: Request, head: h11.Request) -> None:
        websocket = wsproto.WSConnection(wsproto.ConnectionType.SERVER)
        try:
            websocket.initiate_upgrade_connection(list(head.headers), head.target)
            if not isinstance(next(websocket.events()), events.Request):
                raise _Gone
            answer = websocket.send(events.AcceptConnection())
        except RemoteProtocolError:
            await self._send(Response(400, encode({"error": "this is no proper websocket handshake"})))
            return
        await self._stream.send_all(answer)
        early, _ = self._http.trailing_data
        if early:
            websocket.receive_data(early)
        query = "&".join(f"{name}={value}" for name, value in request.query.items() if name != "token")
        address = request.path + (f"?{query}" if query else "")
        await self._engine.serve_websocket(venue, session, self._stream, websocket, address)
        raise _Gone

    def _control(self, method: str, path: str, body: bytes) -> Response:
        """`POST /control/faults`, `POST /control/tuning`, `POST /control/reset`, `GET /control/state`."""
        try:
            if (method, path) == ("GET", "/control/state"):
                return Response(200, encode(self._engine.state()))
            if (method, path) == ("POST", "/control/reset"):
                self._engine.reset()
                return Response(200, encode({"ok": True}))
            if (method, path) == ("POST", "/control/faults"):
                return Response(200, encode({"ok": True, "faults": self._inject(body)}))
            if (method, path) == ("POST", "/control/tuning"):
                self._engine.tune(msgspec.json.decode(body, type=dict[str, Any]))
                return Response(200, encode({"ok": True}))
        except (ConfigError, msgspec.DecodeError) as error:
            return Response(400, encode({"ok": False, "error": str(error)}))
        known = "GET /control/state, POST /control/faults, POST /control/tuning, POST /control/reset"
        return Response(404, encode({"ok": False, "error": f"{method} {path}: there are {known}"}))

    def _inject(self, body: bytes) -> list[Fault]:
        """Take one fault, or a list of them: all or none."""
        table = msgspec.json.decode(body)
        faults = [self._engine.parse(one) for one in (table if isinstance(table, list) else [table])]
        for fault in faults:
            self._engine.striker.inject(fault)
        return faults

    async def _blackhole(self, venue: Venue) -> None:
        board = self._engine.board
        while board.busy and board.find("blackhole", venue.name):
            await board.changed.wait()

    async def _next_event(self) -> object:
        while True:
            event = self._http.next_event()
            if event is not h11.NEED_DATA:
                return event
            self._http.receive_data(await self._stream.receive_some(RECEIVE_BYTES))

    async def _body(self) -> bytes:
        parts: list[bytes] = []
        while True:
            event = await self._next_event()
            if isinstance(event, h11.Data):
                parts.append(bytes(event.data))
                if sum(map(len, parts)) > BODY_BYTES_MAX:
                    await self._send(Response(413, b"{}"))
                    raise _Gone
            elif isinstance(event, h11.EndOfMessage):
                return b"".join(parts)
            else:
                raise _Gone

    async def _send(self, response: Response) -> None:
        headers = [
            ("Content-Type", "application/json; charset=utf-8"),
            ("Content-Length", str(len(response.body))),
            *response.headers,
        ]
        parts = [
            self._http.send(
                h11.Response(status_code=response.status, headers=headers, reason=_reason(response.status))
            ),
            self._http.send(h11.Data(data=response.body)),
            self._http.send(h11.EndOfMessage()),
        ]
        await self._stream.send_all(b"".join(part for part in parts if part))

    async def _refuse_garbage(self, error: h11.RemoteProtocolError) -> None:
        if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            await self._send(Response(error.error_status_hint, encode({"error": str(error)})))


def _split(target: bytes) -> urllib.parse.SplitResult:
    try:
        return urllib.parse.urlsplit(target.decode("latin-1"))
    except ValueError as error:  # of all addresses, those with brackets can be wrong
        raise h11.RemoteProtocolError(str(error)) from error


def _reason(status: int) -> bytes:
    try:
        return http.HTTPStatus(status).phrase.encode()
    except ValueError:
        return b""
