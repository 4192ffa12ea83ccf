"""The web server of the viewer, for this machine alone."""

from __future__ import annotations

import json
import secrets
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from markupsafe import Markup

from flatcal.errors import FlatcalError
from flatcal.report.drawing import bokeh_script
from flatcal.report.html import page_environment, page_part
from flatcal.text import readable
from flatcal.viewing.frames import Viewer

_HOST: Final = "127.0.0.1"
_MOST_BYTES: Final = 1 << 16


class ViewServer(ThreadingHTTPServer):
    """Serves one run on the loopback interface.

    Parameters
    ----------
    viewer : Viewer
        The run.
    port : int
        0 takes a free one.
    """

    daemon_threads = True

    def __init__(self, viewer: Viewer, port: int) -> None:
        super().__init__((_HOST, port), _Handler)
        self.viewer = viewer
        # A page of another site cannot read it, so it cannot overrule frames.
        self.token = secrets.token_urlsafe(16)

    @property
    def url(self) -> str:
        """Address of the page."""
        return f"http://{_HOST}:{self.server_address[1]}/"


def make_server(viewer: Viewer, port: int = 0) -> ViewServer:
    """A server that waits for `serve_forever`.

    Raises
    ------
    OSError
        When the port is taken.
    """
    return ViewServer(viewer, port)


class _Handler(BaseHTTPRequestHandler):
    server: ViewServer

    def do_GET(self) -> None:
        """The page, the list of frames, or a part of an image."""
        if not self._is_for_us():
            return
        address = urlsplit(self.path)
        asked = {name: values[0] for name, values in parse_qs(address.query).items()}
        if address.path == "/":
            self._send(HTTPStatus.OK, self._page().encode(), "text/html; charset=utf-8")
        elif address.path == "/frames":
            self._send_json(HTTPStatus.OK, self.server.viewer.frames())
        elif address.path == "/region":
            self._try(lambda: self._send_region(asked))
        else:
            self._send_json(HTTPStatus.NOT_FOUND, {"error": "there is no such page"})

    def do_POST(self) -> None:
        """Overrule a frame."""
        if not self._is_for_us():
            return
        token = self.headers.get("X-Flatcal-Token", "")
        n_bytes = int(self.headers.get("Content-Length", "0"))
        if not secrets.compare_digest(token, self.server.token) or n_bytes > _MOST_BYTES:
            self._send_json(HTTPStatus.FORBIDDEN, {"error": "reload the page"})
            return
        content = json.loads(self.rfile.read(n_bytes))
        file, leave_out = str(content["file"]), bool(content["leave_out"])
        self._try(
            lambda: self._send_json(
                HTTPStatus.OK,
                {"told": readable(self.server.viewer.overrule(file, leave_out=leave_out))},
            )
        )

    def _is_for_us(self) -> bool:
        """Refuse names that lead here by a trick of the name server."""
        port = self.server.server_address[1]
        if self.headers.get("Host") in (f"{_HOST}:{port}", f"localhost:{port}"):
            return True
        self._send_json(HTTPStatus.FORBIDDEN, {"error": f"ask for {self.server.url}"})
        return False

    def _try(self, answer: Any) -> None:
        try:
            answer()
        except FlatcalError as error:
            self._send_json(HTTPStatus.CONFLICT, {"error": readable(str(error))})
        except (KeyError, ValueError) as error:
            self._send_json(HTTPStatus.BAD_REQUEST, {"error": readable(f"not understood: {error}")})

    def _send_region(self, asked: dict[str, str]) -> None:
        sides = [_side(asked, name) for name in ("y", "x")]
        region = self.server.viewer.region(asked["file"], asked["stage"], *sides)
        about = {
            "shape": region.values.shape,
            "block": region.block,
            "first": (region.first_x, region.first_y),
            "whole": region.shape,
            "unit": region.unit,
            "marks": [],
        }
        content = region.values.astype("<f4").tobytes()
        self._send(HTTPStatus.OK, content, "application/octet-stream", json.dumps(about))

    def _page(self) -> str:
        return (
            page_environment()
            .from_string(page_part("view.html"))
            .render(
                title=str(self.server.viewer.out),
                token=self.server.token,
                part=page_part,
                bokeh=Markup(bokeh_script()),
            )
        )

    def _send_json(self, status: HTTPStatus, content: Any) -> None:
        self._send(status, json.dumps(content).encode(), "application/json")

    def _send(self, status: HTTPStatus, content: bytes, kind: str, about: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        if about:
            self.send_header("X-Flatcal-Region", about)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (http.server's name)
        """Say nothing of each request."""


def _side(asked: dict[str, str], axis: str) -> slice | None:
    if f"{axis}0" not in asked:
        return None
    return slice(int(asked[f"{axis}0"]), int(asked[f"{axis}1"]))
