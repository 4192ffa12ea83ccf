"""A night that can be calibrated throughout, with what an undisturbed run makes of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from kills import contents
from nights import SETTINGS

from flatcal.engine.run import run_plan
from flatcal.plan import Plan
from flatcal.planning import build_plan
from flatcal.recipe import parse_config

# Several bands of rows to a frame, so that much can happen between two reads.
SHAPE = (900, 640)
LEVELS = {"BIAS": (0.0, 1000), "DARK": (60.0, 1060), "FLAT": (2.0, 20_000), "LIGHT": (60.0, 3000)}


class Undisturbed(NamedTuple):
    """A night that all tests share, not to be changed."""

    raw: Path
    plan: Plan
    wanted: dict[str, bytes]


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, put_frame: Any) -> Undisturbed:
    """Three frames of each kind, and what is made of them."""
    folder = tmp_path_factory.mktemp("undisturbed")
    rng = np.random.default_rng(7)
    for kind, (exposure, level) in LEVELS.items():
        for n in range(3):
            data = rng.normal(level, 10, SHAPE).astype(np.uint16)
            path = folder / "raw" / f"{kind.lower()}{n}.fits"
            put_frame(path, kind, exposure, data, BUNIT="adu", FILTER="V")
            # Long ago, so that a change, also of a copy, tells by its time on a coarse clock too.
            os.utime(path, ns=(10**18, 10**18))
    plan = build_plan(folder / "raw", parse_config(SETTINGS, "night.toml"))
    assert not plan.refused
    run_plan(plan, folder / "out", jobs=2)
    return Undisturbed(folder / "raw", plan, contents(folder / "out"))
