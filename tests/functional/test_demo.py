"""The demo as a newcomer runs it, and the README's plan as the demo's night gives it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]


def flatcal(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    program = "from flatcal.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "96", "TERM": "dumb"},
    )


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("demo")
    result = flatcal("demo", out)
    assert result.returncode == 0, result.stdout + result.stderr
    return out, result.stdout


def test_demo_is_right_about_both_cameras(demo: tuple[Path, str]) -> None:
    _, text = demo
    assert text.count("distance from the truth") == 2
    assert "WRONG" not in text
    assert len(re.findall(r"│ right", text)) == 11


def test_demo_writes_masters_flats_science_and_a_picture(demo: tuple[Path, str]) -> None:
    out, _ = demo
    for camera, n_flats, n_science in (("lfc", 6, 2), ("cg16m", 10, 2)):
        reduced = out / camera / "reduced"
        assert len(list((reduced / "flats").iterdir())) == n_flats
        assert len(list((reduced / "science").iterdir())) == n_science
        assert (out / camera / "master_flat.png").read_bytes().startswith(b"\x89PNG")


def test_readme_shows_the_plan_of_the_demo(demo: tuple[Path, str]) -> None:
    out, _ = demo
    folder = out / "cg16m"
    result = flatcal("plan", folder / "raw", "-c", folder / "flatcal.toml")
    shown = "\n".join(line.rstrip() for line in result.stdout.splitlines())
    assert shown.strip() in (PROJECT / "README.md").read_text(encoding="utf-8")


def test_demo_does_not_overwrite(demo: tuple[Path, str]) -> None:
    out, _ = demo
    result = flatcal("demo", out)
    assert result.returncode == 2
    assert "[output-exists]" in result.stderr
