"""Real frames: beside the project in ``shared/data``, or where FLATCAL_DATA points."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_folder() -> Path:
    default = Path(__file__).parents[3] / "shared" / "data"
    folder = Path(os.environ.get("FLATCAL_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"real frames are not at {folder} (set FLATCAL_DATA)")
    return folder
