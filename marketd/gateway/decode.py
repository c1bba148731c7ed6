"""Pure: a client's bytes to a request and its parameters, or to the reason why they are none."""

from __future__ import annotations

import re
from typing import Any, TypeVar

import msgspec

from marketd.gateway.encode import Buffer, encode_refusal
from marketd.rpc.messages import METHODS, ErrorCode, Params, Request

SHOWN_CHARACTERS_MAX = 80  # of a client's own text in an error's sentence

P = TypeVar("P", bound=Params)

_decode_request = msgspec.msgpack.Decoder(Request).decode
_decode_params = {method: msgspec.msgpack.Decoder(params).decode for method, (params, _) in METHODS.items()}
_PATH = re.compile(r" - at `\$([^`]*)`$")


class Refusal(Exception):  # noqa: N818 - an answer, and no failure of anything
    """A request that can't be met.

    Attributes:
        request_id: of the request, where it is known although the request can't be read.
        closing: whether nothing that follows on this connection can be trusted either.
        reason: for the log, why the connection is closed then.
    """

    def __init__(
        self,
        code: ErrorCode,
        message: str,
        *,
        closing: bool = False,
        reason: str = "garbage",
        **data: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(message)
        self.code = code
        self.closing = closing
        self.reason = reason
        self.data = data
        self.request_id: int | str | None = None

    def frame(self, request_id: int | str | None) -> Buffer:
        """Make the answer's frame."""
        return encode_refusal(request_id, self.code, str(self), **self.data)


class _Loose(msgspec.Struct):
    """What can be said of a message that is no request."""

    id: Any = None
    method: Any = None


_decode_loose = msgspec.msgpack.Decoder(_Loose).decode


def shown(text: str) -> str:
    """Quote a client's own text, shortened."""
    return repr(text if len(text) <= SHOWN_CHARACTERS_MAX else text[:SHOWN_CHARACTERS_MAX] + "…")


def decode_request(payload: bytes | bytearray) -> Request | None:
    """Read a request; None for a heartbeat, which wants no answer.

    Raises:
        Refusal: it is none.
    """
    try:
        return _decode_request(payload)
    except msgspec.ValidationError as error:
        reason = str(error)
    except (ValueError, RecursionError) as error:  # ValueError: malformed, or text that is not UTF-8
        raise Refusal(
            ErrorCode.PARSE_ERROR, f"this is no MessagePack map {{id, method, params}}: {error}", closing=True
        ) from error
    try:
        loose = _decode_loose(payload)
    except (ValueError, RecursionError):
        loose = _Loose()
    if loose.method == "heartbeat" and loose.id is None:
        return None
    refusal = Refusal(
        ErrorCode.INVALID_REQUEST,
        "a request is a map with id (integer or text), method (text) and, where wanted, params (map) and "
        f"deadline_ms (integer above 0): {_plain(reason, 'request')}",
        key=_key(reason, "request"),
    )
    refusal.request_id = loose.id if isinstance(loose.id, int | str) and not isinstance(loose.id, bool) else None
    raise refusal


def decode_params(request: Request) -> Params:
    """Read the parameters of a request whose method exists.

    Raises:
        Refusal: they are not what the method takes; ``data.key`` says where.
    """
    try:
        return _decode_params[request.method](request.params)
    except msgspec.ValidationError as error:
        reason = str(error)
        raise Refusal(
            ErrorCode.INVALID_PARAMS, f"{request.method}: {_plain(reason, 'params')}", key=_key(reason, "params")
        ) from error
    except (ValueError, RecursionError) as error:
        raise Refusal(ErrorCode.INVALID_PARAMS, f"{request.method}: {error}", key="params") from error


def unknown_method(method: str) -> Refusal:
    """Say which methods there are."""
    methods = ", ".join(METHODS)
    return Refusal(
        ErrorCode.UNKNOWN_METHOD, f"there is no method {shown(method)}; there are: {methods}", methods=list(METHODS)
    )


def _key(reason: str, root: str) -> str:
    found = _PATH.search(reason)
    return root + (found[1] if found else "")


def _plain(reason: str, root: str) -> str:
    """Say ``, in params.kinds[...]`` where msgspec says ``- at `$.kinds[...]```."""
    return _PATH.sub(lambda found: f", in {root}{found[1]}", reason)
