"""An S3 server in a process of its own, and a proxy before it that counts, and fails on demand."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from urllib.parse import urlsplit

import boto3
from botocore.config import Config

BUCKET = "nights"
KEYS = {"AWS_ACCESS_KEY_ID": "for-tests", "AWS_SECRET_ACCESS_KEY": "for-tests"}
_STARTING_S = 20.0

# The server says its port, and ends when its standard input does: with whoever has started it.
_SERVER = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""


@dataclass(frozen=True, slots=True)
class Request:
    """One request that has passed.

    Attributes
    ----------
    method : str
        GET, HEAD, PUT, POST, DELETE.
    key : str
        Object below the bucket; empty for a listing.
    span : str
        Range that was asked for; empty for all.
    query : str
        What follows '?'.
    sent_bytes, received_bytes : int
        Body of the request, and of the reply as far as it was passed on.
    status : int
        Of the reply; 0 for a connection that was cut.
    """

    method: str
    key: str
    span: str
    query: str
    sent_bytes: int
    received_bytes: int
    status: int


# What is to go wrong with a request: '503', 'cut' in the middle of the reply, 'drop' before it, a
# number of seconds to wait; None lets it pass. It is told method, key and how often that came.
Fault = Callable[[str, str, int], str | float | None]


@contextmanager
def s3_server() -> Iterator[str]:
    """A server with an empty bucket; gives its address."""
    quiet = {"stderr": subprocess.DEVNULL, "stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", _SERVER], text=True, **quiet) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            address = f"http://127.0.0.1:{int(process.stdout.readline())}"
            client_of(address).create_bucket(Bucket=BUCKET)
            yield address
        finally:
            process.stdin.close()
            process.terminate()


def client_of(address: str) -> boto3.client:
    """A client of another library than flatcal's, to put things there and to look at them."""
    return boto3.client(
        "s3",
        endpoint_url=address,
        region_name="us-east-1",
        aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
        config=Config(s3={"addressing_style": "path"}),
    )


def upload(address: str, folder: Path, prefix: str) -> int:
    """Put all files of a folder below a prefix; give their bytes."""
    client, total = client_of(address), 0
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            key = f"{prefix}/{path.relative_to(folder).as_posix()}"
            client.put_object(Bucket=BUCKET, Key=key, Body=content)
            total += len(content)
    return total


def download(address: str, prefix: str) -> dict[str, bytes]:
    """All objects below a prefix, by their names below it."""
    client, found = client_of(address), {}
    for page in client.get_paginator("list_objects_v2").paginate(
        Bucket=BUCKET, Prefix=f"{prefix}/"
    ):
        for entry in page.get("Contents", ()):
            body = client.get_object(Bucket=BUCKET, Key=entry["Key"])["Body"].read()
            found[entry["Key"][len(prefix) + 1 :]] = body
    return found


def environment(address: str, **config: object) -> dict[str, str]:
    """What a program needs in its environment to use the server."""
    options = {"endpoint_url": address, "config_kwargs": config}
    return {
        **os.environ,
        **KEYS,
        "AWS_DEFAULT_REGION": "us-east-1",
        "FSSPEC_S3": json.dumps(options),
    }


class Proxy(ThreadingHTTPServer):
    """Passes requests on, and keeps a list of them.

    Parameters
    ----------
    server : str
        Address of the server behind it.
    fault : callable, optional
        What is to go wrong.
    latency_s : float
        Time that each reply takes longer.

    Attributes
    ----------
    requests : list of Request
        What has passed.
    """

    daemon_threads = True
    # Many connections come at once.
    request_queue_size = 128

    def __init__(self, server: str, fault: Fault | None = None, latency_s: float = 0.0) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behind = urlsplit(server).netloc
        self.fault = fault
        self.latency_s = latency_s
        self.requests: list[Request] = []
        self.lock = Lock()
        self._seen: dict[tuple[str, str], int] = {}
        self._thread = Thread(target=self.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def __exit__(self, *failure: object) -> None:
        self.shutdown()
        self._thread.join()
        super().__exit__(*failure)

    def handle_error(self, _request: object, _address: object) -> None:
        """A client that has gone is no news."""

    @property
    def address(self) -> str:
        """Where it is reached."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def decide(self, method: str, key: str) -> str | float | None:
        """What goes wrong with a request that comes now."""
        with self.lock:
            times = self._seen[method, key] = self._seen.get((method, key), 0) + 1
        return None if self.fault is None else self.fault(method, key, times)

    def of(self, method: str, part: str = "") -> list[Request]:
        """Requests of a method whose keys hold a text."""
        return [r for r in self.requests if r.method == method and part in r.key]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy
    # Otherwise header and body of a reply wait for one another.
    wbufsize = -1
    disable_nagle_algorithm = True

    def log_message(self, *_args: object) -> None:
        """Say nothing."""

    def handle_expect_100(self) -> bool:
        """Ask for the body at once: what is written waits in a buffer otherwise."""
        answer = super().handle_expect_100()
        self.wfile.flush()
        return answer

    def do_any(self) -> None:
        path, _, query = self.path.partition("?")
        key = path.removeprefix(f"/{BUCKET}").lstrip("/")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self.server.decide(self.command, key)
        status, received = 0, 0
        if isinstance(fault, float):
            time.sleep(fault)
        if fault == "503":
            status, received = self._reply_busy()
        elif fault == "drop":
            self.close_connection = True
        else:
            time.sleep(self.server.latency_s)
            status, received = self._pass_on(body, cut=fault == "cut")
        with self.server.lock:
            self.server.requests.append(
                Request(
                    self.command, key, self.headers.get("Range", ""), query,
                    len(body), received, status,
                )
            )  # fmt: skip

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_any  # noqa: N815

    def _pass_on(self, body: bytes, *, cut: bool) -> tuple[int, int]:
        connection = http.client.HTTPConnection(self.server.behind, timeout=60)
        try:
            connection.request(self.command, self.path, body, dict(self.headers.items()))
            reply = connection.getresponse()
            content = reply.read()
        finally:
            connection.close()
        headers = {
            name: value for name, value in reply.headers.items() if name.lower() != "connection"
        }
        if self.command != "HEAD":
            headers.pop("Transfer-Encoding", None)
            headers["Content-Length"] = str(len(content))
        self._start(reply.status, headers)
        passed = content[: len(content) // 2] if cut else content
        self.wfile.write(passed)
        self.wfile.flush()
        if cut:
            self.close_connection = True
            self.connection.close()
        return reply.status, len(passed)

    def _reply_busy(self) -> tuple[int, int]:
        content = b"<Error><Code>SlowDown</Code><Message>reduce your request rate</Message></Error>"
        self._start(503, {"Content-Type": "application/xml", "Content-Length": str(len(content))})
        if self.command != "HEAD":
            self.wfile.write(content)
        return 503, len(content)

    def _start(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
