"""A release of EdgeCore as its project packs it, and the server that hosts fetch it from."""

import functools
import hashlib
import http.server
import io
import os
import sys
import tarfile
import threading
from pathlib import Path

STANDIN = Path(__file__).with_name("edgecore")
VERSION = "v1.23.1"


def make(directory: Path, version: str = VERSION, change: str = "") -> Path:
    """The release's archive, of the stand-in or of the binary that CASEMATE_EDGECORE names.

    `change` are lines of Python for the stand-in's beginning.
    """
    real = os.environ.get("CASEMATE_EDGECORE")
    program = Path(real).read_bytes() if real else STANDIN.read_bytes()
    if not real:
        program = program.replace(f'VERSION = "{VERSION}"'.encode(), f'VERSION = "{version}"'.encode())
        first, _, rest = program.partition(b"\n")
        program = first + b"\n" + change.encode() + b"\n" + rest
    top = f"kubeedge-{version}-linux-amd64"
    archive = directory / f"{top}.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        # as in the real one there is more than what is wanted
        for name, content in (
            (f"{top}/cloud/cloudcore/cloudcore", b"not wanted"),
            (f"{top}/edge/edgecore", program),
            (f"{top}/version", version.encode()),
        ):
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), 0o755
            tar.addfile(info, io.BytesIO(content))
    return archive


def checksum(archive: Path) -> str:
    """As edge_checksum wants it."""
    return f"sha512:{hashlib.sha512(archive.read_bytes()).hexdigest()}"


class Server:
    """Serves a directory's files at `address`.

    `served` are the requests; each answer ends after `cut` bytes where that is not 0.
    """

    def __init__(self, address: str, directory: Path) -> None:
        self.served: list[str] = []
        self.cut = 0
        server = self

        class Handler(http.server.SimpleHTTPRequestHandler):
            def do_GET(self) -> None:
                server.served.append(f"{self.path} {self.headers.get('Range', '')}".strip())
                file = Path(self.translate_path(self.path))
                if not file.is_file():
                    self.send_error(404)
                    return
                content = file.read_bytes()
                begin = int(self.headers.get("Range", "bytes=0-")[6:-1])
                self.send_response(206 if begin else 200)
                self.send_header("Content-Length", str(len(content) - begin))
                self.end_headers()
                self.wfile.write(content[begin : begin + server.cut] if server.cut else content[begin:])

            def log_message(self, *_args: object) -> None:
                pass

        handler = functools.partial(Handler, directory=str(directory))
        self._http = http.server.ThreadingHTTPServer((address, 0), handler)
        self.url = f"http://{address}:{self._http.server_address[1]}"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._http.shutdown()
        self._http.server_close()


def main() -> None:
    """`python -m tests.standins.release DIRECTORY`: the archive, and its SHA-256 beside it."""
    archive = make(Path(sys.argv[1]))
    Path(f"{archive}.sha256").write_text(hashlib.sha256(archive.read_bytes()).hexdigest())


if __name__ == "__main__":
    main()
