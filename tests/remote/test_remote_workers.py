"""A night in an S3 server, reduced by processes that share nothing else."""

from __future__ import annotations

from benchmarks.s3 import BUCKET, download, environment
from flatcal import build_plan, run_plan


def test_processes_of_a_cluster_share_an_address_only(night, reach, server, outside, monkeypatch):
    proxy = reach()
    # Processes that are started take it from there.
    monkeypatch.setenv("FSSPEC_S3", environment(proxy.address)["FSSPEC_S3"])
    plan = build_plan(night.address, night.config)
    result = run_plan(plan, outside, engine="dask", jobs=2)
    assert not result.failed
    found = download(server, outside.removeprefix(f"s3://{BUCKET}/"))
    assert {name: c for name, c in found.items() if name.endswith(".fits")} == night.outputs
    assert sorted(set(found) - night.outputs.keys()) == ["plan.json", "run.json"]
