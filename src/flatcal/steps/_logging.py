"""Record of each call in the header of its result."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, Final, ParamSpec

import numpy as np
from astropy import config
from astropy import units as u
from astropy.io import fits
from astropy.nddata import CCDData, NDData

from flatcal.state import record_step
from flatcal.steps.keyword import Keyword

P = ParamSpec("P")
AddKeyword = bool | str | Keyword | Mapping[str, Any] | None

# A FITS card cannot have both a long name and a long value. The long name therefore holds the
# short one, and the short one the arguments; the names are those of ccdproc.
SHORT_NAMES: Final[Mapping[str, str]] = {
    "ccd_process": "ccdproc",
    "correct_linearity": "corrlin",
    "create_deviation": "creatvar",
    "flat_correct": "flatcor",
    "gain_correct": "gaincor",
    "subtract_bias": "subbias",
    "subtract_dark": "subdark",
    "subtract_overscan": "suboscan",
    "trim_image": "trimim",
}


class Conf(config.ConfigNamespace):  # type: ignore[misc]
    """Settings of the notebook functions."""

    auto_logging = config.ConfigItem(
        True, "Whether each step records its name and arguments in the header of its result."
    )


conf = Conf()


def wants_record(add_keyword: AddKeyword) -> bool:
    """True when a step is to leave a trace in the header."""
    return bool(conf.auto_logging) if add_keyword is True else bool(add_keyword)


def record_done(result: CCDData, step: str, add_keyword: AddKeyword) -> CCDData:
    """Write the boolean card of a step unless records are switched off; return the frame."""
    if wants_record(add_keyword):
        record_step(result.meta, step)
    return result


def logged(step: Callable[P, CCDData]) -> Callable[P, CCDData]:
    """Let a step with an ``add_keyword`` argument record its call in its result's header."""
    names = tuple(inspect.signature(step).parameters)

    @wraps(step)
    def recording_step(*args: P.args, **kwargs: P.kwargs) -> CCDData:
        result = step(*args, **kwargs)
        given: dict[str, Any] = dict(zip(names, args, strict=False)) | kwargs
        add_keyword = given.pop("add_keyword", True)
        if wants_record(add_keyword):
            for key, value in _items(add_keyword, step.__name__, given).items():
                _insert(result.meta, key, value)
        return result

    return recording_step


def _items(add_keyword: Any, name: str, given: Mapping[str, Any]) -> Mapping[str, Any]:
    if add_keyword is True:
        text = ", ".join(f"{key}={_brief(value)}" for key, value in given.items())
        return {name: text.replace("\n", "")}
    if isinstance(add_keyword, str):
        return {add_keyword: None}
    if isinstance(add_keyword, Keyword):
        return {add_keyword.name: add_keyword.value}
    return dict(add_keyword)


def _brief(value: Any) -> Any:
    """Name the type of an array instead of printing it."""
    if isinstance(value, NDData | np.ndarray):
        array = np.asarray(value.data if isinstance(value, NDData) else value)
        is_long = array.ndim > 0 and len(array) > 1
        if isinstance(value, u.Quantity):
            is_long = not value.isscalar
        return f"<{type(value).__name__}>" if is_long else value
    return value


def _insert(meta: Any, key: str, value: Any) -> None:
    short = SHORT_NAMES.get(key)
    if short is None:
        meta[key] = value
        return
    long = f"HIERARCH {key.upper()}" if isinstance(meta, fits.Header) else key
    meta[long] = (short, "name under which the arguments are")
    meta[short] = value
