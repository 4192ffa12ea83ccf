"""Dates of frames and masters: which is nearest, and which nights are the same."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Final

from flatcal.errors import FlatcalError

_DAY: Final = re.compile(r"\d{4}-\d{2}-\d{2}")


# The dates of a library's masters are asked for again with every frame.
@lru_cache(maxsize=4096)
def parse_date(text: str) -> datetime | None:
    """Turn DATE-OBS into a time in UTC without time zone; None for what is not a FITS date."""
    day = _DAY.match(text)
    if day is None:
        return None
    # Where the time of day is odd, such as 23:59:60, the day will do.
    for candidate in (text, day[0]):
        try:
            moment = datetime.fromisoformat(candidate)
            return moment if moment.tzinfo is None else moment.astimezone(UTC).replace(tzinfo=None)
        except (ValueError, OverflowError):
            continue
    return None


def parse_day(text: str | None) -> date | None:
    """Turn a limit of validity, as 2026-01-31, into a day; None and nothing are no limit.

    Raises
    ------
    FlatcalError
        When the text is no such day (library).
    """
    if not text:
        return None
    try:
        if _DAY.fullmatch(text):
            return date.fromisoformat(text)
    except ValueError:
        pass  # such as 2026-02-30
    raise FlatcalError("library", f"{text!r} is not a day; write it as 2026-01-31")


def time_between(moment: datetime | None, first: str, last: str) -> timedelta:
    """How far a time is from that of a master's frames; the longest time if one is unknown."""
    start, end = parse_date(first), parse_date(last)
    if moment is None or start is None or end is None:
        return timedelta.max
    return max(start - moment, moment - end, timedelta(0))


def may_be_same_night(a: tuple[str, str], b: tuple[str, str]) -> bool:
    """Whether first and last dates of two masters overlap, or do not tell."""
    a_first, a_last, b_first, b_last = map(parse_date, (*a, *b))
    if a_first is None or a_last is None or b_first is None or b_last is None:
        return True
    return a_first <= b_last and b_first <= a_last
