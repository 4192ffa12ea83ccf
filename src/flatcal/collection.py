"""A folder of FITS files as a table of header values, with filters and loops over the files.

`ImageFileCollection` has the constructor, attributes and methods of ccdproc 2.5.1's class of
that name, and gives the same table. Headers that it has read before it takes from a cache.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from itertools import repeat
from operator import is_
from pathlib import Path
from typing import Any, Literal
from warnings import warn

import numpy as np
import numpy.typing as npt
from astropy.io import fits
from astropy.nddata import fits_ccddata_reader
from astropy.table import Table

from flatcal.cards import HeaderCards, Value, columns_of
from flatcal.errors import FlatcalError, FlatcalWarning
from flatcal.header_cache import remembered_headers
from flatcal.headers import FITS_SUFFIXES, is_fits, open_file, read_header_cards, scan_hdus
from flatcal.text import one_line

logger = logging.getLogger(__name__)

Part = Literal["header", "data", "hdu"]


class ImageFileCollection:
    """FITS files of one folder, with a table of the values in their headers.

    Parameters
    ----------
    location : path, optional
        Folder of the files; folders below it are not searched.
    keywords : list of str or '*', optional
        Columns of the table. By default, and for ``'*'``, every keyword of every header.
    find_fits_by_reading : bool
        Find the files by their first bytes (gzip and bzip2 files too), not by their names.
        Ignored when `filenames` are given.
    filenames : str, path or list of them, optional
        The files, in `location` or with their own path, instead of all in the folder.
    glob_include, glob_exclude : str, optional
        Patterns that a file name must match, or must not match. Ignored with `filenames`.
    ext : int or str
        Number or name of the extension that headers and data are read from; 1 for ``.fz``.

    Raises
    ------
    OSError
        The folder cannot be listed.

    Warns
    -----
    FlatcalWarning
        There is no FITS file (empty-folder).

    Notes
    -----
    These differences from ccdproc are deliberate:

    - A file that cannot be read is logged as a warning, and listed in `unreadable`.
    - Names are recognised in any case (``.FIT``), and only with the dot before the extension;
      folders are not taken for files. ``.zip`` and ``.Z`` files are not read.
    - Of a keyword that comes more than once in a header the first value is taken, without a
      warning for each (COMMENT and HISTORY are joined by commas, as there).
    - A card whose value is not valid FITS holds its text; it does not end the program.
    - A header keyword ``FILE`` is not shown, because the column ``file`` holds the names.
    - `ccds` takes the pixels of a file without BUNIT as ADU, and says nothing about it; give
      ``ccd_kwargs={"unit": ...}`` where that is wrong. It refuses to save.
    - `filter` keeps `ext`.
    - Headers of files that have not changed come from the cache of headers.
    """

    def __init__(
        self,
        location: str | Path | None = None,
        keywords: Sequence[str] | str | None = None,
        find_fits_by_reading: bool = False,
        filenames: str | Path | Iterable[str | Path] | None = None,
        glob_include: str | None = None,
        glob_exclude: str | None = None,
        ext: int | str = 0,
    ) -> None:
        self._location = "" if location is None else location
        self._find_fits_by_reading = find_fits_by_reading
        if filenames is not None and not isinstance(filenames, str | Path):
            filenames = list(filenames)
        self._filenames = filenames
        self._glob_include = None if glob_include is None else str(glob_include)
        self._glob_exclude = None if glob_exclude is None else str(glob_exclude)
        self._ext = ext
        self._summary: Table | None = None
        self._files: list[str] = []
        self._read_folder()
        if not self._files:
            warn(
                FlatcalWarning(
                    "empty-folder", f"no FITS files in the collection at {str(location)!r}"
                ),
                stacklevel=2,
            )
        self.keywords = "*" if keywords is None else keywords

    def __repr__(self) -> str:
        parts = [f"location={self.location!r}"]
        if self._wanted != ["*"]:
            parts.append(f"keywords={self.keywords[1:]!r}")
        if self._filenames is not None:
            parts.append(f"filenames={self._filenames}")
        if self.glob_include is not None:
            parts.append(f"glob_include={self.glob_include!r}")
        if self.glob_exclude is not None:
            parts.append(f"glob_exclude={self.glob_exclude!r}")
        if self.ext != 0:
            parts.append(f"ext={self.ext}")
        return f"{type(self).__name__}({', '.join(parts)})"

    @property
    def location(self) -> str | Path:
        """Folder of the files, as it was given; empty when it was not."""
        return self._location

    @property
    def files(self) -> list[str]:
        """Names of all files, readable or not."""
        return self._files

    @property
    def unreadable(self) -> tuple[tuple[str, str], ...]:
        """Name and reason of each file that is left out, because it cannot be read."""
        return self._unreadable

    @property
    def summary(self) -> Table | None:
        """Masked table: ``file``, then a column for each keyword; None when there is no file.

        Columns stand in the order of `keywords`, or in that in which the headers bring them.
        A value that a file does not have is masked.
        """
        return self._summary

    def _repr_html_(self) -> str:
        """The summary as a notebook shows it."""
        return "no FITS files" if self._summary is None else str(self._summary._repr_html_())

    @property
    def glob_include(self) -> str | None:
        """Pattern that file names must match."""
        return self._glob_include

    @property
    def glob_exclude(self) -> str | None:
        """Pattern that file names must not match."""
        return self._glob_exclude

    @property
    def ext(self) -> int | str:
        """Number or name of the extension that is read."""
        return self._ext

    @property
    def keywords(self) -> list[str]:
        """Columns of `summary`; setting them makes the table anew, deleting them empties it."""
        if self._summary is None:
            return []
        columns: list[str] = self._summary.colnames
        return columns

    @keywords.setter
    def keywords(self, keywords: Sequence[str] | str | None) -> None:
        if keywords is None:
            del self.keywords
            return
        wanted = [keywords] if isinstance(keywords, str) else list(dict.fromkeys(keywords))
        self._wanted: list[str] | None = wanted
        current = set(self.keywords)
        if self._summary is not None and current.issuperset(wanted):
            self._summary.remove_columns(list(current - {*wanted, "file"}))
        else:
            self._summary = self._make_summary(wanted)

    @keywords.deleter
    def keywords(self) -> None:
        self._wanted = self._summary = None

    def values(self, keyword: str, unique: bool = False) -> list[Any]:
        """Return a column of the table as a list.

        Parameters
        ----------
        keyword : str
            Name of a column of `summary`.
        unique : bool
            Give each value once, in no order.

        Raises
        ------
        ValueError
            There is no such column.
        """
        if self._summary is None or keyword not in self.keywords:
            raise ValueError(f"keyword {keyword} is not in the current summary")
        values: list[Any] = self._summary[keyword].tolist()
        return list(set(values)) if unique else values

    def files_filtered(
        self, *, include_path: bool = False, regex_match: bool = False, **kwd: Any
    ) -> list[str] | npt.NDArray[np.str_]:
        """Return the names of the files whose headers hold the given values.

        Parameters
        ----------
        include_path : bool
            Put `location` before each name.
        regex_match : bool
            Take strings as regular expressions that the value must contain.
        **kwd
            Keyword and value: ``'*'`` for any value, None for a keyword that is absent. Strings
            are compared without regard to case. Keywords need not be columns of `summary`.

        Returns
        -------
        numpy.ndarray of str, or list of str
            Names in the order of the table; a list with `include_path`, or when it is empty.
        """
        if self._summary is None:
            return []
        names: npt.NDArray[np.str_] = np.asarray(self._summary["file"].data.data)
        names = names[self._matches(self._summary, regex_match, kwd)]
        return [str(Path(self._location, name)) for name in names] if include_path else names

    def refresh(self) -> None:
        """List the folder and read the headers again."""
        self._read_folder()
        self._summary = None if self._wanted is None else self._make_summary(self._wanted)

    def sort(self, keys: str | list[str]) -> None:
        """Sort the table, and with it the order of all loops, by one or more columns.

        In `files` the unreadable ones, of which no column is known, come last.
        """
        if self._summary is not None:
            self._summary.sort(keys)
            names: list[str] = np.asarray(self._summary["file"].data.data).tolist()
            self._files = names + [name for name, _ in self._unreadable]

    def filter(self, **kwd: Any) -> ImageFileCollection:
        """Return a collection of the files that `files_filtered` gives for the same arguments."""
        names = list(self.files_filtered(include_path=True, **kwd))
        return ImageFileCollection(filenames=names, keywords=self.keywords, ext=self.ext)

    def headers(self, do_not_scale_image_data: bool = True, **kwd: Any) -> Iterator[Any]:
        """Loop over headers (`astropy.io.fits.Header`); see `hdus` for the arguments."""
        return self._loop("header", do_not_scale_image_data, **kwd)

    def hdus(self, do_not_scale_image_data: bool = False, **kwd: Any) -> Iterator[Any]:
        """Loop over header-data units (`astropy.io.fits.PrimaryHDU` or another).

        A copy of each file, with what the loop has changed in it, is saved when one of the three
        saving arguments asks for it.

        Parameters
        ----------
        do_not_scale_image_data : bool
            Leave pixels as they are stored.
        save_with_name : str
            Save under the name with this added before its extension.
        save_location : path
            Save in this folder.
        overwrite : bool
            Save over a file that is there, which is the input without the other two.
        return_fname : bool
            Give pairs of unit and file name (without folder).
        **kwd
            Filters, as for `files_filtered`, with `regex_match`.
        """
        return self._loop("hdu", do_not_scale_image_data, **kwd)

    def data(self, do_not_scale_image_data: bool = False, **kwd: Any) -> Iterator[Any]:
        """Loop over pixels (`numpy.ndarray`); see `hdus` for the arguments."""
        return self._loop("data", do_not_scale_image_data, **kwd)

    def ccds(
        self,
        ccd_kwargs: dict[str, Any] | None = None,
        return_fname: bool = False,
        regex_match: bool = False,
        **kwd: Any,
    ) -> Iterator[Any]:
        """Loop over images (`astropy.nddata.CCDData`).

        Parameters
        ----------
        ccd_kwargs : dict, optional
            Arguments of `astropy.nddata.fits_ccddata_reader`. Without a ``unit`` that of the
            header's BUNIT is taken, or ``adu`` when there is none.
        return_fname : bool
            Give pairs of image and file name (without folder).
        regex_match, **kwd
            Filters, as for `files_filtered`.

        Raises
        ------
        NotImplementedError
            Saving, or pixels that are not scaled, are asked for.
        """
        unsupported = ("overwrite", "save_location", "save_with_name", "do_not_scale_image_data")
        if asked := [name for name in unsupported if kwd.pop(name, None)]:
            raise NotImplementedError(
                f"ccds scales its images and does not save them ({', '.join(asked)}); "
                "write each image in the loop by its write method"
            )
        return self._loop_ccds(ccd_kwargs or {}, return_fname, regex_match, kwd)

    def _loop(
        self,
        part: Part,
        do_not_scale_image_data: bool,
        *,
        save_with_name: str = "",
        save_location: str | Path = "",
        overwrite: bool = False,
        return_fname: bool = False,
        regex_match: bool = False,
        **kwd: Any,
    ) -> Iterator[Any]:
        scaling = {"do_not_scale_image_data": do_not_scale_image_data}
        for path in self._paths(regex_match, kwd):
            open_file(path).close()  # astropy would wait for ever at a pipe
            # The file is closed before the loop's body runs, which may stop half way.
            item = _read_part(part, path, self._ext, scaling)
            yield (item, path.name) if return_fname else item
            folder = Path(save_location) if save_location else path.parent
            target = folder / f"{path.stem}{save_with_name}{path.suffix}"
            if target != path or overwrite:
                with fits.open(path, **scaling) as hdus:
                    _replace_part(part, hdus, hdus.index_of(self._ext), item)
                    hdus.writeto(target, overwrite=overwrite)

    def _loop_ccds(
        self,
        ccd_kwargs: dict[str, Any],
        return_fname: bool,
        regex_match: bool,
        filters: dict[str, Any],
    ) -> Iterator[Any]:
        for path in self._paths(regex_match, filters):
            open_file(path).close()
            arguments = {"hdu": self._ext, **ccd_kwargs}
            if arguments.get("unit") is None and _lacks_unit(path, self._ext):
                arguments["unit"] = "adu"
            ccd = fits_ccddata_reader(str(path), **arguments)
            yield (ccd, path.name) if return_fname else ccd

    def _paths(self, regex_match: bool, filters: dict[str, Any]) -> list[Path]:
        if self._summary is None:
            return []
        if filters:
            names = self.files_filtered(regex_match=regex_match, **filters)
        else:
            names = self._summary["file"].compressed()  # the user may have masked rows
        return [Path(self._location, name) for name in names]

    def _matches(
        self, table: Table, regex_match: bool, filters: dict[str, Any]
    ) -> npt.NDArray[np.bool_]:
        if not set(filters) <= set(table.colnames):
            table = self._make_summary(list(filters))
        matches = np.ones(len(table), dtype=np.bool_)
        for keyword, wanted in filters.items():
            is_wanted = _make_test(wanted, regex_match)
            matches &= np.array([is_wanted(value) for value in table[keyword].tolist()], np.bool_)
        return matches

    def _read_folder(self) -> None:
        self._files = self._list_files()
        self._headers: dict[str, HeaderCards] = {}
        unreadable = []
        prefix = str(Path(self._location, "x"))[:-1]
        paths = [os.path.join(prefix, name) for name in self._files]  # noqa: PTH118  (faster)
        with remembered_headers(Path(next(iter(paths), "")).parent, self._ext) as read:
            for name, path in zip(self._files, paths, strict=True):
                try:
                    self._headers[name] = read(path)
                except (OSError, FlatcalError) as error:
                    shown = one_line(f"left out {path}, which cannot be read: {error}")
                    logger.warning("%s", shown)
                    unreadable.append((name, str(error)))
        self._unreadable = tuple(unreadable)

    def _list_files(self) -> list[str]:
        folder = Path(self._location)
        if isinstance(self._filenames, str | Path):
            return [_name_in(folder, self._filenames)]
        if self._filenames:
            return [_name_in(folder, file) for file in self._filenames]
        if self._location == "":
            return []
        is_wanted = _looks_like_fits if self._find_fits_by_reading else _is_named_fits
        with os.scandir(folder) as files:
            names = sorted(file.name for file in files if is_wanted(file))
        include, exclude = self._glob_include, self._glob_exclude
        return [
            name
            for name in names
            if (include is None or fnmatchcase(name, include))
            and (exclude is None or not fnmatchcase(name, exclude))
        ]

    def _make_summary(self, wanted: Sequence[str]) -> Table | None:
        names = [name for name in self._files if name in self._headers]
        if not names:
            return None
        found = columns_of([self._headers[name] for name in names])
        columns, masks = {"file": np.array(names)}, {}
        for keyword in _order_columns(wanted, found):
            values = found.get(keyword.lower())
            columns[keyword] = np.zeros(len(names)) if values is None else _as_array(values)
            if values is None:
                masks[keyword] = [True] * len(names)
            elif columns[keyword].dtype == object:
                masks[keyword] = [value is None for value in values]
        table = Table(columns, masked=True, copy=False)
        for keyword, mask in masks.items():
            table[keyword].mask = mask
        return table


def _order_columns(wanted: Sequence[str], in_headers: Iterable[str]) -> list[str]:
    """Return the names of the columns after ``file``, in the case in which they are wanted."""
    explicit = [keyword for keyword in wanted if keyword not in ("*", "file")]
    if "*" not in wanted:
        return explicit
    case = {keyword.lower(): keyword for keyword in explicit}
    return list(dict.fromkeys([case.get(keyword, keyword) for keyword in in_headers] + explicit))


def _as_array(values: Sequence[Value]) -> npt.NDArray[Any]:
    """Return the array that a table would make of the values, but sooner."""
    if all(map(is_, values, repeat(values[0]))):
        return np.repeat(np.array(values[:1]), len(values))
    return np.array(values)


def _make_test(wanted: object, regex_match: bool) -> Callable[[Value], bool]:
    """Return a function that tells whether a value of the table is the wanted one."""
    if wanted is None:
        return lambda value: value is None
    if not isinstance(wanted, str):
        return lambda value: value is not None and bool(value == wanted)
    if wanted == "*":
        return lambda value: value is not None
    if regex_match:
        pattern = re.compile(wanted, re.IGNORECASE)
        return lambda value: isinstance(value, str) and pattern.search(value) is not None
    lower = wanted.lower()
    return lambda value: isinstance(value, str) and value.lower() == lower


def _name_in(folder: Path, file: str | Path) -> str:
    """Return the bare name of a file that lies in the folder, any other as it was given."""
    path = Path(file)
    return path.name if folder.name and (folder / path).parent == folder else str(file)


def _is_named_fits(file: os.DirEntry[str]) -> bool:
    return file.name.lower().endswith(FITS_SUFFIXES) and _is_file(file)


def _is_file(file: os.DirEntry[str]) -> bool:
    try:
        return file.is_file()
    except OSError:  # links in a circle
        return True  # to be reported as unreadable, not passed over


def _looks_like_fits(file: os.DirEntry[str]) -> bool:
    try:
        return file.is_file() and is_fits(file.path)
    except OSError:
        return True  # to be reported as unreadable, not passed over


def _lacks_unit(path: Path, ext: int | str) -> bool:
    header = read_header_cards(path, ext)
    if ext == 0 and header.get("NAXIS") == 0:  # the reader goes on to an extension with data
        return not any(hdu.cards.get("BUNIT") for hdu in scan_hdus(path))
    return not header.get("BUNIT")


def _read_part(part: Part, path: Path, ext: int | str, scaling: dict[str, bool]) -> Any:
    if part == "header":
        return fits.getheader(path, ext)
    if part == "data":
        return fits.getdata(path, ext, **scaling)
    with fits.open(path, **scaling) as hdus:
        return hdus[hdus.index_of(ext)].copy()


def _replace_part(part: Part, hdus: Any, index: int, item: Any) -> None:
    if part == "hdu":
        hdus[index] = item
    else:
        setattr(hdus[index], part, item)
