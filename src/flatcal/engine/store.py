"""The output folder: what an earlier run left in it, and the files of this one."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from hashlib import sha256
from typing import Any

import numpy as np
from astropy.io import fits
from pydantic import ValidationError

from flatcal.engine.headers import (
    PER_INPUT,
    add_flag_legend,
    add_inputs,
    add_per_input,
    ascii_text,
    colour_cards,
    read_per_input,
)
from flatcal.engine.products import Found, Planes
from flatcal.errors import FrameError, OutputError
from flatcal.extension import file_of, plane_key, with_extension
from flatcal.fits_mosaic import MosaicWriter, writing_mosaic
from flatcal.fits_writer import ImageWriter, go_on, whole_blocks, write_image, writing_image
from flatcal.flags import Flag
from flatcal.frame import Caveat, Kind
from flatcal.headers import HduInfo, scan_first_image, scan_hdus
from flatcal.io import make_folder, naming_output, read_file, require_ours, write_text
from flatcal.plan import FOLDER_OF, Plan
from flatcal.recipe import OUTPUT_SUFFIXES
from flatcal.records import InputRecord, ProductRecord, RunRecord
from flatcal.storage import Place, RemotePath, lie_in_one_another, status_of
from flatcal.user_cache import is_settled

logger = logging.getLogger(__name__)

# Cards that `OutputStore.describe` adds at the most for one input, but for a long file name, and
# characters of such a name that go on a card.
_CARDS_OF_DESCRIPTION = 12 + len(Flag)
_CHARACTERS_OF_CARD = 60

_MASTERS = "masters/"

FOLDERS = ("masters", *FOLDER_OF.values())


def check_output(raw: Place, out: Place) -> None:
    """Make the output folder, or refuse it.

    Raises
    ------
    OutputError
        It lies in the raw folder or around it, or cannot be written.
    """
    for folder in (out, *(out / name for name in FOLDERS)):
        if lie_in_one_another(raw, folder):
            raise OutputError(
                "output-in-raw",
                f"output {folder.resolve()} and raw {raw.resolve()} lie in one another; "
                "choose another",
            )
    if isinstance(out, RemotePath):
        return  # its folders are made with their first file, and the lock is the first to be made
    try:
        for name in FOLDERS:
            make_folder(out / name)
    except OSError as error:
        raise OutputError(
            "output-not-writable", f"{out} cannot be made: {error.strerror or error}"
        ) from error
    if not all(os.access(out / name, os.W_OK) for name in FOLDERS):
        raise OutputError("output-not-writable", f"{out} cannot be written; choose another folder")


class OutputStore:
    """An output folder.

    Parameters
    ----------
    out : Path or RemotePath
        The folder, made by `check_output`.
    overwrite : bool
        Whether files that flatcal did not write may be replaced.
    previous : RunRecord, optional
        What an earlier run did there.
    leave : callable, optional
        Raises KeyboardInterrupt when the run has been interrupted; called wherever work on an
        output can be given up.
    """

    def __init__(
        self,
        out: Place,
        *,
        overwrite: bool = False,
        previous: RunRecord | None = None,
        leave: Callable[[], None] = go_on,
    ) -> None:
        self.out = out
        self.leave = leave
        self.overwrite = overwrite
        self.previous = previous
        self._real = {name: (out / name).resolve() for name in ("", *FOLDERS)}

    @classmethod
    def resume(cls, out: Place, *, overwrite: bool, leave: Callable[[], None]) -> OutputStore:
        """The folder with what an earlier run has left in it.

        Raises
        ------
        OutputError
            When plan.json or run.json, which would be replaced, are somebody else's.
        """
        if not overwrite:
            for name in ("plan.json", "run.json"):
                # Both begin so, whatever became of the rest.
                require_ours(out / name, b'"schema_version"')
        return cls(out, overwrite=overwrite, previous=_previous_record(out), leave=leave)

    def known_input(self, raw: str, file: str) -> InputRecord | None:
        """A raw file as the earlier run read it, if it was in the same folder.

        One that had been changed just before is not known: another change might not show.
        """
        if self.previous is None or self.previous.raw != raw:
            return None
        record = self.previous.inputs.get(file)
        if record is None or record.etag:
            return record
        return record if is_settled(record.stamp, _started_ns(self.previous)) else None

    def known_failures(self, slug: str, inputs: Mapping[str, InputRecord]) -> dict[str, Caveat]:
        """Errors of that slug in the earlier run, of files that have not changed since."""
        if self.previous is None:
            return {}
        return {
            outcome.file: error
            for outcome in self.previous.outcomes
            for error in outcome.errors
            if error.slug == slug
            and file_of(outcome.file) in inputs
            and self.previous.inputs.get(file_of(outcome.file)) == inputs[file_of(outcome.file)]
        }

    def current(
        self, output: str, kind: Kind, recipe: str, inputs: Sequence[str], *, has_mask: bool
    ) -> ProductRecord | None:
        """The record of an output that stands, whole and made of the same things.

        The file itself tells, so that what an interrupted run has finished is not made again.
        """
        hdus = _scan_whole(self.out / output)
        if hdus is None:
            return None
        images = [hdu for hdu in hdus if hdu.cards.get("NAXIS")]
        cards = images[0].cards if images else {}
        # A master has NUSED as well, the factors of a master flat have not.
        is_master = output.startswith(_MASTERS) and cards.get("IMAGETYP") == kind.value
        n_planes = _n_planes(cards, has_mask=has_mask) + is_master
        if len(images) != n_planes:
            return None
        return _record_of(cards, output, kind, recipe, inputs)

    def current_mosaic(
        self,
        output: str,
        kind: Kind,
        recipe: str,
        images: Mapping[str, tuple[str, str]],
        *,
        has_mask: bool,
    ) -> list[ProductRecord] | None:
        """The records of the images of an output that stands, whole and made of the same things.

        Parameters
        ----------
        output : str
            File below the folder.
        kind : Kind
            Of the output.
        recipe : str
            That of the whole file.
        images : mapping of str to tuple
            Raw image and recipe of each image, by its extension.
        has_mask : bool
            Whether each has a MASK plane.
        """
        hdus = _scan_whole(self.out / output)
        if hdus is None:
            return None
        by_key = {(hdu.cards.get("EXTNAME"), hdu.cards.get("EXTVER", 1)): hdu for hdu in hdus[1:]}
        found = [by_key.get(plane_key(extension, "PRIMARY")) for extension in images]
        if hdus[0].cards.get("RECIPE") != recipe or None in found:
            return None
        headers = [hdu.cards for hdu in found if hdu is not None]
        if len(hdus) != 1 + sum(_n_planes(cards, has_mask=has_mask) for cards in headers):
            return None
        records = [
            _record_of(cards, with_extension(output, extension), kind, its_recipe, [file])
            for cards, (extension, (file, its_recipe)) in zip(headers, images.items(), strict=True)
        ]
        known = [record for record in records if record is not None]
        return known if len(known) == len(records) else None

    def check_replaceable(self, output: str) -> None:
        """Never replace what flatcal did not write, unless asked to."""
        if not self.may_replace(output):
            self.require_ours(output)

    def may_replace(self, output: str) -> bool:
        """Whether an output may be replaced whatever it is: asked for, or by the earlier run."""
        earlier = {} if self.previous is None else self.previous.products
        return self.overwrite or file_of(output) in map(file_of, earlier)

    def require_ours(self, output: str) -> None:
        """Refuse a file under the name of an output that flatcal did not write."""
        path = self.out / output
        if path.exists() and not self._is_ours(path):
            raise OutputError(
                "output-exists", f"{path} was not written by flatcal; say --overwrite"
            )

    def describe(
        self,
        output: str,
        kind: Kind,
        found: Found,
        header: fits.Header,
        recipe: str,
        inputs: Sequence[tuple[str, str]],
        *,
        has_mask: bool,
    ) -> ProductRecord:
        """The record of an output, of which its header is told as well.

        Parameters
        ----------
        output : str
            File below the folder.
        kind : Kind
            Of the output.
        found : Found
            What was found out about its pixels.
        header : Header
            Changed in place: level, flags, source of the uncertainty and inputs are added.
        recipe : str
            Hash of what determines it.
        inputs : sequence of tuple
            Raw files and their SHA-256.
        has_mask : bool
            Whether it gets a MASK plane.
        """
        if found.median_adu is not None:
            header["GOODMED"] = (found.median_adu, "median of the good pixels")
        if found.refined_scale is not None:
            header["DARKSREF"] = (found.refined_scale, "factor of the dark, refined on hot pixels")
        if found.std_source is not None:
            header["ERRSRC"] = (found.std_source, "what UNCERT comes from")
        if found.colours is not None:
            header.update(colour_cards(*found.colours))
        add_flag_legend(header, found.n_flagged, has_mask=has_mask)
        add_inputs(header, inputs, recipe)
        for what in PER_INPUT:
            if (numbers := getattr(found, what)) is not None:
                add_per_input(header, what, numbers)
        return ProductRecord(
            output=output,
            kind=kind,
            recipe=recipe,
            inputs=tuple(file for file, _ in inputs),
            median_adu=found.median_adu,
            n_flagged=found.n_flagged,
            refined_scale=found.refined_scale,
            **read_per_input(header, len(inputs)),
        )

    def holds(self, output: str) -> bool:
        """Whether there is something under the name of an output."""
        return (self.out / output).exists()

    @contextmanager
    def writing(
        self,
        output: str,
        header: fits.Header,
        file: str,
        shape: tuple[int, int],
        dtypes: Mapping[str, Any],
    ) -> Iterator[ImageWriter]:
        """Write an output in bands, which is described before it is finished.

        See `flatcal.fits_writer.writing_image`.
        """
        path, more = self._path(output), cards_of_description(file)
        with writing_image(path, header, more, shape, dtypes, self.leave) as writer:
            yield writer
        logger.info("wrote %s", output)

    @contextmanager
    def writing_mosaic(
        self, output: str, header: fits.Header, n_more_cards: int
    ) -> Iterator[MosaicWriter]:
        """Write an output of several images; see `flatcal.fits_mosaic.writing_mosaic`."""
        with writing_mosaic(self._path(output), header, n_more_cards, self.leave) as writer:
            yield writer
        logger.info("wrote %s", output)

    def write_master(self, output: str, header: fits.Header, planes: Planes) -> None:
        """Write a master, which is whole in memory and has been described."""
        named = {
            "PRIMARY": planes.data,
            "UNCERT": planes.std,
            "MASK": (planes.flags != 0).view(np.uint8),
            "FLAGS": planes.flags.view(np.int16),
            "NUSED": planes.n_used.view(np.int16),
        }
        present = {name: image for name, image in named.items() if image is not None}
        write_image(self._path(output), header, present, self.leave)
        logger.info("wrote %s", output)

    def finish(self, plan: Plan, record: RunRecord) -> RunRecord:
        """Write plan.json and run.json; a record that only differs in time is left alone."""
        planned = plan.model_dump_json(indent=1) + "\n"
        record = record.model_copy(update={"plan_sha256": sha256(planned.encode()).hexdigest()})
        timeless = {"started", "seconds"}
        if self.previous is not None and record.model_dump(
            exclude=timeless
        ) == self.previous.model_dump(exclude=timeless):
            record = self.previous
        write_text(self._path("plan.json"), planned)
        write_text(self._path("run.json"), record.model_dump_json(indent=1) + "\n")
        return record

    def left_over(self, products: Iterable[str]) -> tuple[str, ...]:
        """Images that flatcal wrote, but neither made nor confirmed in this run."""
        present = {f"{name}/{file}" for name in FOLDERS for file in self._images(name)}
        others = sorted(present - set(map(file_of, products)))
        return tuple(file for file in others if self._is_ours(self.out / file))

    def _images(self, folder: str) -> list[str]:
        suffixes = tuple(OUTPUT_SUFFIXES.values())
        with naming_output(self.out / folder):
            names = [path.name for path in self._path(f"{folder}/*").parent.iterdir()]
        return [name for name in names if name.endswith(suffixes)]

    def _path(self, output: str) -> Place:
        """Where an output goes, whose folder must be the one that it was when the run began.

        Raises
        ------
        OutputError
            It has become a link to somewhere else, which nobody has compared with the raw folder.
        """
        folder = output.rpartition("/")[0]
        path, then, now = self.out / output, self._real[folder], (self.out / folder).resolve()
        if now != then:
            raise OutputError(
                "output-not-writable",
                f"{path} cannot be written: its folder was {then} when the run began and is {now} "
                "now; run again",
            )
        return path

    def _is_ours(self, path: Place) -> bool:
        try:
            return "FLATCAL" in scan_first_image(path).cards
        except (FrameError, OSError):
            return False


def _previous_record(out: Place) -> RunRecord | None:
    """run.json of an earlier run, if it can be understood."""
    try:
        return RunRecord.model_validate_json(read_file(out / "run.json"))
    except (FrameError, OSError, ValidationError):
        return None


def _started_ns(record: RunRecord) -> int:
    """When a run began: before it read its inputs; 0 if that cannot be told."""
    try:
        return int(datetime.fromisoformat(record.started).timestamp()) * 10**9
    except (ValueError, OverflowError):
        return 0


def cards_of_description(file: str) -> int:
    """Cards that `OutputStore.describe` adds at the most for an output of one raw image."""
    return _CARDS_OF_DESCRIPTION + len(ascii_text(file)) // _CHARACTERS_OF_CARD


def _n_planes(cards: Mapping[str, Any], *, has_mask: bool) -> int:
    """Planes of an image with such a header."""
    return 1 + ("ERRSRC" in cards) + 2 * has_mask


def _scan_whole(path: Place) -> tuple[HduInfo, ...] | None:
    """The HDUs of an output that is there as a whole."""
    try:
        hdus = scan_hdus(path)
        size = status_of(path).size_bytes
    except (FrameError, OSError):
        return None
    last = hdus[-1]
    return hdus if size == last.data_offset + whole_blocks(last.data_bytes) else None


def _record_of(
    cards: Mapping[str, Any], output: str, kind: Kind, recipe: str, inputs: Sequence[str]
) -> ProductRecord | None:
    """The record of an image from its header; None where that is of another recipe."""
    n_flagged = cards.get("NFLAGGED")
    if not isinstance(n_flagged, int) or cards.get("RECIPE") != recipe:
        return None
    return ProductRecord(
        output=output,
        kind=kind,
        recipe=recipe,
        inputs=tuple(inputs),
        median_adu=_number(cards.get("GOODMED")),
        n_flagged=n_flagged,
        refined_scale=_number(cards.get("DARKSREF")),
        **read_per_input(cards, len(inputs)),
    )


def _number(value: object) -> float | None:
    """A number as it was before a header held it: see `Found`."""
    return float(np.float32(value)) if isinstance(value, int | float) else None
