"""Whether dark current is called linear exactly when it is."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flatcal.linearity import DarkLevel, judge_linearity


def levels(law, exposures, error=0.5, seed=None):
    """Darks of a camera whose signal follows `law`, each with a normal error."""
    noise = np.zeros(len(exposures))
    if seed is not None:
        noise = np.random.default_rng(seed).normal(0, error, len(exposures))
    measured = zip(exposures, noise.tolist(), strict=True)
    return [DarkLevel(t, float(law(t)) + n, error) for t, n in measured]


@settings(max_examples=300, derandomize=True)
@given(
    rate=st.floats(0, 50),
    exposures=st.lists(st.floats(0.1, 1000), min_size=2, max_size=6, unique=True),
    seed=st.integers(0, 2**31),
)
def test_a_linear_camera_is_not_accused(rate, exposures, seed):
    # Four standard errors and more: one in some ten thousand comparisons.
    verdict = judge_linearity(levels(lambda t: rate * t, exposures, seed=seed))
    assert verdict.linear is True


@pytest.mark.parametrize(
    "law",
    [
        lambda t: 40 - t / 20,  # suppressed: the signal falls with time
        lambda t: 30 + 0.01 * t,  # glow of the read-out, whatever the time
        lambda t: 0.001 * t**2,
        lambda t: 10 * np.sqrt(t),
    ],
    ids=["falls", "glow", "square", "root"],
)
def test_other_laws_are_named_with_their_figures(law):
    verdict = judge_linearity(levels(law, [30.0, 60.0, 300.0]))
    assert verdict.linear is False
    assert "300 s" in verdict.text
    assert f"{law(300.0):.1f}" in verdict.text


def test_a_deviation_that_does_not_matter_is_no_reason():
    """The darks of a real camera: 0.46 ADU/s after 10 s, 0.40 after 300 s."""
    measured = {10: 4.6, 20: 8.9, 30: 13.3, 60: 24.75, 150: 60.6, 300: 119.9}
    assert judge_linearity([DarkLevel(t, v, 0.2) for t, v in measured.items()]).linear is True


@pytest.mark.parametrize("exposures", [[], [60.0], [0.0, 60.0]])
def test_one_exposure_time_cannot_tell(exposures):
    assert judge_linearity(levels(lambda t: t, exposures)).linear is None
