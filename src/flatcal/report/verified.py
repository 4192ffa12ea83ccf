"""Acceptance tests in the terminal."""

from __future__ import annotations

from rich.console import Console

from flatcal.report.terminal import add_row, make_table
from flatcal.verify.records import TESTS, Check, Verdict, Verification


def print_verification(verification: Verification) -> None:
    """Each test with its worst figure, then all that failed and what was not possible."""
    console = Console(highlight=False, soft_wrap=False)
    table = make_table(None, "test", "passed", "worst", "limit", "what it is")
    for test, meaning in TESTS.items():
        checks = [check for check in verification.checks if check.test == test]
        made = [check for check in checks if check.verdict is not Verdict.NOT_POSSIBLE]
        if not made:
            continue
        n_passed = sum(check.verdict is Verdict.PASS for check in made)
        worst = max(made, key=_severity)
        add_row(table, test, f"{n_passed} of {len(made)}", _figure(worst), _limit(worst), meaning)
    console.print(table)
    for verdict, title in ((Verdict.FAIL, "failed"), (Verdict.NOT_POSSIBLE, "not possible")):
        _print_checks(console, title, [c for c in verification.checks if c.verdict is verdict])
    verdicts = [check.verdict for check in verification.checks]
    console.print(
        f"{verdicts.count(Verdict.PASS)} passed, {verdicts.count(Verdict.FAIL)} failed, "
        f"{verdicts.count(Verdict.NOT_POSSIBLE)} not possible"
    )


def _severity(check: Check) -> float:
    """How near a check came to its limit; one without a figure failed outright."""
    if check.figure is None or check.limit is None or check.expected is None:
        return 0.0 if check.verdict is Verdict.PASS else float("inf")
    return abs(check.figure - check.expected) / check.limit


def _figure(check: Check) -> str:
    return "" if check.figure is None else f"{check.figure:.4g} {check.unit}".strip()


def _limit(check: Check) -> str:
    if check.limit is None:
        return ""
    return f"{check.expected:g} +- {check.limit:.2g} {check.unit}".strip()


def _print_checks(console: Console, title: str, checks: list[Check]) -> None:
    """One line each; equal reasons of one test together."""
    if not checks:
        return
    console.print(f"{title}:", style="bold")
    groups: dict[tuple[str, str], list[Check]] = {}
    for check in checks:
        key = (check.test, check.reason if check.figure is None else check.subject)
        groups.setdefault(key, []).append(check)
    for members in groups.values():
        first = members[0]
        subject = (
            first.subject if len(members) == 1 else f"{first.subject} and {len(members) - 1} more"
        )
        figure = "" if first.figure is None else f"{_figure(first)}, allowed {_limit(first)}: "
        line = f"  {first.test}, {subject}: {figure}{first.reason}"
        console.print(line, markup=False, soft_wrap=True)
