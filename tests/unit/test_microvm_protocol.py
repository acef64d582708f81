"""Frames between host and guest."""

import pytest

from appliance.node.microvm import protocol


def test_frames_survive_being_cut_anywhere():
    data = protocol.frame(protocol.STDOUT, 7, b"one") + protocol.message(protocol.EXIT, 8, {"code": 3})
    for step in range(1, len(data) + 1):
        decoder = protocol.Decoder(protocol.FROM_GUEST)
        frames = [f for i in range(0, len(data), step) for f in decoder.feed(data[i : i + step])]
        assert frames == [(protocol.STDOUT, 7, b"one"), (protocol.EXIT, 8, b'{"code": 3}')]


def test_credit_is_read_back_as_written():
    ((kind, stream, payload),) = protocol.Decoder(protocol.FROM_GUEST).feed(protocol.credit(5, 70000))
    assert (kind, stream, protocol.credit_of(payload)) == (protocol.CREDIT, 5, 70000)


@pytest.mark.parametrize("data", [b"HTTP/1.1 200 OK\r\n", protocol.HEADER.pack(protocol.STDOUT, 1, 2**31)])
def test_what_is_no_frame_is_refused_before_it_fills_memory(data):
    with pytest.raises(protocol.ProtocolError):
        list(protocol.Decoder(protocol.FROM_GUEST).feed(data))


@pytest.mark.parametrize(
    "kind, payload",
    [
        (protocol.CALL, b"{}"),  # a guest calls nobody
        (protocol.HANGUP, b""),
        (protocol.STDOUT, bytes(protocol.CHUNK + 1)),
        (protocol.CREDIT, b"\0\0\0"),
        (protocol.CREDIT, b"\0\0\0\0\0"),
        (protocol.EXIT, b'{"code": 0, "x": "' + b"x" * 2000 + b'"}'),
    ],
)
def test_a_guest_cannot_send_what_only_the_host_sends_nor_what_is_too_long_or_too_short(kind, payload):
    with pytest.raises(protocol.ProtocolError):
        list(protocol.Decoder(protocol.FROM_GUEST).feed(protocol.frame(kind, 1, payload)))


@pytest.mark.parametrize("payload", [b"\xff\xfe", b"[1]", b'{"ok": 1}', b'{"ok": false}', b'{"ok": false, "error": 5}',
                                     b'{"a":' + b"[" * 100_000, b"{}"])  # fmt: skip
def test_a_reply_is_a_success_or_an_error_or_not_believed(payload):
    with pytest.raises(protocol.ProtocolError):
        protocol.reply_of(payload)


@pytest.mark.parametrize("code", ["99999", "256", "-1", '"0"', "true", "null", "0.0", "1e999"])
def test_an_exit_has_a_code_that_a_process_can_end_with(code):
    with pytest.raises(protocol.ProtocolError):
        protocol.exit_of(b'{"code": %s}' % code.encode())
    assert protocol.exit_of(b'{"code": 255}')["code"] == 255


def test_an_error_of_the_guest_is_short_and_cannot_forge_lines_of_a_terminal():
    error = protocol.reply_of(b'{"ok": false, "error": "\\u001b[2Jx' + b"y" * 10000 + b'"}')["error"]
    assert error.startswith("?[2Jx") and len(error) == protocol.MAX_ERROR
