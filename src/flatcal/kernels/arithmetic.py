"""Calibration of pixels, row by row.

Each step is one short loop over a row, so that a row stays in the first cache while all the
steps pass over it; measured, this is faster than one loop with every step in it, because
the compiler vectorises each short loop and an absent step costs one test per row. Absent
arrays are passed with size zero. Every operation rounds to the type of the row, so that the
same steps called one at a time give the same bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flatcal.kernels.compiled import kernel

# Values of flatcal.flags.Flag; kernels know numbers only. A test holds the two together.
SATURATED = np.uint16(1)
NON_FINITE = np.uint16(2)
FLAT_INVALID = np.uint16(4)
NON_LINEAR = np.uint16(256)
BLED = np.uint16(512)
_NONE = np.uint16(0)

Array = NDArray[Any]

# A value is taken for one with the light of its neighbours where the square of its difference
# from their mean is below so many variances: 3 standard deviations of that difference.
_LIKE_NEIGHBOURS = 9 * 1.5


@kernel()
def _subtract_level(row: Array, level: Any) -> None:
    for x in range(row.size):
        row[x] -= level


@kernel()
def _subtract(row: Array, other: Array) -> None:
    for x in range(row.size):
        row[x] -= other[x]


@kernel()
def _subtract_scaled(row: Array, other: Array, scale: Any) -> None:
    for x in range(row.size):
        row[x] -= scale * other[x]


@kernel()
def _divide(row: Array, flat: Array) -> None:
    # A select instead of a branch: the loop stays vectorised and no infinity is made.
    for x in range(row.size):
        row[x] = row[x] / (flat[x] if flat[x] > 0 else row.dtype.type(1))


@kernel()
def _calibrate_row(
    row: Array, y: int, level: Array, bias: Array, dark: Array, scale: Any, flat: Array
) -> None:
    if level.size:
        _subtract_level(row, level[y])
    if bias.size:
        _subtract(row, bias[y])
    if dark.size:
        # An unscaled dark is subtracted as it is: 1 * x is x, but says it needlessly.
        if scale == 1:
            _subtract(row, dark[y])
        else:
            _subtract_scaled(row, dark[y], scale)
    if flat.size:
        _divide(row, flat[y])


@kernel()
def calibrate(
    pixels: Array, level: Array, bias: Array, dark: Array, dark_scale: Any, flat: Array
) -> None:
    """Calibrate an image in place.

    Parameters
    ----------
    pixels : ndarray, shape (rows, columns), float32 or float64
        Image, changed in place.
    level : ndarray, shape (rows,) or size 0
        Overscan level of each row.
    bias, dark, flat : ndarray, shape (rows, columns) or size 0
        Masters in the type of `pixels`; a flat value that is not above 0 divides by 1.
    dark_scale : scalar of the type of `pixels`
        Factor of `dark`.
    """
    for y in range(pixels.shape[0]):
        _calibrate_row(pixels[y], y, level, bias, dark, dark_scale, flat)


@kernel()
def calibrate_uint16(
    raw: Array,
    first: int,
    level: Array,
    bias: Array,
    dark: Array,
    dark_scale: Any,
    flat: Array,
    linear: Any,
    saturation: Any,
    out: Array,
    flags: Array,
) -> None:
    """Decode, flag and calibrate FITS unsigned 16-bit pixels in one pass.

    Parameters
    ----------
    raw : ndarray of uint16, shape (rows, columns)
        The bytes of the file (big-endian, BZERO 32768) viewed as native uint16 on a little-endian
        machine; whole rows.
    first : int
        The column of `raw` that is the first of `out`.
    level, bias, dark, dark_scale, flat
        As for `calibrate`.
    linear, saturation : scalar of the type of `out`
        Raw values above the first, and at or above the second, are flagged; infinity flags none.
    out : ndarray of float32 or float64, shape (rows, columns)
        Receives the calibrated values.
    flags : ndarray of uint16, shape (rows, columns) or size 0
        Receives the flags.
    """
    for y in range(raw.shape[0]):
        row = out[y]
        source = raw[y]
        for x in range(row.size):
            v = source[first + x]
            row[x] = np.uint16(((v >> 8) | (v << 8)) ^ 0x8000)
        if flags.size:
            flag_row(row, linear, saturation, flat, y, flags[y])
        _calibrate_row(row, y, level, bias, dark, dark_scale, flat)


@kernel()
def flag_row(row: Array, linear: Any, saturation: Any, flat: Array, y: int, flags: Array) -> None:
    """Flag a row of raw values: saturated, not linear, not finite, flat not above zero."""
    for x in range(row.size):
        bad = NON_LINEAR if row[x] > linear else _NONE
        bad = SATURATED if row[x] >= saturation else bad
        flags[x] = bad if np.isfinite(row[x]) else (bad | NON_FINITE)
    if flat.size:
        flat_row = flat[y]
        for x in range(row.size):
            flags[x] |= _NONE if flat_row[x] > 0 else FLAT_INVALID


@kernel()
def flag_image(pixels: Array, linear: Any, saturation: Any, flat: Array, flags: Array) -> None:
    """Flag an image of raw values; see `flag_row`."""
    for y in range(pixels.shape[0]):
        flag_row(pixels[y], linear, saturation, flat, y, flags[y])


@kernel()
def flag_bled(flags: Array, above: Array, below: Array) -> None:
    """Flag what lies next to a saturated pixel in its column, where charge spills first.

    Parameters
    ----------
    flags : ndarray of uint16, shape (rows, columns)
        With SATURATED; gets BLED.
    above, below : ndarray of uint16, shape (columns,)
        Flags of the rows before the first and after the last.
    """
    last = flags.shape[0] - 1
    for y in range(flags.shape[0]):
        row = flags[y]
        before = above if y == 0 else flags[y - 1]
        after = below if y == last else flags[y + 1]
        for x in range(row.size):
            near = (before[x] | after[x]) & SATURATED
            row[x] |= BLED if near > (row[x] & SATURATED) else _NONE


@kernel()
def inherit_flags(flags: Array, its: Array, known: Any, other: Any) -> None:
    """Lay the flags of a master over those of a frame.

    Parameters
    ----------
    flags : ndarray of uint16, shape (rows, columns)
        Of the frame, changed in place.
    its : ndarray of uint16, same shape
        Of the master.
    known : uint16
        Bits that a frame takes over as they are.
    other : uint16
        What it gets for any other bit.
    """
    for y in range(flags.shape[0]):
        row, its_row = flags[y], its[y]
        for x in range(row.size):
            rest = other if its_row[x] & ~known else _NONE
            row[x] |= (its_row[x] & known) | rest


@kernel()
def any_bit(flags: Array) -> Any:
    """All bits that any pixel has.

    Parameters
    ----------
    flags : ndarray of uint16, shape (rows, columns)
        Flags.
    """
    found = _NONE
    for y in range(flags.shape[0]):
        row = flags[y]
        for x in range(row.size):
            found |= row[x]
    return found


@kernel()
def mark_bad(flags: Array, counted: Any, bad: Array) -> int:
    """Say which pixels have one of some flags, and how many these are.

    Parameters
    ----------
    flags : ndarray of uint16, shape (rows, columns)
        Flags.
    counted : uint16
        Bits that count.
    bad : ndarray of uint8, same shape
        Receives 1 where a pixel has one of them, else 0.
    """
    n_bad = 0
    for y in range(flags.shape[0]):
        row, its_bad = flags[y], bad[y]
        for x in range(row.size):
            its_bad[x] = (row[x] & counted) != 0
        n_in_row = np.int32(0)  # of 32 bits, or the sum is not vectorised along with the bytes
        for x in range(row.size):
            n_in_row = np.int32(n_in_row + its_bad[x])
        n_bad += int(n_in_row)
    return n_bad


@kernel()
def flag_unlike(
    image: Array, around: Array, block: int, least: float, most: float, flag: Any, flags: Array
) -> None:
    """Flag pixels that are far below or above what surrounds them.

    Parameters
    ----------
    image : ndarray, shape (rows, columns)
        Values.
    around : ndarray of the same type
        Level of each block.
    block : int
        Rows and columns of a block; those at the far sides may have fewer.
    least, most : float
        Share of the level below the first of which, or above the second, a pixel is flagged.
    flag : uint16
        The flag.
    flags : ndarray of uint16, shape (rows, columns)
        Gets it.
    """
    kind = image.dtype.type
    for y in range(image.shape[0]):
        row, its_flags = image[y], flags[y]
        for i in range(around.shape[1]):
            level = around[y // block, i]
            low, high = kind(least) * level, kind(most) * level
            for x in range(i * block, min((i + 1) * block, row.size)):
                its_flags[x] |= flag if (row[x] < low or row[x] > high) else _NONE


@kernel()
def normalise_flat(flat: Array, flags: Array, norm: Any) -> None:
    """Divide a flat by its level: 1 where it is flagged, flagged where it is not above 0.

    Parameters
    ----------
    flat : ndarray, shape (rows, columns)
        Changed in place.
    flags : ndarray of uint16, same shape
        Gets FLAT_INVALID.
    norm : scalar of the type of `flat`
        The level.
    """
    one = flat.dtype.type(1)
    for y in range(flat.shape[0]):
        row, its_flags = flat[y], flags[y]
        for x in range(row.size):
            row[x] = row[x] / norm if its_flags[x] == 0 else one
            its_flags[x] |= FLAT_INVALID if row[x] <= 0 else _NONE


@kernel()
def _multiply(row: Array, flat: Array) -> None:
    for x in range(row.size):
        row[x] = row[x] * (flat[x] if flat[x] > 0 else row.dtype.type(1))


@kernel()
def _add_variance(row: Array, std: Array, factor: Any) -> None:
    for x in range(row.size):
        row[x] += factor * (std[x] * std[x])


@kernel()
def _shot_variance(light: Array, photon: Any, read: Any, share: Any, row: Array) -> None:
    """Variance ``photon * light + read`` of values whose light is known with its noise only.

    Taken from the value itself, the variance is small where noise makes the value small: the
    result over its uncertainty then has a mean of -1 / (2 sigma), with sigma in electron. The mean
    of the neighbours knows nothing of that noise, so it is taken wherever the value agrees with
    it; elsewhere (stars, hot pixels) the value is. `share` is the variance of `light` over that
    which is asked for.
    """
    most = row.dtype.type(_LIKE_NEIGHBOURS) * share
    last = light.size - 1
    for x in (0, last):
        row[x] = max(light[x], 0) * photon + read
    for x in range(1, last):
        near = row.dtype.type(0.5) * (light[x - 1] + light[x + 1])
        variance = max(near, 0) * photon + read
        differs = light[x] - near
        own = max(light[x], 0) * photon + read
        row[x] = variance if differs * differs <= most * variance else own


@kernel()
def _add_flat_variance(row: Array, values: Array, flat: Array, flat_std: Array) -> None:
    for x in range(row.size):
        relative = values[x] * flat_std[x] / (flat[x] if flat[x] > 0 else row.dtype.type(1))
        row[x] += relative * relative


@kernel()
def propagate(
    calibrated: Array,
    read_variance: Any,
    gain: Any,
    bias_std: Array,
    bias_factor: Any,
    dark: Array,
    dark_std: Array,
    dark_scale: Any,
    dark_zero: Any,
    flat: Array,
    flat_std: Array,
    out: Array,
) -> None:
    """Standard deviation of each calibrated pixel.

    The electrons whose shot noise counts are those of light and of dark current: the value
    before division by the flat, plus the current of the dark that was subtracted; see
    `_shot_variance` for the noise that these values have themselves.

    Parameters
    ----------
    calibrated : ndarray, shape (rows, columns)
        Output of `calibrate` or `calibrate_uint16`, in ADU.
    read_variance : float
        Square of the read noise in ADU, with the variance of the overscan level added.
    gain : float
        Gain in electron per ADU.
    bias_std, dark_std, flat_std : ndarray, shape (rows, columns) or size 0
        Standard deviation of the masters.
    bias_factor : scalar of the type of `calibrated`
        Factor of the variance of the bias: 1, but 1 - 2 s where a dark scaled by s has lost the
        same bias. The frame then holds (1 - s) times the error of that bias, whose variance is
        (1 - s)^2 times that of the bias, and the variance of the dark brings s^2 of it.
    dark, dark_scale, flat
        As for `calibrate`.
    dark_zero : scalar of the type of `calibrated`
        Value of `dark` where there is no current: the level of the bias that it holds.
    out : ndarray, shape (rows, columns)
        Receives the standard deviation in ADU.
    """
    photon = calibrated.dtype.type(1) / gain
    light = np.empty(calibrated.shape[1], calibrated.dtype)
    for y in range(calibrated.shape[0]):
        values = calibrated[y]
        row = out[y]
        for x in range(row.size):
            light[x] = values[x]
        if flat.size:
            _multiply(light, flat[y])
        if dark.size:
            _subtract_scaled(light, dark[y], -dark_scale)
            _subtract_level(light, dark_scale * dark_zero)
        _shot_variance(light, photon, read_variance, calibrated.dtype.type(1), row)
        if dark_std.size:
            _add_variance(row, dark_std[y], dark_scale * dark_scale)
        if bias_std.size:
            _add_variance(row, bias_std[y], bias_factor)
        if flat.size:
            _divide(row, flat[y])
            _divide(row, flat[y])
        if flat_std.size:
            _add_flat_variance(row, values, flat[y], flat_std[y])
        for x in range(row.size):
            row[x] = np.sqrt(row[x])


@kernel()
def average_std(
    data: Array,
    n_used: Array,
    shares: Array,
    photon: Any,
    read: Any,
    zero: Any,
    common_std: Array,
    out: Array,
) -> None:
    """Standard deviation of an average of frames by their noise.

    Parameters
    ----------
    data : ndarray, shape (rows, columns)
        The average.
    n_used : ndarray of int32, shape (rows, columns)
        Frames kept in each pixel.
    shares : ndarray of the type of `data`, shape (n_frames + 1,)
        Variance of the average of so many frames over that of one.
    photon : scalar of the type of `data`
        Variance of one frame for each unit of `data`; 0 where the values are not electrons.
    read : scalar of the type of `data`
        Variance of one frame that does not depend on its value.
    zero : scalar of the type of `data`
        Value of `data` without any photons.
    common_std : ndarray, shape (rows, columns) or size 0
        Standard deviation of what all frames have in common, which does not average down.
    out : ndarray, shape (rows, columns)
        Receives the standard deviation.
    """
    light = np.empty(data.shape[1], data.dtype)
    for y in range(data.shape[0]):
        values = data[y]
        counts = n_used[y]
        row = out[y]
        for x in range(row.size):
            light[x] = values[x] - zero
        _shot_variance(light, photon, read, shares[shares.size - 1], row)
        for x in range(row.size):
            row[x] *= shares[counts[x]]
        if common_std.size:
            _add_variance(row, common_std[y], row.dtype.type(1))
        for x in range(row.size):
            row[x] = np.sqrt(row[x])


@kernel()
def add_error(std: Array, other: Array, factor: Any) -> None:
    """Add an independent error in place: `factor` times the variance of `other`.

    Parameters
    ----------
    std, other : ndarray, shape (rows, columns)
        Standard deviations.
    factor : scalar of the type of `std`
        Negative where a part of what was added before is not there.
    """
    for y in range(std.shape[0]):
        row = std[y]
        for x in range(row.size):
            row[x] *= row[x]
        _add_variance(row, other[y], factor)
        for x in range(row.size):
            row[x] = np.sqrt(row[x])
