"""What a row is: who takes part, what must agree before anything is timed, what is needed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.contenders import Contender
from benchmarks.lines import Line

Need = tuple[str, tuple[tuple[str, Any], ...]]


@dataclass(frozen=True, slots=True)
class Check:
    """A comparison of the outputs of two contenders.

    Attributes
    ----------
    ours, theirs : str
        Contenders.
    task : str
        Of `benchmarks.compare`.
    args : mapping
        What is compared, and the tolerance.
    """

    ours: str
    theirs: str
    task: str
    args: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Row:
    """One thing that is measured.

    Attributes
    ----------
    name : str
        For ``--only``.
    title : str
        What is done.
    contenders : tuple of Contender
        In the order of their turns.
    lines : tuple of Line
        Of the table.
    checks : tuple of Check
        What must agree before anything is timed.
    needs : tuple
        Tasks of `benchmarks.frames`, with arguments, that build what is measured on.
    most_rounds : int or None
        Fewer rounds than asked for, where one takes minutes.
    """

    name: str
    title: str
    contenders: tuple[Contender, ...]
    lines: tuple[Line, ...]
    checks: tuple[Check, ...] = ()
    needs: tuple[Need, ...] = ()
    most_rounds: int | None = None


def need(task: str, **args: Any) -> Need:
    """A task of `benchmarks.frames` that goes before a row."""
    return task, tuple(args.items())


def agree(
    ours: str,
    theirs: str,
    *kinds: str,
    limit: float,
    worst: float | None = None,
    share: float = 0.0,
    relative: bool = False,
) -> Check:
    """Images agree: see `benchmarks.compare.compare_folders`."""
    tolerance = {"limit": limit, "worst": limit if worst is None else worst, "share": share}
    unit = "of the median" if relative else "ADU"
    args = {"kinds": kinds or (".",), "relative": relative, "unit": unit, **tolerance}
    return Check(ours, theirs, "compare_folders", args)


def same_bits(ours: str, theirs: str) -> Check:
    """Two results are the same bit by bit."""
    return Check(ours, theirs, "compare_text")
