"""Real servers of the stores' protocols, and a way to fill each."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import fsspec
import httpx
from gcp_storage_emulator.server import create_server
from moto.server import ThreadedMotoServer

LOCALHOST = "127.0.0.1"


class S3:
    """moto's S3."""

    url = "s3://models/resnet"

    def __init__(self, endpoint: str) -> None:
        self.options: dict[str, Any] = {"endpoint_url": endpoint}
        self._files = fsspec.filesystem("s3", **self.options)
        self._files.mkdir("models")

    def put(self, path: str, content: bytes) -> None:
        self._files.pipe_file(f"models/resnet/{path}", content)

    def remove(self, path: str) -> None:
        self._files.rm_file(f"models/resnet/{path}")


class GoogleStorage:
    """An emulator of Google Cloud Storage's JSON API."""

    url = "gs://models/resnet"

    def __init__(self, endpoint: str) -> None:
        self.options: dict[str, Any] = {"endpoint_url": endpoint, "token": "anon"}
        self._client = httpx.Client(base_url=endpoint, trust_env=False)

    def put(self, path: str, content: bytes) -> None:
        where = {"uploadType": "media", "name": f"resnet/{path}"}
        url = "/upload/storage/v1/b/models/o"
        self._client.post(url, params=where, content=content).raise_for_status()

    def remove(self, path: str) -> None:
        url = f"/storage/v1/b/models/o/resnet%2F{path.replace('/', '%2F')}"
        self._client.delete(url).raise_for_status()

    def close(self) -> None:
        self._client.close()


class Denying(ThreadingHTTPServer):
    """Refuses everybody, and repeats what it was asked with."""

    def __init__(self) -> None:
        super().__init__((LOCALHOST, 0), _Denial)


class _Denial(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        code = "<Error><Code>AccessDenied</Code>"
        asked = f"<Message>{self.headers} {self.path}</Message></Error>"
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
    """The endpoint of an S3 without buckets."""
    server = ThreadedMotoServer(LOCALHOST, 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    try:
        # Buckets belong to the process and not to its server.
        httpx.post(f"{endpoint}/moto-api/reset", trust_env=False).raise_for_status()
        yield endpoint
    finally:
        server.stop()
        assert server._server is not None
        server._server.server_close()


@contextmanager
def google_server() -> Iterator[str]:
    """The endpoint of a Google Cloud Storage with the bucket `models`."""
    logging.getLogger("gcp_storage_emulator").setLevel(logging.ERROR)
    server = create_server(LOCALHOST, 0, in_memory=True, default_bucket="models")
    server.start()
    try:
        yield f"http://{LOCALHOST}:{server._api._httpd.server_address[1]}"
    finally:
        server.stop()
        threading.Thread.join(server._api)  # its own `join` does not wait
