"""A client's bytes to a request, or to the reason why they are none."""

from __future__ import annotations

import msgspec
import pytest

from marketd.gateway.decode import Refusal, decode_params, decode_request, unknown_method
from marketd.rpc.messages import ErrorCode, PingParams, Request, SubscribeParams

encode = msgspec.msgpack.encode


def refusal(payload: bytes) -> Refusal:
    with pytest.raises(Refusal) as caught:
        decode_request(payload)
    return caught.value


def test_request_is_read() -> None:
    request = decode_request(encode({"id": 1, "method": "ping", "params": {"payload": "x"}, "deadline_ms": 5}))
    assert request is not None
    assert (request.id, request.method, request.deadline_ms) == (1, "ping", 5)
    assert decode_params(request) == PingParams("x")


def test_params_may_be_left_out() -> None:
    request = decode_request(encode({"id": "a", "method": "ping"}))
    assert request is not None
    assert decode_params(request) == PingParams()


@pytest.mark.parametrize("more", [{}, {"params": {}}, {"jsonrpc": "2.0"}])
def test_heartbeat_needs_no_answer(more: dict) -> None:
    assert decode_request(encode({"method": "heartbeat"} | more)) is None


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc1",
        b"\x81",
        b"\x82\xa2id\x01",
        b"\x81\xa6method\xa2\xff\xfe",
        b"\x81\xa1x" + b"\x91" * 100_000,
        b"\xff" * 20,
        encode({"id": 1, "method": "ping"}) + b"more",
    ],
)
def test_what_is_no_messagepack_can_not_be_followed_by_anything_trusted(payload: bytes) -> None:
    found = refusal(payload)
    assert found.code in (ErrorCode.PARSE_ERROR, ErrorCode.INVALID_REQUEST)
    assert found.closing == (found.code is ErrorCode.PARSE_ERROR)


@pytest.mark.parametrize(
    ("message", "request_id", "key"),
    [
        ({"method": "ping"}, None, "request"),
        ({"id": None, "method": "ping"}, None, "request.id"),
        ({"id": 1.5, "method": "ping"}, None, "request.id"),
        ({"id": True, "method": "ping"}, None, "request.id"),
        ({"id": [1], "method": "ping"}, None, "request.id"),
        ({"id": 7}, 7, "request"),
        ({"id": 7, "method": 1}, 7, "request.method"),
        ({"id": "x", "method": "ping", "deadline_ms": 0}, "x", "request.deadline_ms"),
        ({"id": "x", "method": "ping", "deadline_ms": "5"}, "x", "request.deadline_ms"),
        ({"id": 1, "method": "ping", "jsonrpc": 2}, 1, "request.jsonrpc"),
        ([1, "ping"], None, "request"),
        (5, None, "request"),
    ],
)
def test_what_is_no_request_is_answered_with_its_id_if_it_has_one(
    message: object, request_id: object, key: str
) -> None:
    found = refusal(encode(message))
    assert found.code is ErrorCode.INVALID_REQUEST
    assert not found.closing
    assert found.request_id == request_id
    assert found.data["key"] == key
    assert "a request is a map with id" in str(found)


def test_wrong_parameter_is_named_with_its_path() -> None:
    request = Request(1, "subscribe", msgspec.Raw(encode({"instruments": ["a.b", 5]})))
    with pytest.raises(Refusal) as caught:
        decode_params(request)
    assert caught.value.code is ErrorCode.INVALID_PARAMS
    assert caught.value.data["key"] == "params.instruments[1]"
    assert str(caught.value) == "subscribe: Expected `str`, got `int`, in params.instruments[1]"


@pytest.mark.parametrize("params", [b"\x81\xa6client\xa2\xff\xfe", b"\x91" * 50_000, b"\xc0", b"\x93\x01\x02\x03"])
def test_parameters_that_are_no_map_or_no_text_are_refused(params: bytes) -> None:
    with pytest.raises(Refusal) as caught:
        decode_params(Request(1, "hello", msgspec.Raw(params)))
    assert caught.value.code is ErrorCode.INVALID_PARAMS
    assert caught.value.data["key"].startswith("params")


def test_misspelt_parameter_is_an_error() -> None:
    with pytest.raises(Refusal, match="instrumets"):
        decode_params(Request(1, "subscribe", msgspec.Raw(encode({"instrumets": ["a.b"]}))))


@pytest.mark.parametrize("rate_hz", [float("nan"), float("inf"), 0, -1, 1e9])
def test_rate_that_is_no_rate_is_refused(rate_hz: float) -> None:
    with pytest.raises(Refusal, match="rate_hz"):
        decode_params(Request(1, "subscribe", msgspec.Raw(encode({"instruments": ["*"], "rate_hz": rate_hz}))))


def test_defaults_are_those_of_the_protocol() -> None:
    found = decode_params(Request(1, "subscribe", msgspec.Raw(encode({"instruments": ["*"]}))))
    assert found == SubscribeParams(["*"])


def test_unknown_method_lists_the_known_ones_and_shortens_the_unknown() -> None:
    found = unknown_method("x" * 10_000)
    assert "subscribe" in str(found)
    assert len(str(found)) < 400
