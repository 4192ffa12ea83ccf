"""Print the table of docs/combining.md: what each rejection finds, and what it costs.

Run it after a change of a rejection: ``python docs/make_rejections.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from flatcal.engine.noise import NoiseModel
from flatcal.engine.stacking import Stacking
from flatcal.recipe import CombineSettings

N_PIXELS = 40_000
SIZES = (5, 6, 7, 8, 10, 12, 15, 20, 25, 30, 40, 50, 70, 100, 200, 500)
METHODS: dict[str, dict[str, Any]] = {
    "noise": {},
    "sigma (median, MAD)": {"reject": "sigma"},
    "winsorised": {"reject": "winsorised"},
    "sigma (median, std)": {"reject": "sigma", "spread": "std"},
    "sigma (mean, std)": {"reject": "sigma", "center": "mean", "spread": "std"},
}


def rejected(settings: CombineSettings, stack: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Share of the pixels rejected in each frame of a stack of noise 1."""
    n, shape = len(stack), stack.shape[1:]
    noise = NoiseModel(np.tile([0.0, 1.0], (n, 1)), 0.0) if settings.reject == "noise" else None
    stacking = Stacking(settings, np.ones(n), np.ones(n), noise, 0.0)
    planes = np.empty(shape), np.empty(shape), np.empty(shape, np.int32)
    bad = np.zeros(stack.shape, np.uint8)
    return stacking.combine(stack, bad, slice(0, shape[0]), *planes) / stack[0].size


def reach(settings: CombineSettings, make: Callable[[], np.ndarray[Any, Any]]) -> str:
    """The least outlier, in units of the noise, that is found in 99 of 100 pixels."""
    for size in SIZES:
        stack = make()
        stack[0] += size
        if rejected(settings, stack)[0] >= 0.99:
            return str(size)
    return "never"


def table() -> str:
    """The rows of the table."""
    rng = np.random.default_rng(1)
    lines = []
    for name, changes in METHODS.items():
        settings, cells = CombineSettings(**changes), []
        for n in (3, 5, 10, 30):

            def make(n: int = n) -> np.ndarray[Any, Any]:
                return rng.normal(0, 1, (n, 1, N_PIXELS))

            lost = 100 * rejected(settings, make()).mean()
            cells.append(
                f"{reach(settings, make)}, {lost:.1g} %" if lost else reach(settings, make)
            )
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
