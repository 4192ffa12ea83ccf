"""A night in an S3 server: what is fetched, and that the outputs are those of this machine."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from zlib import crc32

import pytest

from benchmarks.s3 import client_of, download, environment, upload
from flatcal import build_plan, run_plan
from flatcal.errors import FlatcalError, StorageError
from flatcal.index import find_frames
from flatcal.photon_transfer.night import measure_detectors
from flatcal.plan import Plan
from flatcal.report.page import write_report
from flatcal.verify import verify_output
from flatcal.verify.records import Verdict


def key_of(address):
    return address.partition("://")[2].partition("/")[2]


def images(server, address):
    found = download(server, key_of(address))
    return {name: content for name, content in found.items() if name.endswith(".fits")}


def same(content, other):
    """Names of files that are missing or differ; a difference of bytes is no use to read."""
    return sorted(n for n in content.keys() | other.keys() if content.get(n) != other.get(n))


def test_headers_come_by_range_requests_and_no_pixel_is_fetched(night, reach):
    proxy = reach()
    local = find_frames(night.raw, night.config)
    proxy.requests.clear()
    remote = find_frames(night.address, night.config)
    assert [f.file for f in remote] == [f.file for f in local]
    assert [f.kind for f in remote] == [f.kind for f in local]
    of_frames = proxy.of("GET", ".fits")
    assert sorted(r.key for r in of_frames) == [f"night/{f.file}" for f in local]
    assert {r.span for r in of_frames} == {"bytes=0-11519"}
    # Beside them the folder is asked for, and listed by one request.
    assert len(proxy.requests) <= len(local) + 3


def test_an_unchanged_folder_is_listed_only(night, reach, all_settled):
    proxy = reach()
    first = find_frames(night.address, night.config)
    proxy.requests.clear()
    assert find_frames(night.address, night.config) == first
    assert not proxy.of("GET", ".fits")


def test_outputs_are_those_of_this_machine_and_each_pixel_is_fetched_once(
    night, reach, server, outside
):
    proxy = reach()
    result = run_plan(build_plan(night.address, night.config), outside)
    assert not result.failed
    assert same(images(server, outside), night.outputs) == []
    header_bytes = 4 * 2880
    for path in night.raw.glob("*.fits"):
        fetched = sum(r.received_bytes for r in proxy.of("GET", f"night/{path.name}"))
        # The pixels once; the header to find them, and once for each output that copies it: of a
        # flat the calibrated one and the master.
        assert path.stat().st_size <= fetched <= path.stat().st_size + 3 * header_bytes
    # The records are those of this machine, but for where and when.
    records = [json.loads((night.out / "run.json").read_text())]
    records.append(json.loads(download(server, key_of(outside))["run.json"]))
    for record in records:
        for place in ("raw", "plan_sha256", "started", "seconds"):
            del record[place]
        for about in record["inputs"].values():
            for what in ("mtime_ns", "ctime_ns", "inode", "etag"):
                del about[what]
    assert records[0] == records[1]

    # A second run makes nothing and fetches no pixel; a test of the outputs finds them good.
    proxy.requests.clear()
    again = run_plan(build_plan(night.address, night.config), outside)
    assert again.made == ()
    assert not [r for r in proxy.requests if r.method == "PUT" and ".lock" not in r.key]
    verdicts = {check.verdict for check in verify_output(outside).checks}
    assert verdicts <= {Verdict.PASS, Verdict.NOT_POSSIBLE}


def test_a_plan_of_an_address_goes_to_json_and_back(night, reach):
    reach()
    plan = build_plan(night.address, night.config)
    assert Plan.model_validate_json(plan.model_dump_json()) == plan
    assert plan.raw == night.address
    assert all(frame.storage.etag for frame in plan.frames)


def test_without_room_for_what_was_fetched_the_outputs_are_the_same(
    night, reach, server, outside, monkeypatch
):
    monkeypatch.setattr("flatcal.spool._MOST_BYTES", 0)
    proxy = reach()
    run_plan(build_plan(night.address, night.config), outside)
    assert same(images(server, outside), night.outputs) == []
    # Rows come by a request each, or a few of them.
    largest = max(path.stat().st_size for path in night.raw.glob("*.fits"))
    assert max(r.received_bytes for r in proxy.of("GET", "night/")) < largest


def stumbling(method, key, times):
    """Every object gives trouble at first, each in its way."""
    if times > 2 or key.endswith("run.json"):
        return None
    return ("503", "cut", "drop", "503")[crc32(f"{method}{key}{times}".encode()) % 4]


def test_busy_servers_and_cut_connections_change_nothing(night, reach, server, outside):
    proxy = reach(stumbling)
    result = run_plan(build_plan(night.address, night.config), outside)
    assert not result.failed
    assert same(images(server, outside), night.outputs) == []
    assert sum(r.status == 503 for r in proxy.requests) > 10
    assert sum(r.status == 0 for r in proxy.requests) > 10


def test_replies_that_do_not_come_in_time_are_asked_for_again(night, reach, server, outside):
    slow = {"night/ccd.001.0.fits", "night/ccd.022.0.fits"}

    def sleeping(method, key, times):
        return 1.5 if times == 1 and (key in slow or key.endswith("plan.json")) else None

    proxy = reach(sleeping, read_timeout=0.5)
    run_plan(build_plan(night.address, night.config), outside)
    assert same(images(server, outside), night.outputs) == []
    assert len(proxy.of("HEAD", "night/ccd.001")) > len(proxy.of("HEAD", "night/ccd.002"))


def test_a_server_that_stays_away_ends_the_run_which_goes_on_later(night, reach, server, outside):
    def dying(method, key, times):
        puts = [r for r in proxy.of("PUT") if r.status == 200]
        return "503" if len(puts) > 3 else None

    proxy = reach(dying)
    plan = build_plan(night.address, night.config)
    with pytest.raises(StorageError, match=r"tried 6 times: .*\[remote-storage\]"):
        run_plan(plan, outside)
    made = images(server, outside)
    assert 0 < len(made) < len(night.outputs)
    assert same(made, {name: night.outputs[name] for name in made}) == []

    reach()
    result = run_plan(build_plan(night.address, night.config), outside)
    assert not set(result.made) & set(made)
    assert same(images(server, outside), night.outputs) == []


def test_a_run_that_is_killed_leaves_whole_outputs_and_the_next_goes_on(
    night, reach, server, outside
):
    proxy = reach(lambda method, key, times: 0.3 if method == "PUT" else None)
    program = "from flatcal.cli import main; main()"
    words = ["run", night.address, outside, "-c", str(night.settings), "-q"]
    with subprocess.Popen(
        [sys.executable, "-c", program, *words], env=environment(proxy.address)
    ) as running:
        deadline = time.monotonic() + 60
        while len(proxy.of("PUT", ".fits")) < 3 and time.monotonic() < deadline:
            time.sleep(0.02)
        running.kill()
    made = images(server, outside)
    assert 0 < len(made) < len(night.outputs)
    assert same(made, {name: night.outputs[name] for name in made}) == []
    assert ".flatcal.lock" in download(server, key_of(outside))

    reach()
    result = run_plan(build_plan(night.address, night.config), outside)
    assert not set(result.made) & set(made)
    assert same(images(server, outside), night.outputs) == []


def test_the_report_of_a_run_goes_where_its_outputs_are(night, reach, server, outside):
    reach()
    upload(server, night.out, key_of(outside))
    there = write_report(outside)
    assert str(there) == f"{outside}/report.html"
    page = download(server, key_of(outside))["report.html"].decode()
    here = write_report(night.out).read_text(encoding="utf-8")
    assert page.replace(outside, "OUT") == here.replace(str(night.out), "OUT")


def test_gain_and_noise_are_measured_as_on_this_machine(night, reach):
    reach()
    here = measure_detectors(night.raw, find_frames(night.raw, night.config))
    there = measure_detectors(night.address, find_frames(night.address, night.config))
    assert there.detectors == here.detectors


def test_a_frame_that_changed_since_the_plan_is_named(night, reach, server, outside):
    reach()
    client = client_of(server)
    for path in sorted(night.raw.glob("*.fits")):
        client.upload_file(str(path), "nights", f"changing/{path.name}")
    plan = build_plan("s3://nights/changing", night.config)
    first = plan.frames[0].file
    content = bytearray((night.raw / first).read_bytes())
    content[-4000] ^= 1
    client.put_object(Bucket="nights", Key=f"changing/{first}", Body=bytes(content))
    result = run_plan(plan, outside)
    assert [(o.file, o.errors[0].slug) for o in result.failed] == [(first, "file-changed")]


def test_outputs_may_not_lie_in_the_raw_frames(night, reach):
    reach()
    plan = build_plan(night.address, night.config)
    with pytest.raises(FlatcalError, match="output-in-raw"):
        run_plan(plan, f"{night.address}/out")


def test_a_bucket_that_is_not_there_is_named(night, reach):
    reach()
    plan = build_plan(night.address, night.config)
    with pytest.raises(FlatcalError, match=r"s3://nowhere/out.* cannot be written"):
        run_plan(plan, "s3://nowhere/out")
