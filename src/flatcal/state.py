"""What has been taken out of a frame, as its header tells.

flatcal writes one boolean card for each step; `flatcal.dialects` has what others write.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, Final

from astropy.io import fits

from flatcal.dialects import (
    COMBINED,
    OWN,
    REDUCED,
    STEP_RECORDS,
    Testimony,
    read_testimonies,
)
from flatcal.errors import StateError

__all__ = [
    "STEP_RECORDS",
    "ProcessingState",
    "bias_known_inside",
    "read_state",
    "record_step",
    "refuse_misfit",
    "refuse_part",
    "removed_steps",
]

_WORDS: Final = {
    **{step: record.comment for step, record in STEP_RECORDS.items()},
    COMBINED: "made of several frames",
    REDUCED: "calibrated",
}
_SUBTRACTIONS: Final = ("overscan", "bias", "dark")
# A part of a frame that serves as its overscan has lost all that the frame has lost.
_SHARED_WITH_OVERSCAN: Final = ("overscan", "bias", "linearity", "dark", "flat", "gain")


@dataclass(frozen=True, slots=True)
class ProcessingState:
    """What a header says about the steps that a frame has gone through.

    Attributes
    ----------
    testimonies : tuple of Testimony
        All that is said. A card of flatcal's own decides about its step alone; where there is
        none, the step was done if anybody says so.
    """

    testimonies: tuple[Testimony, ...] = ()

    def witness(self, step: str) -> Testimony | None:
        """The testimony that decides about a step, None when nobody says anything."""
        about = [testimony for testimony in self.testimonies if testimony.step == step]
        own = [testimony for testimony in about if testimony.program == OWN]
        done = [testimony for testimony in about if testimony.done]
        return next(iter(own or done or about), None)

    def of(self, step: str) -> bool | None:
        """Whether a step was done; None when nobody says anything."""
        witness = self.witness(step)
        return None if witness is None else witness.done

    @property
    def done(self) -> tuple[Testimony, ...]:
        """The deciding testimonies about what was done, in the order of the steps."""
        witnesses = (self.witness(step) for step in _WORDS) if self.testimonies else ()
        return tuple(witness for witness in witnesses if witness is not None and witness.done)

    @property
    def removed(self) -> frozenset[str]:
        """Steps that were done: some of overscan, trim, bias, linearity, dark, flat, gain."""
        return frozenset(witness.step for witness in self.done) & frozenset(STEP_RECORDS)

    def describe(self) -> str:
        """What was done, by whom, and in which card it stands; empty for a raw frame."""
        by_program: dict[str, list[Testimony]] = {}
        for witness in self.done:
            by_program.setdefault(witness.program, []).append(witness)
        return "; ".join(_describe(program, told) for program, told in by_program.items())


def _describe(program: str, told: list[Testimony]) -> str:
    words = ", ".join(_WORDS[witness.step] for witness in told)
    cards = "; ".join(dict.fromkeys(witness.card for witness in told))
    return f"{words} by {program} ({cards})"


def read_state(header: Mapping[str, Any]) -> ProcessingState:
    """Read the processing state of a frame from its header.

    Parameters
    ----------
    header : mapping
        FITS header, or a dictionary with keys in any case.

    Returns
    -------
    ProcessingState
        Empty when nobody says anything, as for a raw frame.
    """
    return ProcessingState(read_testimonies(header))


def removed_steps(header: Mapping[str, Any]) -> frozenset[str]:
    """Steps that the header says were done.

    Parameters
    ----------
    header : mapping
        FITS header, or a dictionary with keys in any case.

    Returns
    -------
    frozenset of str
        Some of overscan, trim, bias, linearity, dark, flat, gain.
    """
    return read_state(header).removed


def bias_known_inside(header: Mapping[str, Any]) -> bool:
    """True when the header says that the bias has not been subtracted, as BIASSUB = F does."""
    return read_state(header).of("bias") is False


def refuse_misfit(
    header: Mapping[str, Any], step: str, master: Mapping[str, Any] | None = None
) -> None:
    """Refuse a step that was done already, or that does not fit what is known to be done.

    Where the headers say nothing the step is done.

    Parameters
    ----------
    header : mapping
        Of the frame.
    step : str
        Key of `STEP_RECORDS`.
    master : mapping, optional
        Header of the bias, dark or flat.

    Raises
    ------
    StateError
        With slug ``state``; it names the cards.
    """
    frame = read_state(header)
    other = ProcessingState() if master is None else read_state(master)
    _refuse_second_time(frame, step)
    if step in _SUBTRACTIONS:
        _refuse_after_flat(frame, step)
    if step == "linearity":
        _refuse_no_signal(frame)
    if step in ("bias", "dark"):
        _refuse_unlike(frame, other, step)
    if step == "flat":
        _refuse_bias_inside(frame, "the frame", "which the flat would divide too")
        _refuse_bias_inside(other, "the flat", "so that it is no picture of the sensitivity alone")


def refuse_part(header: Mapping[str, Any], part: Mapping[str, Any] | None) -> None:
    """Refuse an overscan that does not belong to the frame as it is now.

    Parameters
    ----------
    header : mapping
        Of the frame.
    part : mapping or None
        Header of the overscan; None when a section of the frame itself is meant.

    Raises
    ------
    StateError
        With slug ``state``; it names the cards.
    """
    frame = read_state(header)
    trimmed = frame.witness("trim")
    if part is None:
        if trimmed is not None and trimmed.done:
            raise StateError(
                "state",
                f"the frame was trimmed before ({trimmed.card}), so that a section of the frame "
                "as read is elsewhere now; subtract the overscan before trimming",
            )
        return
    lost = frame.removed - read_state(part).removed
    witness = next((frame.witness(s) for s in _SHARED_WITH_OVERSCAN if s in lost), None)
    if witness is not None:
        raise StateError(
            "state",
            f"the overscan is not of the frame as it is now: the frame was "
            f"{_passive(witness.step)} ({witness.card}), the overscan was not; slice the overscan "
            "from this very frame, or subtract it first",
        )


def _passive(step: str) -> str:
    if step in _SUBTRACTIONS:
        return f"freed of its {'overscan level' if step == 'overscan' else step}"
    return _WORDS[step]


def _refuse_second_time(frame: ProcessingState, step: str) -> None:
    witness = frame.witness(step)
    if witness is not None and witness.done and step != "trim":
        raise StateError(
            "state",
            f"{_WORDS[step]} before, by {witness.program} ({witness.card}); a second time would "
            "be wrong, start from the frame as it was",
        )


def _refuse_after_flat(frame: ProcessingState, step: str) -> None:
    witness = frame.witness("flat")
    if witness is not None and witness.done:
        raise StateError(
            "state",
            f"the frame was divided by a flat ({witness.card}), so that its {step} can no longer "
            "be subtracted; subtract before the flat, from the frame as it was",
        )


def _refuse_unlike(frame: ProcessingState, master: ProcessingState, step: str) -> None:
    """Refuse a master when one has lost its overscan level, or gained, and the other has not."""
    mine, its = frame.witness("overscan"), master.witness("overscan")
    if mine is not None and its is not None and mine.done != its.done:
        raise StateError(
            "state",
            f"the overscan level is {_gone_or_inside(mine)} the frame but "
            f"{_gone_or_inside(its)} the master {step}; subtract the overscan from both or none",
        )
    mine, its = frame.witness("gain"), master.witness("gain")
    if mine is not None and its is not None and mine.done != its.done:
        raise StateError(
            "state",
            f"of frame ({mine.card}) and master {step} ({its.card}) one was multiplied by the "
            "gain and the other not; multiply both or none",
        )
    mine, its = frame.witness("linearity"), master.witness("linearity")
    if step == "dark" and mine is not None and its is not None and mine.done != its.done:
        raise StateError(
            "state",
            f"of frame ({mine.card}) and master dark ({its.card}) one was made linear and the "
            "other not; correct both or none",
        )


def _refuse_no_signal(frame: ProcessingState) -> None:
    """Refuse the correction of anything but counts above the bias level."""
    bias = frame.witness("bias")
    if bias is not None and not bias.done and not frame.of("overscan"):
        raise StateError(
            "state",
            f"the frame still holds its bias level ({bias.card}), and the curve is for counts "
            "above it; subtract overscan or bias first",
        )
    for step in ("dark", "flat"):
        witness = frame.witness(step)
        if witness is not None and witness.done:
            raise StateError(
                "state",
                f"{_WORDS[step]} before ({witness.card}), and the curve is for the counts that the "
                "detector gave; correct frame and dark first, from the frame as it was",
            )


def _gone_or_inside(witness: Testimony) -> str:
    return f"{'gone' if witness.done else 'inside'} ({witness.card})" + (
        " from" if witness.done else ""
    )


def _refuse_bias_inside(state: ProcessingState, what: str, consequence: str) -> None:
    bias, dark = state.witness("bias"), state.witness("dark")
    if bias is None or dark is None or bias.done or dark.done or state.of("overscan"):
        return
    raise StateError(
        "state",
        f"{what} still holds its bias ({bias.card}) and its dark ({dark.card}), {consequence}; "
        "subtract them first",
    )


def record_step(header: MutableMapping[str, Any], step: str) -> None:
    """Write the boolean card of a step that was done."""
    record = STEP_RECORDS[step]
    if isinstance(header, fits.Header):
        header[record.card] = (True, record.comment)
    else:
        header[record.card] = True
