"""Whether an overscan is any good, measured instead of assumed, and which one is used.

An overscan is useful when its columns agree with one another, when no light of the image leaks
into them, and when their level is near that of the bias and follows it from frame to frame. The
thresholds stand in `columns` and `evidence`, each with its reason; docs/overscan.md shows what
they gave for real cameras.
"""

from flatcal.overscan.choice import apply_overscan
from flatcal.overscan.verdict import Figure, OverscanVerdict, judge_overscan

__all__ = ["Figure", "OverscanVerdict", "apply_overscan", "judge_overscan"]
