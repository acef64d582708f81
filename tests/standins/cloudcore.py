"""A stand-in for KubeEdge's CloudCore: the part of it that a host meets when it joins, and stays connected to.

Certificates at one port (/ca.crt, /edge.crt, /node/NAME), messages at another, over TLS with a client certificate. The
messages are lines of JSON, and mean something to the stand-in of EdgeCore alone.
"""

import base64
import contextlib
import hashlib
import hmac
import http.server
import json
import socket
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path


class CloudCore:
    """Serves at `address` from `start` to `stop`; made anew with the same directory it is the same cloud.

    `nodes` are the names it has registered, `connected` those that are there now, `asked` the paths it was asked for.
    """

    def __init__(self, address: str, directory: Path) -> None:
        self.address, self.directory = address, directory
        self.nodes: set[str] = set()
        self.connected: set[str] = set()
        self.asked: list[str] = []
        self.pods: list[dict] = []
        self.registers = True
        self.date_offset = 0.0
        self.port = self.https_port = 0
        self._key = b"signs tokens"
        self._streams: set[ssl.SSLSocket] = set()
        directory.mkdir(parents=True, exist_ok=True)
        if not (directory / "ca.crt").exists():
            self._make_certificates()

    # who it is

    def _make_certificates(self) -> None:
        ca = ["-x509", "-subj", "/CN=KubeEdge", "-days", "30", "-addext", "basicConstraints=critical,CA:TRUE"]
        self._openssl("req", *_NEW_KEY, *ca, "-keyout", "ca.key", "-out", "ca.crt")
        self._openssl("req", *_NEW_KEY, "-subj", "/CN=cloudcore", "-keyout", "server.key", "-out", "server.csr")
        (self.directory / "server.ext").write_text(f"subjectAltName=IP:{self.address}\n")
        self._openssl("x509", "-req", "-in", "server.csr", *_SIGN, "-extfile", "server.ext", "-out", "server.crt")

    def _openssl(self, *words: str) -> None:
        subprocess.run(["openssl", *words], cwd=self.directory, check=True, capture_output=True)

    @property
    def ca_hash(self) -> str:
        return hashlib.sha256(self._ca).hexdigest()

    @property
    def addresses(self) -> dict[str, str]:
        """As /etc/casemate/edge.json says them."""
        cloud, https = (f"{self.address}:{port}" for port in (self.port, self.https_port))
        return {"cloud": cloud, "cloud_https": https, "cloud_ca": self.ca_hash}

    @property
    def _ca(self) -> bytes:
        return ssl.PEM_cert_to_DER_cert((self.directory / "ca.crt").read_text())

    def token(self, seconds: float = 3600) -> str:
        """A token that is good for so long."""
        head = _base64(json.dumps({"alg": "HS256", "typ": "JWT"}).encode())
        body = _base64(json.dumps({"exp": int(time.time() + seconds)}).encode())
        signature = _base64(hmac.digest(self._key, f"{head}.{body}".encode(), "sha256"))
        return f"{self.ca_hash}.{head}.{body}.{signature}"

    def _accepts(self, jwt: str) -> bool:
        head, _, rest = jwt.partition(".")
        body, _, signature = rest.partition(".")
        if signature != _base64(hmac.digest(self._key, f"{head}.{body}".encode(), "sha256")):
            return False
        return json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))["exp"] > time.time()

    # serving

    def start(self) -> "CloudCore":
        cloud = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                cloud.asked.append(self.path)
                code, content = cloud._answer(self.path, self.headers, self.rfile)
                self.send_response_only(code)
                self.send_header("Date", self.date_time_string(time.time() + cloud.date_offset))
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_args: object) -> None:
                pass

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.directory / "server.crt", self.directory / "server.key")
        self._https = http.server.ThreadingHTTPServer((self.address, self.https_port), Handler)
        self._https.socket = context.wrap_socket(self._https.socket, server_side=True, do_handshake_on_connect=False)
        self.https_port = self._https.server_address[1]

        members = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        members.load_cert_chain(self.directory / "server.crt", self.directory / "server.key")
        members.load_verify_locations(self.directory / "ca.crt")
        members.verify_mode = ssl.CERT_REQUIRED
        self._messages = socket.create_server((self.address, self.port))
        self.port = self._messages.getsockname()[1]
        for work in (self._https.serve_forever, lambda: self._accept(members)):
            threading.Thread(target=work, daemon=True).start()
        return self

    def stop(self) -> None:
        """Be gone: both ports refuse, connections are cut."""
        self._https.shutdown()
        self._https.server_close()
        with contextlib.suppress(OSError):
            self._messages.shutdown(socket.SHUT_RDWR)
        self._messages.close()
        for stream in list(self._streams):
            with contextlib.suppress(OSError):
                stream.shutdown(socket.SHUT_RDWR)

    def _answer(self, path: str, headers, body) -> tuple[int, bytes]:
        if path == "/ca.crt":
            return 200, self._ca
        if path == "/edge.crt":
            if not self._accepts(headers.get("authorization", "").removeprefix("Bearer ")):
                return 401, b"Invalid authorization token"
            request = body.read(int(headers["Content-Length"]))
            options = ["-req", "-inform", "DER", *_SIGN, "-outform", "DER"]
            words = ["openssl", "x509", *options]
            done = subprocess.run(words, cwd=self.directory, input=request, check=True, capture_output=True)
            return 200, done.stdout
        if path.startswith("/node/"):
            return (200, b"{}") if path.removeprefix("/node/") in self.nodes else (404, b"not found")
        return 404, b"not found"

    def _accept(self, context: ssl.SSLContext) -> None:
        while True:
            try:
                plain, _ = self._messages.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(context, plain), daemon=True).start()

    def _serve(self, context: ssl.SSLContext, plain: socket.socket) -> None:
        with contextlib.suppress(OSError), context.wrap_socket(plain, server_side=True) as stream:
            node = stream.makefile("r").readline().split("/")[2]
            self._streams.add(stream)
            if self.registers:
                self.nodes.add(node)
            self.connected.add(node)
            try:
                while True:
                    message = {"registered": node in self.nodes, "pods": self.pods}
                    stream.sendall(json.dumps(message).encode() + b"\n")
                    time.sleep(1)
            finally:
                self.connected.discard(node)
                self._streams.discard(stream)


_NEW_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
_SIGN = ["-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "20"]


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def main() -> None:
    """`cloudcore.py ADDRESS DIRECTORY`: serve at CloudCore's own ports, with a token in DIRECTORY/token."""
    cloud = CloudCore(sys.argv[1], Path(sys.argv[2]).resolve())
    cloud.port, cloud.https_port = 10000, 10002
    cloud.start()
    token = cloud.directory / "token"
    token.touch(mode=0o600)
    token.write_text(cloud.token(24 * 3600))
    threading.Event().wait()


if __name__ == "__main__":
    main()
