"""Addresses that can be used, those that cannot, and files of all kinds at them."""

from __future__ import annotations

import bz2
import gzip
import os
import subprocess
import sys

import fsspec
import numpy as np
import pytest
from astropy.io import fits

from benchmarks.s3 import BUCKET, KEYS, client_of, download, upload
from flatcal import build_plan, run_plan
from flatcal.cli_options import folder_here
from flatcal.errors import ConfigError, StorageError
from flatcal.facts import read_frames
from flatcal.recipe import Config
from flatcal.storage import RemotePath, lie_in_one_another, name_below, place_of


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("s3://user:word@bucket/night", "holds a password"),
        ("s3://", "no address of a folder"),
        ("zip://night::s3://bucket/night.zip", "no address of a folder"),
        ("https://host/night?X-Amz-Signature=abc", "no address of a folder"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused_without_its_secrets(text, told):
    with pytest.raises(ConfigError, match=told) as caught:
        place_of(text)
    assert caught.value.slug == "remote-address"
    told = str(caught.value).replace("password", "")
    assert "word" not in told
    assert "abc" not in told


def test_an_address_of_an_unknown_kind_is_named():
    with pytest.raises(ConfigError, match=r"nosuch:// cannot be used.*remote-address"):
        place_of("nosuch://host/night").exists()


def test_places_of_this_machine_are_paths(tmp_path):
    assert place_of(tmp_path) is tmp_path or place_of(tmp_path) == tmp_path
    assert place_of(f"file://{tmp_path}") == tmp_path
    assert place_of("night") / "a.fits" == place_of("night/a.fits")


def test_names_and_folders_of_addresses():
    night = place_of("S3://bucket/night/")
    assert str(night / "sub/a.fits") == "s3://bucket/night/sub/a.fits"
    assert name_below(night, night / "sub/a.fits") == "sub/a.fits"
    assert name_below(night, place_of("s3://bucket/nights/a.fits")) is None
    assert lie_in_one_another(night, night / "out")
    assert lie_in_one_another(night, place_of("s3a://bucket/night/out"))
    assert lie_in_one_another(place_of("s3://bucket"), night)
    assert not lie_in_one_another(night, place_of("s3://bucket/night-out"))
    assert not lie_in_one_another(night, place_of("/bucket/night"))


def flatcal(*words, **environment):
    return subprocess.run(
        [sys.executable, "-c", "from flatcal.cli import main; main()", *words],
        env={**os.environ, **KEYS, **environment}, capture_output=True, text=True, check=False,
    )  # fmt: skip


_WITHOUT = "import sys; sys.modules[{!r}] = None; from flatcal.cli import main; main()"


@pytest.mark.parametrize("module", ["fsspec", "s3fs"])
def test_a_missing_extra_is_named_in_one_line(module):
    program = [sys.executable, "-c", _WITHOUT.format(module), "inspect", "s3://bucket/night"]
    ended = subprocess.run(program, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert "pip install 'flatcal[remote]'" in line
    assert module in line


def test_the_command_line_takes_the_endpoint_from_the_environment(night, server, outside, tmp_path):
    where = {"AWS_ENDPOINT_URL": server, "AWS_DEFAULT_REGION": "us-east-1"}
    planned = flatcal("plan", night.address, "-c", str(night.settings), "--json", **where)
    assert planned.returncode == 0, planned.stderr
    plan = tmp_path / "plan.json"
    plan.write_text(planned.stdout)
    ran = flatcal("run", night.address, outside, "--plan", str(plan), "-q", "-vv", **where)
    assert ran.returncode == 0, ran.stderr
    assert KEYS["AWS_SECRET_ACCESS_KEY"] not in ran.stderr + ran.stdout
    assert "Authorization" not in ran.stderr
    found = download(server, outside.rpartition("/")[2])
    assert {n: c for n, c in found.items() if n.endswith(".fits")} == night.outputs


def test_a_server_that_is_not_there_gives_one_line():
    where = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_DEFAULT_REGION": "us-east-1"}
    program = (
        "import flatcal.transfer as t; t.FIRST_WAIT_S = 0.01; from flatcal.cli import main; main()"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, "inspect", "s3://bucket/night"],
        env={**os.environ, **KEYS, **where}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert "tried 6 times" in line
    assert "[remote-storage]" in line


def test_commands_for_folders_of_this_machine_say_so(tmp_path):
    assert folder_here(str(tmp_path), "watch") == tmp_path
    with pytest.raises(ConfigError, match="watch works on folders of this machine"):
        folder_here("s3://bucket/night", "watch")


@pytest.fixture
def odd_night(tmp_path, put_frame):
    """Bias frames as cameras and archives store them, and a science frame."""
    raw, random = tmp_path / "raw", np.random.default_rng(1)

    def pixels():
        return random.normal(1000, 5, (64, 80)).round().astype(np.uint16)

    put_frame(raw / "plain.fits", "bias", 0.0, pixels())
    put_frame(raw / "float.fits", "bias", 0.0, pixels().astype(np.float32))
    put_frame(raw / "signed.fits", "bias", 0.0, pixels().astype(np.int16))
    header = fits.Header({"IMAGETYP": "bias", "EXPTIME": 0.0})
    packed = fits.CompImageHDU(pixels(), header)
    fits.HDUList([fits.PrimaryHDU(), packed]).writeto(raw / "packed.fits.fz")
    for suffix, pack in (("gz", gzip.compress), ("bz2", bz2.compress)):
        path = put_frame(tmp_path / f"{suffix}.fits", "bias", 0.0, pixels())
        (raw / f"zipped.fits.{suffix}").write_bytes(pack(path.read_bytes()))
    (raw / "broken.fits").write_bytes(b"SIMPLE  =                    T")
    put_frame(raw / "science.fits", "science", 10.0, pixels() + 100)
    return raw


@pytest.fixture
def odd_config():
    return Config.model_validate({"dark": {"required": False}, "science": {"flat_required": False}})


def outcomes(result):
    return [(o.file, o.status, [e.slug for e in o.errors]) for o in result.record.outcomes]


@pytest.mark.parametrize("most_bytes", [4 << 30, 0])
def test_frames_of_every_kind_are_read_as_on_this_machine(
    odd_night, odd_config, reach, server, outside, tmp_path, monkeypatch, most_bytes
):
    monkeypatch.setattr("flatcal.spool._MOST_BYTES", most_bytes)
    name = f"odd-{most_bytes}"
    upload(server, odd_night, name)
    reach()
    here = run_plan(build_plan(odd_night, odd_config), tmp_path / "out")
    there = run_plan(build_plan(f"s3://{BUCKET}/{name}", odd_config), outside)
    assert outcomes(there) == outcomes(here)
    assert len([o for o in here.record.outcomes if o.status == "failed"]) == 1
    found = download(server, outside.rpartition("/")[2])
    made = sorted((tmp_path / "out").rglob("*.fits"))
    assert len(made) == 2
    for path in made:
        assert found[path.relative_to(tmp_path / "out").as_posix()] == path.read_bytes()


def test_any_storage_that_fsspec_knows_will_do(odd_night, odd_config, tmp_path):
    memory = fsspec.filesystem("memory")
    try:
        memory.put(str(odd_night), "/odd", recursive=True)
        here = run_plan(build_plan(odd_night, odd_config), tmp_path / "out")
        there = run_plan(build_plan("memory://odd", odd_config), "memory://reduced/odd")
        assert outcomes(there) == outcomes(here)
        for path in (tmp_path / "out").rglob("*.fits"):
            name = path.relative_to(tmp_path / "out").as_posix()
            assert memory.cat(f"/reduced/odd/{name}") == path.read_bytes()
        again = run_plan(build_plan("memory://odd", odd_config), "memory://reduced/odd")
        assert again.made == ()
        left = [name.rpartition("/")[2] for name in memory.find("/reduced")]
        assert not [name for name in left if name.startswith(".")]
    finally:
        memory.store.clear()


@pytest.mark.parametrize("name", ["a/../b.fits", "../b.fits", "a//b.fits", "./b.fits"])
def test_a_name_that_leads_elsewhere_is_refused(name):
    (frame,) = read_frames(place_of("s3://bucket/night"), name, Config().camera, ())
    assert [error.slug for error in frame.errors] == ["file-broken"]


def test_a_large_upload_is_there_whole_or_not_at_all(reach, server, tmp_path, monkeypatch):
    monkeypatch.setattr("flatcal.transfer.TRIES", 2)
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(33 << 20)  # from 32 MiB on in parts
    client = client_of(server)
    proxy = reach(lambda method, key, times: "503" if method == "PUT" and times != 1 else None)
    with pytest.raises(StorageError):
        RemotePath(f"s3://{BUCKET}/large").put(large)
    assert len(proxy.of("PUT")) >= 3
    assert "Contents" not in client.list_objects_v2(Bucket=BUCKET, Prefix="large")
    assert "Uploads" not in client.list_multipart_uploads(Bucket=BUCKET)

    reach(lambda method, key, times: "503" if method == "PUT" and times == 2 else None)
    RemotePath(f"s3://{BUCKET}/large").put(large)
    assert client.head_object(Bucket=BUCKET, Key="large")["ContentLength"] == 33 << 20
