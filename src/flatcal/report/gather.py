"""From a run's records and files to what its report shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from flatcal.frame import Caveat
from flatcal.photon_transfer.night import DetectorReport
from flatcal.records import Outcome, Status
from flatcal.report.explain import explain_frame
from flatcal.report.gather_detectors import gather_detectors
from flatcal.report.gather_flats import gather_filters
from flatcal.report.gather_masters import gather_masters
from flatcal.report.plots import plot_checks
from flatcal.report.terminal import describe_steps, equal_decisions
from flatcal.report.views import FrameRow, Note, Plot, ReportView
from flatcal.storage import Place
from flatcal.verify.night import ReducedNight, open_night
from flatcal.verify.records import TESTS, Check, Verdict, Verification

# Tests of noise against its prediction; each gets a diagram.
_NOISE_TESTS = tuple(
    test for test in TESTS if test.endswith(("-noise", "-uncertainty", "-photons"))
)


def gather_report(
    out: Place,
    verification: Verification | None = None,
    measured: DetectorReport | None = None,
) -> ReportView:
    """Collect what the report of a run shows.

    Parameters
    ----------
    out : Path or RemotePath
        The output folder.
    verification : Verification, optional
        Results of the acceptance tests.
    measured : DetectorReport, optional
        Gain and read noise by pairs of frames.

    Returns
    -------
    ReportView
        What cannot be shown is named in it.

    Raises
    ------
    ConfigError
        When the folder holds no run.
    """
    night = open_night(out)
    outcomes = night.run.outcomes
    checks = () if verification is None else verification.checks
    missing = [night.why_no_raw] if night.why_no_raw else []
    if verification is None:
        missing.append(f"results of the tests, gain and noise: `flatcal report {out}` adds them")
    return ReportView(
        title="/".join(night.raw.parts[-2:]),
        summary=tuple(_summary(night, checks)),
        errors=collect_notes((o.file, o.errors) for o in outcomes),
        caveats=collect_notes((o.file, o.caveats) for o in outcomes),
        masters=tuple(gather_masters(night)),
        filters=tuple(gather_filters(night)),
        detectors=tuple(gather_detectors(night, measured)),
        frames=tuple(_row(night, outcome) for outcome in outcomes),
        checks=checks,
        check_plots=tuple(_noise_plots(checks)),
        provenance=(
            ("flatcal", night.run.flatcal_version),
            ("run began", night.run.started),
            ("run took", f"{night.run.seconds:.1f} s"),
            ("raw frames", str(night.raw)),
            ("outputs", str(out.resolve())),
        ),
        settings=night.plan.config.model_dump_json(indent=1, exclude_defaults=True),
        files=tuple(_hashes(night)),
        missing=tuple(missing),
    )


def collect_notes(notes: Iterable[tuple[str, Sequence[Caveat]]]) -> tuple[Note, ...]:
    """Equal caveats once, with the files that have them; the rarest first."""
    files: dict[Caveat, list[str]] = {}
    for file, caveats in notes:
        for caveat in caveats:
            files.setdefault(caveat, []).append(file)
    ordered = sorted(files.items(), key=lambda item: len(item[1]))
    return tuple(Note(caveat.slug, caveat.text, tuple(names)) for caveat, names in ordered)


def _summary(night: ReducedNight, checks: Sequence[Check]) -> list[str]:
    status = Counter(outcome.status for outcome in night.run.outcomes)
    told = [
        f"{len(night.run.outcomes)} frames: {status[Status.USED]} used in masters, "
        f"{status[Status.CALIBRATED]} calibrated, {status[Status.FAILED]} failed, "
        f"{status[Status.LEFT_OUT]} left out."
    ]
    for master in night.plan.masters:
        product = night.run.products.get(master.output)
        n_used = len(product.inputs) if product else 0
        if master.stored is not None:
            told.append(f"{master.name}: from the library, {master.reason}.")
        elif product is None:
            told.append(f"{master.name}: could not be made.")
        else:
            some = f"{n_used} of the " if n_used < len(master.inputs) else ""
            told.append(f"{master.name}: {some}{master.reason}.")
    calibrated = [frame for frame in night.plan.frames if frame.action == "calibrate"]
    for members in equal_decisions(calibrated):
        kind, filter_name = members[0].kind, members[0].filter
        what = (
            f"{len(members)} {kind.value if kind else '?'} frame{'s' if len(members) > 1 else ''}"
        )
        what += f" in filter {filter_name}" if filter_name else ""
        told.append(f"{what}: {'; '.join(describe_steps(members))}.")
    if checks:
        verdicts = Counter(check.verdict for check in checks)
        told.append(
            f"Tests: {verdicts[Verdict.PASS]} passed, {verdicts[Verdict.FAIL]} failed, "
            f"{verdicts[Verdict.NOT_POSSIBLE]} not possible."
        )
    return told


def _row(night: ReducedNight, outcome: Outcome) -> FrameRow:
    frame = night.frames[outcome.file]
    exposure = "" if frame.exposure_time_s is None else f"{frame.exposure_time_s:g} s"
    return FrameRow(
        file=outcome.file,
        kind=frame.kind.value if frame.kind else "?",
        exposure=exposure,
        filter=frame.filter,
        status=outcome.status.value,
        result=outcome.output or outcome.part_of or outcome.reason,
        story="\n".join(explain_frame(night.plan, frame)),
    )


def _noise_plots(checks: Sequence[Check]) -> Iterable[Plot]:
    for test in _NOISE_TESTS:
        of_test = [check for check in checks if check.test == test]
        plot = plot_checks(test, TESTS[test], of_test)
        if plot is not None:
            yield plot


def _hashes(night: ReducedNight) -> Iterable[tuple[str, str]]:
    for file, record in night.run.inputs.items():
        yield file, f"SHA-256 {record.sha256}"
    for output, product in night.run.products.items():
        yield output, f"recipe {product.recipe}"
