"""A header keyword with the unit that its value is in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from astropy import units as u


class Keyword:
    """Name of a header card and the unit of its value.

    Parameters
    ----------
    name : str
        Name of the card.
    unit : astropy unit, optional
        Unit of the value.
    value : Quantity, str or number, optional
        Value; a number needs `unit`, a text must not have one.

    Raises
    ------
    ValueError
        When a number comes without a unit, or a text with one.
    """

    def __init__(self, name: str, unit: Any = None, value: Any = None) -> None:
        self._name = name
        self._unit = unit
        self.value = value

    def __repr__(self) -> str:
        return f"Keyword({self._name!r}, unit={self._unit}, value={self._value})"

    @property
    def name(self) -> str:
        """Name of the card."""
        return self._name

    @property
    def unit(self) -> Any:
        """Unit of the value, None for a text."""
        return self._unit

    @property
    def value(self) -> Any:
        """Value as a Quantity or a text, None while it is not set."""
        return self._value

    @value.setter
    def value(self, value: Any) -> None:
        if isinstance(value, u.Quantity):
            self._unit = value.unit
        elif isinstance(value, str):
            if self._unit is not None:
                raise ValueError(
                    f"keyword {self._name!r} has unit {self._unit} but its value is the text "
                    f"{value!r}"
                )
        elif value is not None:
            if self._unit is None:
                raise ValueError(
                    f"keyword {self._name!r} has value {value!r} but no unit; give "
                    f"Keyword({self._name!r}, unit=...)"
                )
            value = value * self._unit
        self._value = value

    def value_from(self, header: Mapping[str, Any]) -> Any:
        """Set the value from a header and return it.

        Parameters
        ----------
        header : mapping
            FITS header or dictionary that holds the card.

        Returns
        -------
        Quantity or str
            The value.
        """
        self.value = header[self._name]
        return self.value
