"""SIGKILL at any moment; the long version is `make soak`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from load import make_small_night
from nights import PACKED, SETTINGS


def test_a_run_that_is_killed_at_any_moment_loses_nothing(undisturbed, tmp_path):
    """Of a plain night, and of one whose outputs are compressed and its flat split."""
    plain, packed, small = tmp_path / "plain.toml", tmp_path / "packed.toml", tmp_path / "small"
    plain.write_text(SETTINGS)
    packed.write_text(PACKED)
    make_small_night(small, 12, shape=(200, 300))  # compression takes its time
    words = ["--night", undisturbed.raw, plain, "--night", small, packed]
    script = Path(__file__).with_name("kills.py")
    done = subprocess.run(
        [sys.executable, script, *words, "--kills", "10"],
        capture_output=True, text=True, check=False, env={**os.environ, "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert sum(figures["kills"]) >= 10
    assert min(figures["kills"]) > 0
    assert figures["images_left_whole"] > 0
    assert figures["records_left_whole"] > 0
