"""What a run did: as a whole, and of each frame."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flatcal.extension import file_of
from flatcal.frame import Caveat
from flatcal.plan import FramePlan, Plan
from flatcal.records import Outcome, ProductRecord, RunRecord, Status
from flatcal.rejection import describe_losses, describe_unlike
from flatcal.storage import Place
from flatcal.text import html_table


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a run did.

    Attributes
    ----------
    out : Path or RemotePath
        The output folder.
    record : RunRecord
        The content of run.json.
    made : tuple of str
        Outputs that were made, each image of a file by itself; the other products were up to date.
    left_over : tuple of str
        Files of earlier runs that this one neither made nor found up to date.
    """

    out: Place
    record: RunRecord
    made: tuple[str, ...]
    left_over: tuple[str, ...]

    def _repr_html_(self) -> str:
        """Outputs, and frames that failed or were left out, as a notebook shows them."""
        products = [
            (
                product.output,
                str(len(product.inputs)),
                "" if product.median_adu is None else f"{product.median_adu:.6g}",
                str(product.n_flagged),
                "made" if product.output in self.made else "up to date",
            )
            for product in self.record.products.values()
        ]
        others = [
            (outcome.file, outcome.status.value, outcome.reason)
            for outcome in self.record.outcomes
            if outcome.status in (Status.FAILED, Status.LEFT_OUT)
        ]
        shown = html_table(
            f"outputs in {self.out}",
            ("file", "inputs", "median", "pixels flagged", ""),
            products,
        )
        if others:
            shown += html_table("not used", ("file", "", "why"), others)
        return shown

    @property
    def n_made(self) -> int:
        """Files that were made."""
        return len(set(map(file_of, self.made)))

    @property
    def n_current(self) -> int:
        """Files that were up to date."""
        return len(set(map(file_of, self.record.products))) - self.n_made

    @property
    def failed(self) -> tuple[Outcome, ...]:
        """Outcomes of frames that failed."""
        return tuple(o for o in self.record.outcomes if o.status is Status.FAILED)


def find_misfits(
    plan: Plan, products: Mapping[str, ProductRecord]
) -> dict[str, tuple[Caveat, ...]]:
    """Caveats for files that do not belong to the others of their master.

    Parameters
    ----------
    plan : Plan
        What was run.
    products : mapping
        Records of the outputs.
    """
    misfits: dict[str, tuple[Caveat, ...]] = {}
    for master in plan.masters:
        product = products.get(master.output)
        if product is None:
            continue
        losses = describe_losses(master.name, _by_input(product, product.rejected))
        slopes = _by_input(product, product.slopes)
        unlike = _by_input(product, product.unlike)
        for caveats in (losses, describe_unlike(master.name, slopes, unlike)):
            for file, caveat in caveats.items():
                misfits[file] = (*misfits.get(file, ()), caveat)
    return misfits


def _by_input(product: ProductRecord, numbers: tuple[float, ...] | None) -> dict[str, float]:
    return {} if numbers is None else dict(zip(product.inputs, numbers, strict=True))


def outcome_of(
    frame: FramePlan,
    failures: Mapping[str, Caveat],
    master_failures: Mapping[str, Caveat],
    misfits: Mapping[str, tuple[Caveat, ...]],
) -> Outcome:
    """What became of a frame.

    Parameters
    ----------
    frame : FramePlan
        What was planned.
    failures : mapping
        Files that failed, with the reason.
    master_failures : mapping
        Masters that could not be made, with the reason.
    misfits : mapping
        See `find_misfits`.
    """
    if frame.action == "leave_out":
        return Outcome(
            file=frame.file, kind=frame.kind, status=Status.LEFT_OUT, reason=frame.reason
        )
    errors = frame.errors
    if frame.file in failures:
        errors += (failures[frame.file],)
    elif frame.action == "combine" and frame.part_of and frame.part_of in master_failures:
        errors += (master_failures[frame.part_of],)
    if errors:
        status = Status.FAILED
    else:
        status = Status.CALIBRATED if frame.action == "calibrate" else Status.USED
    made = frame.part_of is not None and frame.part_of not in master_failures
    return Outcome(
        file=frame.file,
        kind=frame.kind,
        status=status,
        output=frame.output if status is Status.CALIBRATED else None,
        part_of=frame.part_of if made and not errors else None,
        reason=errors[0].text if errors else frame.reason,
        caveats=frame.caveats + misfits.get(frame.file, ()),
        errors=errors,
    )
