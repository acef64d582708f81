"""HTTP probes, against servers of one answer."""

import socket
import threading

import pytest

from appliance.node.pods import probes


def ask(answer: bytes, timeout=5.0, **action):
    """What a probe says of a server that answers so, and what it sent."""
    heard = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            link, _ = server.accept()
            with link:
                heard.append(link.recv(65536).decode())
                for piece in answer.split(b"|"):
                    link.sendall(piece)
                if not answer:
                    over.wait(10)

        over = threading.Event()
        thread = threading.Thread(target=serve)
        thread.start()
        action = {"httpGet": {"port": server.getsockname()[1], **action}}
        said = probes.look(action, timeout, None, "c", "127.0.0.1")
        over.set()
        thread.join()
    return said, heard[0]


@pytest.mark.parametrize(
    ("answer", "wrong"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\nfine", ""),
        (b"HTTP/1.0 204 No Content\r\n\r\n", ""),
        (b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\n\r\n", ""),
        (b"HT|TP/1.1 2|00 OK\r\n\r\n", ""),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", "HTTP 404"),
        (b"HTTP/1.1 503 \r\n\r\n", "HTTP 503"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "no HTTP"),
        (b"x" * 100_000, "no HTTP"),
    ],
)
def test_a_status_from_200_to_399_is_well_and_no_other_answer(answer, wrong):
    said, _ = ask(answer)
    assert said.startswith(wrong) and bool(said) == bool(wrong)


def test_a_server_that_says_nothing_is_waited_for_no_longer_than_told():
    assert ask(b"", timeout=0.2)[0].startswith("TimeoutError")


def test_path_query_and_headers_are_sent_as_they_are_declared():
    headers = [
        {"name": "X-One", "value": "1"},
        {"name": "X-One", "value": "2"},
        {"name": "host", "value": "shop.example"},
    ]
    said, heard = ask(b"HTTP/1.1 200 OK\r\n\r\n", path="/a b/é?x=1&y=%20", httpHeaders=headers)
    assert said == ""
    lines = heard.split("\r\n")
    assert lines[0] == "GET /a%20b/%C3%A9?x=1&y=%20 HTTP/1.1"
    assert lines[1:4] == ["X-One: 1", "X-One: 2", "host: shop.example"]
    assert not any(line.startswith("Host:") for line in lines)
    assert heard.endswith("Connection: close\r\n\r\n")
