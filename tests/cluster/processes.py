"""A Dask scheduler and workers as processes, and a count of the bytes that the former handles."""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Self

START_S = 60


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Processes:
    """A scheduler, and workers of one thread each that are added one by one."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder = folder
        self.port = free_port()
        self.address = f"tcp://127.0.0.1:{self.port}"
        self.scheduler = self._start(
            "scheduler", "--host", "127.0.0.1", "--port", self.port, "--no-dashboard",
            **environment,
        )  # fmt: skip
        self.workers: list[subprocess.Popen[bytes]] = []

    def _start(self, what: str, *arguments: object, **environment: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{what}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", f"distributed.cli.dask_{what}", *map(str, arguments)],
                stdout=log,
                stderr=log,
                env={**os.environ, **environment},
                cwd=self.folder,  # not where the tests are: paths must not hang on that
            )

    def add_worker(self, address: str | None = None, **environment: str) -> subprocess.Popen[bytes]:
        """Start a worker, which nobody starts again when it is killed."""
        worker = self._start(
            "worker", address or self.address, "--nthreads", "1", "--no-nanny", "--no-dashboard",
            "--memory-limit", "0", "--local-directory", self.folder, "--host", "127.0.0.1",
            **environment,
        )  # fmt: skip
        self.workers.append(worker)
        return worker

    def wait_until_up(self) -> None:
        """Wait for the scheduler to listen."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return
            time.sleep(0.1)
        raise AssertionError((self.folder / "scheduler.log").read_text())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait()


class Meter:
    """Hands all that comes to a port on to another and back, and counts the bytes."""

    def __init__(self, port: int) -> None:
        self.n_bytes = 0
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self._peers: dict[socket.socket, socket.socket] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._hand_on)
        self._thread.start()

    def _hand_on(self) -> None:
        while not self._ended.is_set():
            for key, _ in self._selector.select(timeout=0.1):
                if key.fileobj is self._listener:
                    self._accept()
                else:
                    self._move(key.fileobj)

    def _accept(self) -> None:
        here = self._listener.accept()[0]
        there = socket.create_connection(("127.0.0.1", self._target))
        for one, other in ((here, there), (there, here)):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._peers[one] = other
            self._selector.register(one, selectors.EVENT_READ)

    def _move(self, source: socket.socket) -> None:
        try:
            content = source.recv(1 << 16) if source in self._peers else b""
            if content:
                self.n_bytes += len(content)
                self._peers[source].sendall(content)
                return
        except OSError:
            pass
        for end in (source, self._peers.pop(source, None)):
            if end is not None and end in self._selector.get_map():
                self._peers.pop(end, None)
                self._selector.unregister(end)
                end.close()

    def close(self) -> None:
        self._ended.set()
        self._thread.join()
        for end in (*self._peers, self._listener):
            end.close()
        self._selector.close()
