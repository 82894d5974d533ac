"""A web server of a folder on the loopback interface: ranges, tags and pages that list folders.

`python file_server.py FOLDER PORT` serves until it is killed.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote, unquote


class FileServer(ThreadingHTTPServer):
    """Serves `folder`; remembers what was asked for."""

    daemon_threads = True

    def __init__(self, folder: Path, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.folder = folder
        self.sent: list[tuple[str, int]] = []
        """Path and number of bytes of each body sent of a file."""
        self.requests: list[tuple[str, str]] = []
        """Method and path of each request."""
        self.refusals: dict[str, int] = {}
        """Paths that are answered with this status."""
        self.password: str | None = None
        """What a request has to have as its authorization."""
        self.has_ranges = True
        self.has_tags = True
        self.cut_after: int | None = None
        """Bytes of a body after which the connection is closed."""

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients may go away."""

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def bytes_sent(self) -> int:
        """Of files, in all."""
        return sum(size for _, size in self.sent)


@contextmanager
def serving(folder: Path) -> Iterator[FileServer]:
    """A server in a thread of this process."""
    with FileServer(folder) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FileServer

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def _answer(self, with_body: bool) -> None:
        self.server.requests.append((self.command, self.path))
        if self._is_refused():
            return
        path = self._file()
        if path.is_dir():
            links = "".join(
                f'<a href="{quote(p.name)}{"/" * p.is_dir()}">{p.name}</a>\n' for p in sorted(path.iterdir())
            )
            self._send(HTTPStatus.OK, f"<html>{links}</html>".encode(), {"Content-Type": "text/html"}, with_body)
        elif path.is_file():
            self._send_file(path, with_body)
        else:
            self._send(HTTPStatus.NOT_FOUND, b"")

    def _send_file(self, path: Path, with_body: bool) -> None:
        content = path.read_bytes()
        tag = f'"{path.stat().st_mtime_ns:x}"'
        headers = {"Accept-Ranges": "bytes", "ETag": tag} if self.server.has_tags else {}
        headers |= {"Last-Modified": self.date_time_string(int(path.stat().st_mtime))}
        if self.headers.get("If-Match", tag) != tag:
            self._send(HTTPStatus.PRECONDITION_FAILED, b"")
            return
        status, asked = HTTPStatus.OK, self.headers.get("Range")
        if asked and self.server.has_ranges:
            first, last = (int(number) for number in asked.removeprefix("bytes=").split("-"))
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            status, content = HTTPStatus.PARTIAL_CONTENT, content[first : last + 1]
        if with_body:
            self.server.sent.append((self.path, len(content)))
        self._send(status, content, headers, with_body)

    def _is_refused(self) -> bool:
        status = self.server.refusals.get(self.path)
        if self.server.password is not None and self.headers.get("Authorization") != self.server.password:
            status = HTTPStatus.UNAUTHORIZED
        if status is not None:
            self._send(HTTPStatus(status), b"")
        return status is not None

    def _send(self, status: HTTPStatus, body: bytes, headers: dict[str, str] | None = None, full: bool = True) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if full and self.command != "HEAD":
            cut = self.server.cut_after
            self.wfile.write(body if cut is None else body[:cut])
            self.close_connection = cut is not None

    def _file(self) -> Path:
        return self.server.folder / unquote(self.path).lstrip("/")

    def log_message(self, *args: object) -> None:
        pass


if __name__ == "__main__":
    FileServer(Path(sys.argv[1]), int(sys.argv[2])).serve_forever(poll_interval=0.02)
