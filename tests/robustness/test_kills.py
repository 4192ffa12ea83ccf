"""SIGKILL at random moments; the long version is `make soak`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from nights import SETTINGS


def test_a_run_that_is_killed_at_any_moment_loses_nothing(undisturbed, tmp_path):
    config = tmp_path / "night.toml"
    config.write_text(SETTINGS)
    script = Path(__file__).with_name("kills.py")
    done = subprocess.run(
        [sys.executable, script, undisturbed.raw, "--config", config, "--kills", "10"],
        capture_output=True, text=True, check=False, env={**os.environ, "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["kills"] >= 10
    assert figures["files_left_whole"] > 0
