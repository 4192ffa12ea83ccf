"""A real S3 server for the tests, a night in it, and the same night reduced on this machine."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import fsspec
import pytest
from s3fs import S3FileSystem

from benchmarks.s3 import BUCKET, KEYS, Proxy, s3_server, upload
from flatcal import build_plan, load_config, run_plan
from flatcal.spool import SPOOLS

_NAMES = count()


@pytest.fixture(scope="session")
def server():
    with s3_server() as address:
        yield address


@dataclass(frozen=True)
class RemoteNight:
    """A simulated night on this machine and on the server, and its outputs on this machine."""

    raw: Path
    settings: Path
    out: Path
    address: str

    @property
    def config(self):
        return load_config(self.settings)

    @property
    def outputs(self):
        paths = self.out.rglob("*.fits")
        return {path.relative_to(self.out).as_posix(): path.read_bytes() for path in paths}


@pytest.fixture(scope="session")
def night(lfc_night, tmp_path_factory, server):
    raw, out = tmp_path_factory.mktemp("raw"), tmp_path_factory.mktemp("reduced")
    # Each kind and each step once: a dark that is scaled for the flats and as long as the science.
    for number in (1, 2, 3, 13, 14, 15, 16, 17, 18, 22):
        shutil.copy(lfc_night.raw / f"ccd.{number:03d}.0.fits", raw)
    run_plan(build_plan(raw, load_config(lfc_night.config)), out)
    upload(server, raw, "night")
    return RemoteNight(raw, lfc_night.config, out, f"s3://{BUCKET}/night")


@pytest.fixture
def outside():
    """A name for outputs that no other test has."""
    return f"s3://{BUCKET}/out-{next(_NAMES)}"


@pytest.fixture
def reach(server, monkeypatch, tmp_path):
    """Give a proxy before the server, which flatcal uses in this test; and short time-outs."""
    for name, value in {**KEYS, "AWS_DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("flatcal.transfer.FIRST_WAIT_S", 0.01)
    # What another test has read is not to be known in this one.
    monkeypatch.setenv("FLATCAL_CACHE_DIR", str(tmp_path / "cache"))
    proxies = []

    def start(fault=None, **config):
        SPOOLS.clear()
        proxy = Proxy(server, fault)
        proxies.append(proxy.__enter__())
        monkeypatch.setitem(
            fsspec.config.conf, "s3", {"endpoint_url": proxy.address, "config_kwargs": config}
        )
        return proxy

    yield start
    S3FileSystem.clear_instance_cache()
    for proxy in proxies:
        proxy.__exit__(None, None, None)
