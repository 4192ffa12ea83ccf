"""Nights and frames that several test files share."""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import settings

from flatcal.simulate import NightTruth, simulate_night

# No test may fail because the machine was busy.
settings.register_profile("flatcal", deadline=None)
settings.load_profile("flatcal")

# Settings of the simulated cameras at a quarter of their size, written out so that the tests do
# not take them from the code that they test.
LFC_SETTINGS = """\
[camera]
overscan_section = "[520:544,1:1032]"
trim_section = "[1:512,1:1032]"
gain_electron_per_adu = 2.0
read_noise_electron = 11.0
"""
CG16M_SETTINGS = """\
[camera]
overscan_section = "none"
trim_section = "[1:1024,1:1024]"
gain_electron_per_adu = 1.5
read_noise_electron = 10.0
"""


def _shot_variance(light, photon, read, share=1.0):
    """The rule of docs/outputs.md for the light whose shot noise counts, in numpy."""
    near = light.copy()
    near[:, 1:-1] = (light[:, :-2] + light[:, 2:]) / 2
    variance = np.maximum(near, 0) * photon + read
    alike = (light - near) ** 2 <= 9 * 1.5 * share * variance
    return np.where(alike, variance, np.maximum(light, 0) * photon + read)


class Night(NamedTuple):
    """A simulated night: not to be changed, for all tests share it."""

    raw: Path
    config: Path
    truth: NightTruth


def _simulate(camera: str, settings: str, folder: Path) -> Night:
    truth = simulate_night(camera, folder / "raw")
    config = folder / "flatcal.toml"
    config.write_text(settings)
    return Night(folder / "raw", config, truth)


@pytest.fixture(scope="session")
def shot_variance():
    return _shot_variance


@pytest.fixture(scope="session")
def camera_settings():
    return {"lfc": LFC_SETTINGS, "cg16m": CG16M_SETTINGS}


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """No test, nor a program that it starts, may touch the cache of the one who runs it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLATCAL_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def all_settled(monkeypatch):
    """As if the files of the test had not changed for long, so that they are remembered."""
    monkeypatch.setattr("flatcal.user_cache.SETTLED_NS", -(2**62))


@pytest.fixture(scope="session")
def lfc_night(tmp_path_factory):
    return _simulate("lfc", LFC_SETTINGS, tmp_path_factory.mktemp("lfc"))


@pytest.fixture(scope="session")
def cg16m_night(tmp_path_factory):
    return _simulate("cg16m", CG16M_SETTINGS, tmp_path_factory.mktemp("cg16m"))


def write_frame(path, imagetyp=None, exposure=None, data=None, **cards):
    """Write a small raw frame, uint16 unless `data` says otherwise; a card of None is left out.

    The keyword of a card has '_' for '-'.
    """
    if data is None:
        data = np.full((10, 12), 1000, np.uint16)
    header = fits.Header()
    for keyword, value in {"IMAGETYP": imagetyp, "EXPTIME": exposure, **cards}.items():
        if value is not None:
            header[keyword.replace("_", "-")] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    fits.PrimaryHDU(data, header).writeto(path)
    return path


@pytest.fixture(scope="session")
def put_frame():
    return write_frame


@pytest.fixture(scope="session")
def raw_is_said_to_be_at() -> Callable[[Path, Path], None]:
    """The records of an output folder changed, as if its raw frames had been in another."""

    def change(out: Path, raw: Path) -> None:
        plan = (out / "plan.json").read_text()
        run = json.loads((out / "run.json").read_text())
        plan = plan.replace(json.dumps(run["raw"]), json.dumps(str(raw)))
        run |= {"raw": str(raw), "plan_sha256": sha256(plan.encode()).hexdigest()}
        (out / "plan.json").write_text(plan)
        (out / "run.json").write_text(json.dumps(run))

    return change
