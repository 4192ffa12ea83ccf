"""DATASUM and CHECKSUM of an HDU whose pixels pass by in pieces.

astropy adds the cards to an HDU that is whole in memory; outputs are written band by band.
Method: FITS standard 4.0, appendix J.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from flatcal.kernels.words import sum_of_words

_WORD = 4
_ALL_ONES = 0xFFFFFFFF
_NO_SUM = "0" * 16
CARD_BYTES = 80
# Punctuation between digits and letters, and between capitals and small letters.
_FORBIDDEN = frozenset(b":;<=>?@[\\]^_`")


class RunningSum:
    """The 32-bit ones' complement sum of bytes that come in order."""

    def __init__(self) -> None:
        self._total = 0
        self._n_bytes = 0

    def add(self, content: NDArray[Any]) -> None:
        """Add bytes that follow those before.

        Parameters
        ----------
        content : ndarray of uint8, one-dimensional
            As they stand in the file.
        """
        before = self._n_bytes % _WORD
        self._n_bytes += content.size
        after = -(before + content.size) % _WORD
        if before or after:
            content = np.pad(content, (before, after))
        self._total += int(sum_of_words(content.view(np.uint32)))

    @property
    def value(self) -> int:
        """The sum so far."""
        total = self._total
        while total > _ALL_ONES:
            total = (total & _ALL_ONES) + (total >> 32)
        return total


def add_checksums(header: fits.Header, data_sum: int, n_bytes: int) -> bytes:
    """The bytes of a header with the cards DATASUM and CHECKSUM.

    Parameters
    ----------
    header : Header
        Gets the cards.
    data_sum : int
        Sum over the data unit with its padding, which adds nothing as it is zero.
    n_bytes : int
        Length of the result, in whole blocks; blank cards fill what is left.

    Raises
    ------
    ValueError
        When the header is longer than that.
    """
    header["DATASUM"] = (str(data_sum), "data unit checksum")
    header["CHECKSUM"] = (_NO_SUM, "HDU checksum")
    text = header.tostring(endcard=False, padding=False)
    content = (text.ljust(n_bytes - CARD_BYTES) + "END".ljust(CARD_BYTES)).encode("ascii")
    if len(content) != n_bytes:
        raise ValueError(f"a header of {len(content)} bytes in a place of {n_bytes}")
    running = RunningSum()
    running.add(np.frombuffer(content, np.uint8))
    total = _encode(_ALL_ONES ^ _ones_complement(running.value + data_sum))
    before, after = content.rsplit(f"CHECKSUM= '{_NO_SUM}'".encode(), 1)
    return b"".join((before, f"CHECKSUM= '{total}'".encode(), after))


def is_sound(header: bytes, data_sum: int) -> bool:
    """Whether header and data together have the sum that CHECKSUM gives them: all ones.

    Parameters
    ----------
    header : bytes
        As it stands in the file, in whole blocks.
    data_sum : int
        Sum over the data unit.
    """
    running = RunningSum()
    running.add(np.frombuffer(header, np.uint8))
    return _ones_complement(running.value + data_sum) == _ALL_ONES


def _ones_complement(total: int) -> int:
    return (total & _ALL_ONES) + (total >> 32)


def _encode(value: int) -> str:
    """Sixteen letters and digits whose sum, as the standard arranges them, is the value."""
    columns = [_spread(byte) for byte in value.to_bytes(_WORD, "big")]
    letters = [columns[i][j] for j in range(_WORD) for i in range(_WORD)]
    # The string begins at byte 12 of its card: rotated by one the words are whole again.
    return bytes(letters[-1:] + letters[:-1]).decode("ascii")


def _spread(byte: int) -> list[int]:
    """Four letters or digits whose codes, each less '0', add up to a byte."""
    quotient, remainder = divmod(byte, _WORD)
    codes = [quotient + ord("0") for _ in range(_WORD)]
    codes[0] += remainder
    # Two of a pair move apart until neither is punctuation; their sum stays.
    for first, second in ((0, 1), (2, 3)):
        while codes[first] in _FORBIDDEN or codes[second] in _FORBIDDEN:
            codes[first] += 1
            codes[second] -= 1
    return codes
