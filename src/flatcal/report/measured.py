"""Measured gain and read noise in the terminal."""

from __future__ import annotations

from rich.console import Console

from flatcal.photon_transfer.curve import PhotonTransferCurve
from flatcal.photon_transfer.night import DetectorReport, MeasuredDetector
from flatcal.report.terminal import add_row, make_table


def print_detectors(report: DetectorReport) -> None:
    """What was measured of each set-up, from how much, and what contradicts it."""
    console = Console(highlight=False, soft_wrap=False)
    if not report.detectors:
        console.print(f"no flats and no bias frames in {report.raw}", markup=False)
    for detector in report.detectors:
        rows, columns = detector.shape
        of = f", amplifier {detector.amplifier}" if detector.amplifier else ""
        console.print(f"{detector.camera}, {rows} x {columns}{of}", style="bold", markup=False)
        if detector.curve is None:
            console.print(f"not measured: {detector.why_not} [gain-not-measured]", markup=False)
        else:
            _print_figures(console, detector, detector.curve)
        for caveat in detector.caveats:
            console.print(f"  {caveat.text} [{caveat.slug}]", markup=False, soft_wrap=True)


def _print_figures(
    console: Console, detector: MeasuredDetector, curve: PhotonTransferCurve
) -> None:
    table = make_table(None, "", "measured", "error", "assumed", "unit")
    for name, value, error, assumed, unit in (
        ("gain", curve.gain_electron_per_adu, curve.gain_error_electron_per_adu,
         detector.assumed_gain_electron_per_adu, "electron/ADU"),
        ("read noise", detector.read_noise_electron, detector.read_noise_error_electron,
         detector.assumed_read_noise_electron, "electron"),
        ("read noise", detector.read_noise_adu, detector.read_noise_error_adu, None, "ADU"),
        ("brighter-fatter a00", curve.a00_per_electron, curve.a00_error_per_electron, None,
         "1/electron"),
    ):  # fmt: skip
        if value is not None:
            shown = "" if assumed is None else f"{assumed:g}"
            add_row(table, name, f"{value:.4g}", f"{error:.2g}", shown, unit)
    console.print(table)
    console.print(
        f"from {len(detector.flat_pairs)} flat and {len(detector.bias_pairs)} bias pairs; "
        f"{curve.model} fit: {curve.model_reason}",
        markup=False,
        soft_wrap=True,
    )
