"""Outputs that hold the calibrated images of one raw file, each in an extension."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from astropy.io import fits

from flatcal.engine.frames import (
    Bench,
    FrameDone,
    FrameTask,
    FrameWork,
    found_in,
    output_of,
    work_on_frame,
)
from flatcal.engine.headers import add_inputs, mosaic_header, read_header
from flatcal.engine.recipes import Recipes
from flatcal.engine.store import cards_of_description
from flatcal.errors import FlatcalError, FrameError, StorageError
from flatcal.extension import extension_of, file_of
from flatcal.frame import Caveat
from flatcal.io import owning_up
from flatcal.plan import FramePlan
from flatcal.records import ProductRecord

# What the primary header is told at the end, but for long names and images that are missing.
_CARDS_AT_THE_END = 8


def do_task(bench: Bench, task: FrameTask) -> FrameDone:
    """Do a task, whether it is of one frame or of a file of several images.

    What goes wrong with frames is told, not raised.

    Raises
    ------
    StorageError
        When the server of an address stays away, for which no frame is to blame.
    """
    if task.do != "write" or not extension_of(output_of(task.frame)):
        return work_on_frame(bench, task)
    work = _MosaicWork(bench, task)
    try:
        with owning_up(work.output):
            work.do()
    except StorageError:
        raise
    except FlatcalError as error:
        return work.result(Caveat(error.slug, error.text))
    return work.result()


class _MosaicWork:
    """The task of making one output while it is done.

    An image that fails is left out and named; the others are written.
    """

    def __init__(self, bench: Bench, task: FrameTask) -> None:
        self.bench = bench
        self.task = task
        self.record = task.record
        self.file = file_of(task.frame.file)
        self.output = file_of(output_of(task.frame))
        self.done: dict[str, FrameDone] = {}

    def result(self, why_not: Caveat | None = None) -> FrameDone:
        """What came of the images; why there is no output where nothing came of it."""
        if why_not is not None:
            self.done = {file: done for file, done in self.done.items() if done.failure}
        first, *others = (
            self.done.get(frame.file, FrameDone(failure=why_not)) for frame in self.task.frames
        )
        return replace(first, record=self.record, others=tuple(others))

    def do(self) -> None:
        """Make the output, unless it is up to date."""
        reading = FrameWork(self.bench, self.task)
        reading.hash()
        self.record = reading.record
        works = {
            frame.file: FrameWork(
                self.bench, replace(self.task, frame=frame, record=self.record, others=())
            )
            for frame in self.task.frames
        }
        recipes = self._recipes(works)
        if self.bench.store.holds(self.output) and recipes:
            if self._is_current(recipes):
                return
            if not self.task.replaceable:
                self.bench.store.require_ours(self.output)
        self._write({file: works[file] for file in recipes})

    def _recipes(self, works: Mapping[str, FrameWork]) -> dict[str, str]:
        """The recipe of each image, but for those whose masters could not be made."""
        recipes = {}
        for file, work in works.items():
            try:
                recipes[file] = work.recipe()
            except FrameError as error:
                self._fail(work.frame, error)
        return recipes

    def _fail(self, frame: FramePlan, error: FlatcalError) -> None:
        self.done[frame.file] = FrameDone(failure=Caveat(error.slug, error.text))

    def _is_current(self, recipes: Mapping[str, str]) -> bool:
        assert self.task.frame.kind is not None
        known = self.bench.store.current_mosaic(
            self.output,
            self.task.frame.kind,
            Recipes.of_mosaic({extension_of(file): recipe for file, recipe in recipes.items()}),
            {extension_of(file): (file, recipe) for file, recipe in recipes.items()},
            has_mask=self.bench.setting.config.output.mask,
        )
        for file, product in zip(recipes, known or (), strict=known is not None):
            self.done[file] = FrameDone(found=found_in(product), product=product)
        return known is not None

    def _write(self, works: Mapping[str, FrameWork]) -> None:
        raw = read_header(self.bench.setting.raw_folder / self.file, 0)
        header = mosaic_header(raw, self.task.frame)
        n_images = len(self.task.frames) + len(self.task.absent)
        n_more = _CARDS_AT_THE_END + n_images + cards_of_description(self.file)
        made: dict[str, ProductRecord] = {}
        n_extensions = 0
        with self.bench.store.writing_mosaic(self.output, header, n_more) as writer:
            for file, work in works.items():
                try:
                    layout = work.lay_out()
                    with writer.image(
                        extension_of(file),
                        layout.header,
                        cards_of_description(file),
                        work.frame.kept_shape,
                        layout.dtypes,
                    ) as image:
                        done = work.fill(image, layout)
                except StorageError:
                    raise
                except FlatcalError as error:
                    self._fail(work.frame, error)
                    continue
                self.done[file] = done
                assert done.product is not None
                made[extension_of(file)] = done.product
                n_extensions += len(layout.dtypes)
            if not made:
                raise FrameError("extension-failed", f"no image of {self.file} could be calibrated")
            header["NEXTEND"] = (n_extensions, "extensions: images and their planes")
            self._describe(header, made)
            writer.finish(header)

    def _describe(self, header: fits.Header, made: Mapping[str, ProductRecord]) -> None:
        """Tell the primary header what is in the file, and what is not."""
        header["NEXTIMG"] = (len(made), "calibrated images in extensions")
        names = [extension_of(frame.file) for frame in self.task.frames]
        absent = [name for name in (*names, *self.task.absent) if name not in made]
        for number, name in enumerate(absent, start=1):
            header[f"NOIMG{number:03d}"] = (name, "extension without calibrated image")
        assert self.record is not None
        recipe = Recipes.of_mosaic({name: product.recipe for name, product in made.items()})
        add_inputs(header, [(self.file, self.record.sha256)], recipe)
