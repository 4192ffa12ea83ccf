"""Which of the good masters may serve a frame, as far as set-up and date can tell."""

from __future__ import annotations

from dataclasses import dataclass

from flatcal.frame import Kind, Setup
from flatcal.library.dates import parse_date, time_between
from flatcal.stored import StoredMaster


@dataclass(frozen=True, slots=True)
class GoodMasters:
    """The good masters of a library at one moment, for the plan of a whole night.

    Attributes
    ----------
    masters : tuple of StoredMaster
        In the order in which they were added.
    """

    masters: tuple[StoredMaster, ...]

    def candidates(self, kind: Kind, setup: Setup, date: str) -> list[StoredMaster]:
        """As `Library.candidates`."""
        fitting = [
            master
            for master in self.masters
            if master.kind == kind and master.setup == setup and is_valid(master, date)
        ]
        moment = parse_date(date)
        return sorted(
            fitting,
            key=lambda master: (
                time_between(moment, master.date_first, master.date_last),
                -master.id,
            ),
        )


def is_valid(master: StoredMaster, date: str) -> bool:
    """Whether a master may serve on a date; on one that is not known only without any limit."""
    moment = parse_date(date)
    if moment is None:
        return not master.valid_from and not master.valid_to
    day = moment.date().isoformat()
    # Days written so sort as text.
    return master.valid_from <= day and (not master.valid_to or day <= master.valid_to)
