"""HTTP requests, each with a deadline and a limit, over connections that are used again. The one module with asks.

How asks 3.0.0 is used here, and why:

- ``Connection: keep-alive`` is sent, as its default is a connection for each request.
- One TLS context is given to the session, or asks would build one for each connection (20 to 70 ms).
- Bodies are taken through its ``callback``: that can refuse to go on, and the connection goes back to the pool
  afterwards, which it does not with ``stream=True``.
- It follows no redirects: it would turn a POST into a GET, and fail with ``KeyError`` on a 304.
- It retries nothing: it would do so for a POST as well. What is worth another try is decided in `retry.py`. The one
  exception is here: a connection that the server closed while it lay idle says nothing about the server.
"""

from __future__ import annotations

import contextlib
import ssl
import urllib.parse
import zlib
from collections.abc import Iterator, Mapping
from types import TracebackType

import anyio
import asks
import asks.errors
import h11
import trio
from asks.response_objects import Response as Answer

from marketd.clock import Clock, SystemClock
from marketd.errors import ConfigError, reason_of
from marketd.http.messages import (
    Headers,
    HttpBadResponse,
    HttpConnectError,
    HttpError,
    HttpTimeout,
    HttpTlsError,
    HttpTooLarge,
    Response,
)
from marketd.tls import client_context

BODY_BYTES_MAX = 32 << 20  # the largest answer in use, an exchangeInfo of all symbols, is about 2 MiB
CONNECT_TIMEOUT_S = 3.0  # a lost SYN is sent again after 1 s

Params = Mapping[str, str | int | float]


class HttpClient:
    """Requests to one server. Use as an asynchronous context manager.

    Args:
        base_url: ``http:`` or ``https:``; a path in it goes before each request's.
        ca_file: PEM file with the authorities to trust, in place of the system's.
        connections: how many requests at once at most; the others wait, and their deadline runs.
        connect_timeout_s: for name, TCP and TLS together; shorter than a request's deadline, so that there is time for
            another attempt.

    Raises:
        ConfigError: the address or ``ca_file`` can't be used.
    """

    def __init__(
        self,
        base_url: str,
        *,
        ca_file: str | None = None,
        connections: int = 4,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        clock: Clock | None = None,
    ) -> None:
        url = urllib.parse.urlsplit(base_url)
        if url.scheme not in ("http", "https") or not url.hostname or url.query or url.fragment:
            raise ConfigError(f"{base_url!r} is no address for requests, such as https://api.example.com")
        self._base_url = base_url.rstrip("/")
        self._headers = {
            "Host": url.netloc.rpartition("@")[2],
            "Connection": "keep-alive",
            "Accept-Encoding": "gzip",
            "User-Agent": "marketd",
        }
        self._connect_timeout_s = connect_timeout_s
        self._clock = clock or SystemClock()
        context = client_context(ca_file) if url.scheme == "https" else None
        self._session = asks.Session(ssl_context=context, connections=connections)

    async def __aenter__(self) -> HttpClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    def now_ns(self) -> int:
        """The time on the clock that responses are stamped with."""
        return self._clock.now_ns()

    async def get(
        self,
        path: str,
        params: Params | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        timeout_s: float,
        body_bytes_max: int = BODY_BYTES_MAX,
    ) -> Response:
        """Ask for something; see :meth:`request`."""
        return await self.request(
            "GET", path, params=params, headers=headers, timeout_s=timeout_s, body_bytes_max=body_bytes_max
        )

    async def post(
        self,
        path: str,
        params: Params | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        body: bytes = b"",
        timeout_s: float,
        body_bytes_max: int = BODY_BYTES_MAX,
    ) -> Response:
        """Tell the server something; see :meth:`request`."""
        return await self.request(
            "POST", path, params=params, headers=headers, body=body, timeout_s=timeout_s, body_bytes_max=body_bytes_max
        )

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Params | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        timeout_s: float,
        body_bytes_max: int = BODY_BYTES_MAX,
        idempotent: bool | None = None,
    ) -> Response:
        """Make one request and return the answer, whatever its status; redirects are not followed.

        Args:
            timeout_s: from this call to the body's last byte, however slowly that comes.
            body_bytes_max: of the body, both as sent and decompressed.
            idempotent: whether the server may get the request twice. None: as the method says.

        Raises:
            HttpError: one of its kinds other than ``HttpStatusError``, with the cause.
        """
        url = self._base_url + path + ("?" + urllib.parse.urlencode(params) if params else "")
        may_repeat = method == "GET" if idempotent is None else idempotent
        with trio.move_on_after(timeout_s), _translated(f"{method} {self._base_url}{path}"):
            for last in (False, True) if may_repeat else (True,):
                chunks = _Chunks(body_bytes_max)
                try:
                    answer = await self._exchange(method, url, {**self._headers, **(headers or {})}, body, chunks)
                except _BROKEN:
                    if last:
                        raise
                    # Most likely an idle connection that the server has closed. Others in the pool will be no better.
                    await self._session.close()
                else:
                    return self._response(answer, chunks)
        raise HttpTimeout(f"{method} {self._base_url}{path}: no answer within {timeout_s:g} s")

    async def _exchange(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes, chunks: _Chunks
    ) -> Answer:
        return await self._session.request(
            method,
            url,
            headers=headers,
            data=body or None,
            callback=chunks.take,
            follow_redirects=False,
            retries=0,
            connection_timeout=self._connect_timeout_s,
        )

    def _response(self, answer: Answer, chunks: _Chunks) -> Response:
        # asks gives repeated Set-Cookie fields as a list, and nobody here has use for them.
        headers = Headers((name, value) for name, value in answer.headers.items() if isinstance(value, str))
        body = chunks.body(headers.get("Content-Encoding", "identity").lower())
        return Response(answer.status_code, headers, body, self._clock.now_ns())


class _Chunks:
    """A body on its way, never more than its limit."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._data = bytearray()

    async def take(self, chunk: bytes) -> None:
        if len(self._data) + len(chunk) > self._bytes_max:
            raise self._too_large()
        self._data += chunk

    def body(self, encoding: str) -> bytes:
        if encoding == "identity" or not self._data:
            return bytes(self._data)
        if encoding not in ("gzip", "x-gzip", "deflate"):
            raise HttpBadResponse(f"the body is encoded as {encoding!r}, which was not asked for")
        decompressor = zlib.decompressobj(zlib.MAX_WBITS | 32)  # takes gzip and zlib
        body = decompressor.decompress(self._data, self._bytes_max + 1)
        if len(body) > self._bytes_max:
            raise self._too_large()
        if not decompressor.eof:
            raise HttpBadResponse("the compressed body ends too early")
        return body

    def _too_large(self) -> HttpTooLarge:
        return HttpTooLarge(f"the body has more than {self._bytes_max} bytes")


# asks lets these through when a connection ends where an answer should be.
_BROKEN = (asks.errors.BadHttpResponse, anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream)


@contextlib.contextmanager
def _translated(request: str) -> Iterator[None]:
    """Turn the errors of asks and what is below it into ours; each says which request it was."""
    try:
        yield
    except HttpError as error:
        raise type(error)(f"{request}: {error}") from error.__cause__
    except asks.errors.RequestTimeout as error:
        raise HttpConnectError(f"{request}: no connection in time") from error
    except ssl.SSLError as error:
        raise HttpTlsError(f"{request}: {error}") from error
    except OSError as error:
        raise HttpConnectError(f"{request}: {reason_of(error)}") from error
    except (*_BROKEN, h11.ProtocolError, zlib.error, ValueError, LookupError) as error:
        # The last two are what asks makes of fields that it does not expect: bytes that are no UTF-8, odd cookies.
        raise HttpBadResponse(f"{request}: {str(error) or type(error).__name__}") from error
