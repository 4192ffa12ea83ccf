"""Leaving a frame out by hand: the settings file says it, and a run does it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from flatcal.engine.result import RunResult
from flatcal.engine.run import run_plan
from flatcal.errors import ConfigError
from flatcal.extension import exact_pattern
from flatcal.io import write_text
from flatcal.planning import build_plan
from flatcal.recipe import Config, load_config, parse_config
from flatcal.verify.night import ReducedNight

_REASON: Final = "left out in flatcal view"


def overrule(night: ReducedNight, file: str, settings: Path, *, leave_out: bool) -> RunResult:
    """Leave a frame out, or take it in again, and make anew what depends on it.

    Parameters
    ----------
    night : ReducedNight
        The run.
    file : str
        Path of the frame below the raw folder.
    settings : Path
        TOML file that the run was made with; written when there is none and the run had no
        settings.
    leave_out : bool
        False takes away what an earlier call has written.

    Returns
    -------
    RunResult
        Of the new run, which makes only what is missing or has changed.

    Raises
    ------
    ConfigError
        When the file is not that of the run, the frame cannot be told from others by its name,
        or another rule leaves it out. Nothing is changed then.
    """
    text = settings.read_text(encoding="utf-8") if settings.exists() else ""
    config = load_config(settings) if text else Config()
    _require_same(night, config, settings)
    changed = add_exclusion(text, file) if leave_out else remove_exclusion(text, file)
    new = parse_config(changed, str(settings))
    excluded = {frame.file for frame in night.plan.frames if new.exclusion(frame.file)}
    before = {frame.file for frame in night.plan.frames if config.exclusion(frame.file)}
    if excluded ^ before != {file}:
        others = ", ".join(sorted((excluded ^ before) - {file}))
        told = f"it would change {others} as well" if others else "another rule decides on it"
        raise ConfigError("bad-config", f"{file}: {told}; edit [[exclude]] in {settings}")
    plan = build_plan(night.raw, new)
    write_text(settings, changed)
    return run_plan(plan, night.out)


def add_exclusion(text: str, file: str) -> str:
    """The text of a settings file with a table that leaves a file out."""
    return f"{text.rstrip()}\n\n{_table(file)}".lstrip()


def remove_exclusion(text: str, file: str) -> str:
    """The text without the table that `add_exclusion` has written."""
    return text.replace(_table(file), "").rstrip() + "\n"


def _table(file: str) -> str:
    # What JSON escapes, TOML escapes alike, but for DEL; and a name may hold *, ? and [.
    name = json.dumps(exact_pattern(file), ensure_ascii=False).replace("\x7f", "\\u007f")
    return f'[[exclude]]\nfile = {name}\nreason = "{_REASON}"\n'


def _require_same(night: ReducedNight, config: Config, settings: Path) -> None:
    """The settings must be those of the run, but for what is left out."""
    if any(master.stored for master in night.plan.masters):
        raise ConfigError(
            "bad-config",
            f"the run used a library; add [[exclude]] to {settings} and run again with it",
        )
    without = {"exclude": ()}
    if config.model_copy(update=without) != night.plan.config.model_copy(update=without):
        raise ConfigError(
            "bad-config",
            f"{settings} does not hold the settings of the run in {night.out}; name its file "
            "with -c, and put what was said on the command line into it",
        )
