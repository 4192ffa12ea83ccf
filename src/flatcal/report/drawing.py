"""Pictures and plots as JSON, from which a page draws them with BokehJS.

The figures are not made by Bokeh in Python: each takes it a tenth of a second, and importing it
two seconds, which is more than all else that a report needs.
"""

from __future__ import annotations

import base64
import json
from typing import Any

from bokeh.settings import settings
from markupsafe import Markup
from numpy.typing import NDArray

from flatcal.report.pictures import Picture
from flatcal.report.views import Plot
from flatcal.text import readable

Array = NDArray[Any]


def bokeh_script() -> str:
    """BokehJS with the functions that make figures; without widgets, tables and MathJax."""
    folder = settings.bokehjs_path() / "js"
    return "\n".join(
        (folder / f"{name}.min.js").read_text(encoding="utf-8") for name in ("bokeh", "bokeh-api")
    )


def script_json(content: Any) -> Markup:
    """JSON that may stand in a script element, whatever its text is."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c"))


def describe_view(view: Plot | Picture) -> dict[str, Any]:
    """What the page needs to draw a picture or a plot."""
    return _describe_plot(view) if isinstance(view, Plot) else _describe_picture(view)


def _describe_picture(picture: Picture) -> dict[str, Any]:
    rows, columns = picture.values.shape
    return {
        "shape": [rows, columns],
        "values": base64.b64encode(picture.values.astype("<f4").tobytes()).decode("ascii"),
        "block": picture.block,
        "first": [picture.first_x, picture.first_y],
        "unit": picture.unit,
        "marks": picture.marks,
    }


def _describe_plot(plot: Plot) -> dict[str, Any]:
    return {
        "labels": [plot.x_label, plot.y_label],
        "lines": [
            {"label": line.label, "x": _numbers(line.x), "y": _numbers(line.y)}
            for line in plot.lines
        ],
        "time": plot.x_time,
        "dots": plot.dots,
        "log": plot.log_y,
        "span": plot.span,
        "band": plot.band,
        "range": plot.y_range,
        "names": [readable(name, 80) for name in plot.names],
    }


def _numbers(values: Array) -> list[float | None]:
    """Ten digits, enough for times to a second; None for what is no number."""
    return [float(f"{value:.10g}") if abs(value) < float("inf") else None for value in values]
