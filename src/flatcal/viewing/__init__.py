"""A local page to step through the frames of a run at full resolution, and to overrule them."""

from flatcal.viewing.frames import Viewer
from flatcal.viewing.server import make_server

__all__ = ["Viewer", "make_server"]
