"""Hostile and broken files, and what flatcal must make of them.

A night of a few good frames gets some hostile ones beside them: small files like those of real
cameras, and the real ones where they are at hand, with bits, cards and structure changed at random.
Whatever they hold, the night is listed, planned and run: each file is a frame, or has an error with
a slug; no exception, no hang, no memory over the limit, no file written but in the output folder.

As a program it tries many of them (`make soak`); each batch has a number that brings it back.
"""

from __future__ import annotations

import argparse
import bz2
import contextlib
import faulthandler
import gzip
import io
import json
import logging
import os
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
from pathlib import Path

import numpy as np
from astropy.io import fits

from flatcal import ImageFileCollection
from flatcal.engine.run import run_plan
from flatcal.errors import MESSAGES, FlatcalError
from flatcal.extension import file_of
from flatcal.index import find_frames
from flatcal.planning import build_plan
from flatcal.recipe import Config
from flatcal.report.terminal import print_frames, print_plan, print_result

CARD, BLOCK = 80, 2880
PER_BATCH = 10
MEMORY_BYTES = 64 * 2**20
# What a batch may add to the address space of the process, and how long it may take.
EXTRA_BYTES = 2 * 2**30
LONGEST_S = 60
# Those of libraries tell of the files; one of numpy's arithmetic is a defect.
WARNINGS = ("-W", "ignore", "-W", "error::RuntimeWarning")

KEYWORDS = """\
SIMPLE BITPIX NAXIS NAXIS1 NAXIS2 NAXIS3 EXTEND BZERO BSCALE BLANK XTENSION PCOUNT GCOUNT
GROUPS IMAGETYP EXPTIME EXPOSURE OBJECT FILTER FILTER1 DATE-OBS BUNIT GAIN EGAIN RDNOISE XBINNING
YBINNING CCDSUM BIASSEC TRIMSEC DATASEC CCDSEC SET-TEMP CCD-TEMP INSTRUME TELESCOP PEDESTAL CCDSFPT
AMPSROW COVER READOUTM CTYPE1 CRPIX1 CRVAL1 CD1_1 CDELT1 WCSAXES A_ORDER ZIMAGE ZNAXIS ZNAXIS1
ZNAXIS2 ZBITPIX ZTILE1 ZTILE2 ZCMPTYPE ZQUANTIZ TFIELDS TFORM1 TTYPE1 TFORM2 THEAP EXTNAME DATASUM
CHECKSUM FLATCAL RECIPE COMBINED NCOMBINE HISTORY COMMENT END CONTINUE HIERARCH MJD-OBS""".split()  # noqa: SIM905

VALUES = [
    "NaN", "inf", "-inf", "1E400", "-1E400", "1e-400", "-1", "0", "-0.0", "1", "2", "3", "999",
    "16", "1000000", "1000000000000", "9223372036854775808", "-9223372036854775809", "9" * 60,
    "T", "F", "''", "'abc'", "'NaN'", "'inf'", "'6,4E-05'", "6,4E-05", "'unterminated", "(1, 2)",
    "", "/ none", "'[1:2,3:4]'", "'[0:0,0:0]'", "'[-5:99999999999,*]'", "'[1:'", "'" + "x" * 90,
    "'\x1b[31mred'", "'../../../etc'", "'a\u00e9\u00ff'", "\x00\x00", "'[/bold]'", "'%s%n'",
    "'2024-02-30T25:61:61'", "'BIAS'", "'flat'", "'Light Frame'", "'electron'", "'furlong'",
    "0x10", "1_000", "+", "-", "1D5", "'it''s'", "'&'", "1 2", "'GZIP_1'", "'RICE_1'",
    "'HCOMPRESS_1'", "'PLIO_1'", "'1PB(99999999)'",
]  # fmt: skip

# Names that a shell, a terminal, a table or a path could take for something else.
NAMES = [
    "two words.fits", "it's.fits", "a \"quoted\" one.fits", "line\nbreak.fits", "-o.fits",
    "--help.fits", "\x1b[31mred\x1b[0m.fits", "$(touch pwned).fits", "a;b|c&d.fits", "..fits",
    "...fits", "%s%n.fits", "[bold]x.fits", "[red].fits", "x" * 240 + ".fits",
    "é" * 115 + ".fits", "caf\u00e9.fits", "cafe\u0301.fits", "\u202etxt.fits",
    "a\\..\\..\\b.fits", "~.fits", "nul\t.fits", "CON.fits", "*.fits", "?.fits", "a:b.fits",
    "\udcff\udcfe.fits", ".fits.fits", "x.fits.fits", " .fits",
]  # fmt: skip


# -- files -------------------------------------------------------------------------------


def frame_bytes(
    kind: str, exposure: float, level: int, dtype: str = "u2", **cards: object
) -> bytes:
    """A small frame like that of a camera."""
    rng = np.random.default_rng(level)
    data = rng.normal(level, 10, (16, 20)).astype(dtype)
    header = fits.Header({"IMAGETYP": kind, "EXPTIME": exposure, "FILTER": "V", "BUNIT": "adu"})
    header["DATE-OBS"] = "2024-05-13T01:02:03"
    header.update(cards)
    stream = io.BytesIO()
    fits.PrimaryHDU(data, header).writeto(stream)
    return stream.getvalue()


def packed_bytes(**options: object) -> bytes:
    """A tile-compressed frame."""
    data = np.random.default_rng(5).normal(1000, 10, (16, 20)).astype("u2")
    header = fits.Header({"IMAGETYP": "BIAS", "EXPTIME": 0.0, "BUNIT": "adu"})
    stream = io.BytesIO()
    hdu = fits.CompImageHDU(data, header, **options)
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(stream)
    return stream.getvalue()


def several_bytes() -> bytes:
    """Several images in one file."""
    stream = io.BytesIO()
    images = [fits.ImageHDU(np.zeros((4, 5), "i2"), name=f"CHIP{n}") for n in range(3)]
    fits.HDUList([fits.PrimaryHDU(), *images]).writeto(stream)
    return stream.getvalue()


def good_night() -> dict[str, bytes]:
    """A night that can be calibrated throughout."""
    night = {f"b{n}.fits": frame_bytes("BIAS", 0.0, 1000 + n) for n in range(3)}
    night |= {f"d{n}.fits": frame_bytes("DARK", 60.0, 1060 + n) for n in range(3)}
    night |= {f"f{n}.fits": frame_bytes("FLAT", 2.0, 20_000 + n) for n in range(3)}
    return night | {"s.fits": frame_bytes("LIGHT", 60.0, 3000)}


def seeds_of_mutation(data: Path | None) -> list[bytes]:
    """Whole files from which the hostile ones are made."""
    found = list(good_night().values())
    found *= 3
    found += [frame_bytes("FLAT", 2.0, 20_000, dtype) for dtype in ("i2", "u1", "i4", "f4", "f8")]
    found += [
        frame_bytes("LIGHT", 60.0, 3000, BIASSEC="[17:20,1:16]", TRIMSEC="[1:16,1:16]"),
        frame_bytes("LIGHT", 60.0, 3000, LONGWORD="x" * 200, COVER=4),
        packed_bytes(),
        packed_bytes(compression_type="GZIP_1", tile_shape=(4, 20)),
        packed_bytes(compression_type="HCOMPRESS_1", tile_shape=(16, 20)),
        several_bytes(),
    ]
    for path in sorted(data.rglob("*")) if data else ():
        if ".fit" in path.name.lower():
            found.append(_cropped(path.read_bytes()))
    return found


def _cropped(content: bytes) -> bytes:
    """The first rows of a plain image under its own header, so that many fit in memory."""
    if len(content) < 1_000_000 or b"NAXIS2  =" not in content[:BLOCK]:
        return content
    cards = _cards(content)
    place = next(i for i, card in enumerate(cards) if card.startswith(b"NAXIS2  ="))
    width = next(int(card[10:30]) for card in cards if card.startswith(b"NAXIS1  ="))
    cards[place] = b"NAXIS2  = %20d".ljust(CARD) % 16
    cards[place] = cards[place].ljust(CARD)[:CARD]
    head = _pad(b"".join(cards))
    data = content[len(head) :][: 16 * width * 2]
    return head + data.ljust(-(-len(data) // BLOCK) * BLOCK, b"\0")


def _cards(content: bytes) -> list[bytes]:
    """The cards of the first header, END with them."""
    cards = []
    for start in range(0, len(content), CARD):
        cards.append(content[start : start + CARD])
        if cards[-1].startswith(b"END     "):
            break
    return cards


def _pad(head: bytes) -> bytes:
    return head.ljust(-(-len(head) // BLOCK) * BLOCK, b" ")


def _any_card(rng: random.Random) -> bytes:
    keyword, value = rng.choice(KEYWORDS), rng.choice(VALUES)
    form = rng.choice(
        ["{:8}= {}", "{:8}= {:>20}", "{:8}={}", "{:8}  {}", "HIERARCH {} = {}", "{}{}"]
    )
    return form.format(keyword, value).encode("latin-1").ljust(CARD)[:CARD]


def _change_header(rng: random.Random, content: bytes) -> bytes:
    cards = _cards(content)
    rest = content[len(_pad(b"".join(cards))) :]
    for _ in range(rng.choice([1, 1, 1, 2, 5, 20])):
        place = rng.randrange(len(cards))
        what = rng.randrange(9)
        if what == 0:  # the value of a card that is there
            value = rng.choice(VALUES).encode("latin-1")
            cards[place] = (cards[place][:10] + value).ljust(CARD)[:CARD]
        elif what == 1:
            cards[place] = _any_card(rng)
        elif what in (2, 3):
            cards.insert(place, _any_card(rng))
        elif what == 4:
            cards.insert(place, cards[rng.randrange(len(cards))])
        elif what == 5 and len(cards) > 1:
            del cards[place]
        elif what == 6:
            text = rng.choice(["'&'", "'x&'", "'", "", "'" + "y" * 66 + "&'"])
            cards.insert(place, f"CONTINUE  {text}".encode().ljust(CARD)[:CARD])
        elif what == 7:
            cards.insert(place, rng.randbytes(CARD))
        else:
            other = rng.randrange(len(cards))
            cards[place], cards[other] = cards[other], cards[place]
    return _pad(b"".join(cards)) + rest


def _change_bytes(rng: random.Random, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice([1, 3, 30])):
        end = len(changed) if rng.random() < 0.4 else min(len(changed), 2 * BLOCK)
        if end:
            changed[rng.randrange(end)] = rng.randrange(256)
    return bytes(changed)


def _change_structure(rng: random.Random, content: bytes) -> bytes:
    place = rng.randrange(len(content) + 1)
    extension = content.replace(b"SIMPLE  =                    T", b"XTENSION= 'IMAGE   '    ")
    change = rng.choice(
        [
            lambda: content[:place],
            lambda: content + rng.randbytes(rng.randrange(1, 4000)),
            lambda: content + extension,
            lambda: gzip.compress(content, 1),
            lambda: _change_bytes(rng, gzip.compress(content, 1)),
            lambda: bz2.compress(content, 1),
            lambda: gzip.compress(gzip.compress(content, 1), 1),
            lambda: content[:place] + rng.randbytes(BLOCK) + content[place:],
        ]
    )
    return change()


def hostile_file(rng: random.Random, sources: list[bytes]) -> bytes:
    """One file, from a good one by one or a few changes."""
    content = rng.choice(sources)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        change = rng.choice([_change_header, _change_header, _change_bytes, _change_structure])
        content = change(rng, content)
    return content


# -- what must hold ----------------------------------------------------------------------


def require_sound(raw: Path, out: Path, *, files: int | None = None) -> dict[str, int]:
    """List, plan and run a folder in every public way; count the slugs.

    Raises AssertionError, or whatever flatcal should not have raised.
    """
    before = {path: path.read_bytes() for path in raw.iterdir() if path.is_file()}
    with contextlib.redirect_stdout(io.StringIO()) as said:
        for ext in (0, 1):
            ImageFileCollection(raw, ext=ext)
        listed = find_frames(raw, Config())
        print_frames(listed)
        plan = build_plan(raw)
        print_plan(plan)
        result = run_plan(plan, out, jobs=2, memory_bytes=MEMORY_BYTES)
        print_result(result)
        again = run_plan(plan, out, jobs=1, memory_bytes=MEMORY_BYTES)
    assert again.made == ()
    assert again.record == result.record
    outcomes = result.record.outcomes
    assert len({outcome.file for outcome in outcomes}) == len(outcomes) == len(listed)
    # Some become files of several images.
    assert files is None or len({file_of(outcome.file) for outcome in outcomes}) == files
    slugs: dict[str, int] = {}
    for outcome in outcomes:
        for note in (*outcome.errors, *outcome.caveats):
            assert note.slug in MESSAGES, note
            assert note.slug != "defect", (outcome.file, note.text)
            slugs[note.slug] = slugs.get(note.slug, 0) + 1
        if outcome.output is not None:
            assert (out / outcome.output).resolve().is_relative_to(out.resolve())
    hidden = [path for path in out.rglob("*") if path.name.startswith(".")]
    assert hidden == []
    after = {path: path.read_bytes() for path in raw.iterdir() if path.is_file()}
    assert before == after
    assert "\x1b" not in said.getvalue()
    return slugs


def try_batch(number: int, seed: int, sources: list[bytes], folder: Path) -> dict[str, int]:
    """Put hostile files beside a good night, and require what must hold."""
    rng = random.Random(f"{seed}:{number}")
    raw = folder / "raw"
    raw.mkdir(parents=True)
    night = good_night()
    for place in range(PER_BATCH):
        suffix = rng.choice(["", "", "", ".gz", ".fz", ".bz2"])
        night[f"h{place}.fits{suffix}"] = hostile_file(rng, sources)
    for name, content in night.items():
        (raw / name).write_bytes(content)
    slugs = require_sound(raw, folder / "out", files=len(night))
    # What is good is calibrated whatever lies beside it; only a file that passes for a dark of
    # another exposure can show that darks must not be scaled, which is what refuses the flats then.
    outcomes = {
        o["file"]: o for o in json.loads((folder / "out/run.json").read_bytes())["outcomes"]
    }
    because = {error["slug"] for error in outcomes["f0.fits"]["errors"]}
    assert outcomes["s.fits"]["status"] == "calibrated" or because == {"dark-exposure"}
    return slugs


def make_work_folder() -> Path:
    """A folder for `--work`, in memory where there is such a place."""
    shm = Path("/dev/shm")
    return Path(tempfile.mkdtemp(prefix="flatcal-", dir=shm if shm.is_dir() else None))


def main() -> int:
    """Try batches, print the figures as JSON; what fails is kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first", type=int, default=0, help="number of the first batch")
    parser.add_argument("--batches", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir()) / "flatcal-fuzz")
    parser.add_argument(
        "--work", type=Path, help="folder to work in, its file 'batch' tells at what"
    )
    chosen = parser.parse_args()
    faulthandler.enable()
    logging.disable(logging.CRITICAL)
    data = os.environ.get("FLATCAL_DATA")
    sources = seeds_of_mutation(Path(data) if data else None)
    work = chosen.work or make_work_folder()
    os.environ["FLATCAL_CACHE_DIR"] = str(work / "cache")
    try_batch(-1, chosen.seed, sources[:1], work / "warm-up")  # compiles what is used
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + EXTRA_BYTES, resource.RLIM_INFINITY))
    slugs: dict[str, int] = {}
    failed, slowest, started = [], 0.0, time.monotonic()
    for number in range(chosen.first, chosen.first + chosen.batches):
        folder, clock = work / str(number), time.monotonic()
        # One that hangs ends the process.
        (work / "batch").write_text(str(number))
        faulthandler.dump_traceback_later(LONGEST_S, exit=True)
        try:
            for slug, count in try_batch(number, chosen.seed, sources, folder).items():
                slugs[slug] = slugs.get(slug, 0) + count
        except Exception as error:
            kept = chosen.keep / f"{chosen.seed}-{number}"
            shutil.rmtree(kept, ignore_errors=True)
            shutil.copytree(folder, kept)
            (kept / "why.txt").write_text(traceback.format_exc())
            known = "refused whole: " if isinstance(error, FlatcalError) else ""
            failed.append(f"batch {number}: {known}{type(error).__name__}: {error}")
            print(failed[-1], file=sys.stderr, flush=True)
        faulthandler.cancel_dump_traceback_later()
        slowest = max(slowest, time.monotonic() - clock)
        shutil.rmtree(folder)
    shutil.rmtree(work)
    figures = {
        "inputs": chosen.batches * PER_BATCH,
        "failed": failed,
        "slowest_batch_s": round(slowest, 2),
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "seconds": round(time.monotonic() - started, 1),
        "slugs": dict(sorted(slugs.items())),
    }
    print(json.dumps(figures, indent=1))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
