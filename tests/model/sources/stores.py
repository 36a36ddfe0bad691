"""Real servers of the stores' protocols, and clients that fill them."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from uuid import uuid4
from xml.sax.saxutils import escape

import fsspec
import httpx
from gcp_storage_emulator.server import create_server
from moto.server import ThreadedMotoServer

LOCALHOST = "127.0.0.1"
MEMORY = fsspec.filesystem("memory")


class Bucket:
    """The directory `resnet` of the bucket `models`, with its own client."""

    def __init__(self, scheme: str, **options: Any) -> None:
        self.url = f"{scheme}://models/resnet"
        self.options = options
        self._files = fsspec.filesystem(scheme, **options, skip_instance_cache=True)
        if scheme == "s3":
            self._files.mkdir("models")

    def put(self, path: str, content: bytes) -> None:
        self._files.pipe_file(f"models/resnet/{path}", content)

    def put_odd(self, key: str) -> None:
        """Writes an S3 object whose key is not a valid file name."""
        self._files.call_s3("put_object", Bucket="models", Key=f"resnet/{key}", Body=b"")

    def remove(self, path: str) -> None:
        self._files.rm_file(f"models/resnet/{path}")


class Memory:
    """A directory of versions in the memory of this process."""

    def __init__(self) -> None:
        self._root = f"/{uuid4().hex}/resnet"
        self.url = f"memory:/{self._root}"

    def put(self, path: str, content: bytes = b"<net/>") -> None:
        MEMORY.pipe_file(f"{self._root}/{path}", content)

    def remove(self, path: str = "") -> None:
        MEMORY.rm(f"{self._root}/{path}".rstrip("/"), recursive=True)


class Denying(ThreadingHTTPServer):
    """Refuses every request, and repeats it in the answer."""

    def __init__(self) -> None:
        super().__init__((LOCALHOST, 0), _Denial)


class _Denial(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        code = "<Error><Code>AccessDenied</Code>"
        asked = f"<Message>{escape(str(self.headers))}</Message></Error>"
        body = (code + asked).encode()
        self.send_response(403)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def denying_server() -> Iterator[str]:
    with Denying() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://{LOCALHOST}:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def s3_server() -> Iterator[str]:
    """Starts an S3 server without buckets; yields its endpoint."""
    server = ThreadedMotoServer(LOCALHOST, 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    try:
        # Buckets belong to the process, not to its server.
        httpx.post(f"{endpoint}/moto-api/reset", trust_env=False).raise_for_status()
        yield endpoint
    finally:
        server.stop()
        assert server._server is not None
        server._server.server_close()


@contextmanager
def google_server() -> Iterator[str]:
    """Starts a Google Cloud Storage server with the bucket `models`; yields its endpoint."""
    logging.getLogger("gcp_storage_emulator").setLevel(logging.ERROR)
    server = create_server(LOCALHOST, 0, in_memory=True, default_bucket="models")
    server.start()
    try:
        yield f"http://{LOCALHOST}:{server._api._httpd.server_address[1]}"
    finally:
        server.stop()
        threading.Thread.join(server._api)  # its own `join` does not wait
