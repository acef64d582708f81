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
