"""A server of files that misbehaves on demand."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from deployments.model.sources.download import RemoteFile

XML = b"<net/>" * 50
BIN = bytes(range(256)) * 4000


class Server(ThreadingHTTPServer):
    """Serves `bodies`; can redirect, truncate or pause a path, or omit its content length."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.bodies = {"/m.xml": XML, "/m.bin": BIN}
        self.redirects: dict[str, str] = {}
        self.cut: set[str] = set()
        self.unannounced: set[str] = set()
        self.requests: list[str] = []
        self.asked = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"

    def file(self, path: str) -> RemoteFile:
        return RemoteFile(self.url(path), hashlib.sha384(self.bodies[path]).hexdigest())

    @property
    def pair(self) -> list[RemoteFile]:
        return [self.file("/m.xml"), self.file("/m.bin")]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, path = self.server, self.path
        server.requests.append(path)
        server.asked.set()
        assert server.go_on.wait(30)
        if path in server.redirects:
            self.send_response(302)
            self.send_header("location", server.redirects[path])
            self.end_headers()
        elif path not in server.bodies:
            self.send_error(404)
        else:
            body = server.bodies[path]
            self.send_response(200)
            if path not in server.unannounced:
                self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if path in server.cut else body)

    def log_message(self, *_: object) -> None:
        pass
