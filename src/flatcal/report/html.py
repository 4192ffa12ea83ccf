"""A report as one HTML file that needs nothing else."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from flatcal.report.drawing import bokeh_script, describe_view, script_json
from flatcal.report.pictures import Picture
from flatcal.report.views import Plot, ReportView
from flatcal.text import readable
from flatcal.verify.records import TESTS, Check, Verdict


@dataclass(frozen=True, slots=True)
class Alert:
    """Something that should be seen at once."""

    file: str
    text: str


@dataclass(frozen=True, slots=True)
class _TestRow:
    """One test over all files."""

    test: str
    meaning: str
    n_passed: int
    failed: tuple[Check, ...]
    not_possible: tuple[Check, ...]

    figures: str

    @property
    def reasons(self) -> str:
        """Why it was not possible: the most frequent reason, and how many more there are."""
        counted = Counter(check.reason for check in self.not_possible).most_common()
        more = f" (and {len(counted) - 1} more reasons)" if len(counted) > 1 else ""
        return f"{counted[0][0]}{more}" if counted else ""


class _Items:
    """What is drawn, in the order in which the page names it."""

    def __init__(self) -> None:
        self._items: list[Markup] = []

    def embed(self, view: Plot | Picture) -> int:
        """Keep a picture or plot; its number tells where it is."""
        self._items.append(script_json(describe_view(view)))
        return len(self._items) - 1

    def all(self) -> list[Markup]:
        """What was kept."""
        return self._items


def render_report(view: ReportView, alerts: Sequence[Alert] = (), live: str = "") -> str:
    """Make the page.

    Parameters
    ----------
    view : ReportView
        What it shows.
    alerts : sequence of Alert
        Shown above all else.
    live : str
        Version of a page that is written anew; such a page looks for `report-version.js` beside
        it and loads itself again when that tells another one.

    Returns
    -------
    str
        HTML. Text of headers is escaped by the template, and control characters in it are shown
        as pictures of themselves.
    """
    items = _Items()
    template = page_environment().from_string(page_part("report.html"))
    return template.render(
        view=view,
        alerts=alerts,
        live=live,
        tests=list(_test_rows(view.checks)),
        embed=items.embed,
        items=items.all,
        base64=lambda content: Markup(base64.b64encode(content).decode("ascii")),
        part=page_part,
        bokeh=Markup(bokeh_script()),
    )


def page_environment() -> Environment:
    """Templates whose values are escaped, control characters included."""
    return Environment(autoescape=True, undefined=StrictUndefined, finalize=_harmless)


def page_part(name: str) -> Markup:
    """A file of flatcal that is a part of its pages."""
    text = (resources.files("flatcal.report") / "web" / name).read_text(encoding="utf-8")
    return Markup(text)


def _harmless(value: Any) -> Any:
    return readable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _test_rows(checks: Sequence[Check]) -> Iterator[_TestRow]:
    for test, meaning in TESTS.items():
        of_test = [check for check in checks if check.test == test]
        if of_test:
            yield _TestRow(
                test,
                meaning,
                sum(check.verdict is Verdict.PASS for check in of_test),
                tuple(check for check in of_test if check.verdict is Verdict.FAIL),
                tuple(check for check in of_test if check.verdict is Verdict.NOT_POSSIBLE),
                _range_of_figures(of_test),
            )


def _range_of_figures(checks: Sequence[Check]) -> str:
    made = [check for check in checks if check.figure is not None and check.limit is not None]
    if not made:
        return ""
    figures = [check.figure for check in made if check.figure is not None]
    low, high = f"{min(figures):.4g}", f"{max(figures):.4g}"
    shown = low if low == high else f"{low} to {high}"
    allowed = f"{made[0].expected:g} +- {min(c.limit for c in made if c.limit is not None):.2g}"
    return f"{shown} {made[0].unit} ({allowed} is right)"
