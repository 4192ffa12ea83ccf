"""What is the same in every frame of a camera: bias structure, dark current, response, stars.

Each function draws from the generator it is given and returns a float32 plane over the trimmed
image, so a camera is a function of its seed.
"""

from __future__ import annotations

import zlib

import numpy as np
import numpy.typing as npt

from flatcal.simulate.cameras import Camera

Plane = npt.NDArray[np.float32]
StarTable = npt.NDArray[np.float64]

HOT_RATE_ELECTRON_PER_S = 4.0
WARM_RATE_ELECTRON_PER_S = 0.5
HOT_SLOPE = 1.2  # the number of pixels hotter than a rate falls as rate**-1.2


def child_rng(seed: int, *labels: str | int) -> np.random.Generator:
    """Return a generator that belongs to `labels` alone.

    Two sets of labels give independent streams, and none depends on what was drawn elsewhere:
    a frame is the same whether it is the first to be made or the only one.
    """
    key = zlib.crc32("/".join(str(label) for label in labels).encode())
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(key,)))


def unit_axes(shape: tuple[int, int]) -> tuple[Plane, Plane]:
    """Return y of shape (rows, 1) and x of shape (1, columns), each from 0 to 1."""
    y = np.linspace(0, 1, shape[0], dtype=np.float32)[:, np.newaxis]
    x = np.linspace(0, 1, shape[1], dtype=np.float32)[np.newaxis, :]
    return y, x


def make_bias_pattern(camera: Camera, rng: np.random.Generator) -> Plane:
    """Return the fixed bias structure in ADU, of median 0: columns and a slow wave, few ADU."""
    y, x = unit_axes(camera.image_shape)
    phase_y, phase_x = rng.uniform(0, 2 * np.pi, 2).astype(np.float32)
    wave = np.sin(np.float32(3 * np.pi) * y + phase_y) * np.sin(np.float32(5 * np.pi) * x + phase_x)
    columns = rng.normal(0, 1.2, (1, camera.image_columns)).astype(np.float32)
    pattern: Plane = np.float32(1.5) * wave + columns
    pattern -= np.median(pattern)
    return pattern


def make_dark_rate(camera: Camera, rng: np.random.Generator) -> Plane:
    """Return the dark current with its hot pixels and the amplifier glow, in electron/s."""
    rate: Plane = rng.standard_normal(camera.image_shape, dtype=np.float32)
    rate *= np.float32(0.3)
    np.exp(rate, out=rate)
    rate *= np.float32(camera.dark_rate_electron_per_s)
    hot = draw_hot_rates(camera, rng)
    rate.flat[rng.choice(rate.size, hot.size, replace=False)] = hot
    size = camera.glow_size_pixel
    rate[:size, :size] += make_glow(camera)
    return rate


def draw_hot_rates(camera: Camera, rng: np.random.Generator) -> Plane:
    """Return the rates (electron/s) of the hot and warm pixels: one power law, cut at both ends.

    Exactly ``camera.n_hot_pixels`` of them lie above 4 electron/s.
    """
    n_warm = round(
        camera.n_hot_pixels
        * ((HOT_RATE_ELECTRON_PER_S / WARM_RATE_ELECTRON_PER_S) ** HOT_SLOPE - 1)
    )
    hot = draw_power_law(
        camera.n_hot_pixels, HOT_RATE_ELECTRON_PER_S, camera.max_dark_rate_electron_per_s, rng
    )
    warm = draw_power_law(n_warm, WARM_RATE_ELECTRON_PER_S, HOT_RATE_ELECTRON_PER_S, rng)
    return np.concatenate([hot, warm])


def draw_power_law(n: int, low: float, high: float, rng: np.random.Generator) -> Plane:
    """Draw `n` rates between `low` and `high`, by inversion of the cumulative distribution."""
    # No closer to the ends than 1e-4, so that rounding to float32 carries none across.
    survival = rng.uniform((high / low) ** -HOT_SLOPE + 1e-4, 1 - 1e-4, n)
    return (low * survival ** (-1 / HOT_SLOPE)).astype(np.float32)


def make_glow(camera: Camera) -> Plane:
    """Return the amplifier glow (electron/s) in its corner; exactly zero at the square's edge."""
    size = camera.glow_size_pixel
    index = np.arange(size, dtype=np.float32)
    distance = np.hypot(index[:, np.newaxis], index[np.newaxis, :])
    taper = 1 - index / max(size, 1)
    glow = np.exp(-distance / (0.3 * max(size, 1))) * taper[:, np.newaxis] * taper
    return (camera.glow_rate_electron_per_s * glow).astype(np.float32)


def make_response(camera: Camera, filter_name: str, seed: int) -> Plane:
    """Return illumination x vignetting x dust x pixel response in one filter, of median 1."""
    dust_rng = child_rng(seed, camera.name, "dust")
    pixel_rng = child_rng(seed, camera.name, "prnu")
    filter_rng = child_rng(seed, camera.name, "prnu", filter_name)
    response = make_illumination(camera, filter_name)
    add_donuts(response, camera, dust_rng)
    shape = camera.image_shape
    for rng, sigma in ((pixel_rng, camera.prnu), (filter_rng, camera.prnu_of_filter)):
        response *= 1 + np.float32(sigma) * rng.standard_normal(shape, dtype=np.float32)
    response /= np.median(response)
    return response


def make_illumination(camera: Camera, filter_name: str) -> Plane:
    """Return the smooth part of the response: a gradient and the vignetting, near 1."""
    y, x = unit_axes(camera.image_shape)
    slope_y, slope_x = camera.gradient[filter_name]
    centre_y, centre_x = camera.vignetting_centre
    radius = np.hypot(y - np.float32(centre_y), x - np.float32(centre_x))
    outside = np.maximum(radius - np.float32(camera.vignetting_radius), 0)
    gradient = 1 + slope_y * (y - np.float32(0.5)) + slope_x * (x - np.float32(0.5))
    illumination: Plane = gradient * (1 - camera.vignetting_strength * outside**2)
    return illumination


def add_donuts(response: Plane, camera: Camera, rng: np.random.Generator) -> None:
    """Darken `response` in place by the out-of-focus shadows of dust: rings with a soft edge."""
    for _ in range(camera.n_donuts):
        centre = rng.uniform(0, 1, 2) * response.shape
        outer = camera.donut_radius_pixel * rng.uniform(0.7, 1.3)
        depth = rng.uniform(0.015, 0.05)
        window, distance = cut_window(response.shape, centre, 1.5 * outer)
        soft = 0.06 * outer
        ring = rise((outer - distance) / soft) * rise((distance - 0.4 * outer) / soft)
        response[window] *= (1 - depth * ring).astype(np.float32)


def rise(t: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return a smooth step from 0 (t << 0) to 1 (t >> 0)."""
    step: npt.NDArray[np.float64] = 0.5 + 0.5 * np.tanh(t)
    return step


def cut_window(
    shape: tuple[int, ...], centre: npt.NDArray[np.float64], reach: float
) -> tuple[tuple[slice, slice], npt.NDArray[np.float64]]:
    """Return the window within `reach` pixels of `centre` (y, x) and each pixel's distance."""
    low = np.maximum(np.floor(centre - reach), 0).astype(int)
    high = np.minimum(np.ceil(centre + reach) + 1, shape).astype(int)
    y = np.arange(low[0], high[0])[:, np.newaxis] - centre[0]
    x = np.arange(low[1], high[1])[np.newaxis, :] - centre[1]
    return (slice(low[0], high[0]), slice(low[1], high[1])), np.hypot(y, x)


def draw_stars(camera: Camera, rng: np.random.Generator) -> StarTable:
    """Return the stars of the field: an array (n, 3) of y, x (pixel) and flux (ADU/s)."""
    position = rng.uniform(0, 1, (camera.n_stars, 2)) * camera.image_shape
    # Three times as many stars for each magnitude fainter, over seven magnitudes.
    magnitude = np.log(rng.uniform(3.0**-7, 1, camera.n_stars)) / np.log(3.0)
    flux = camera.max_star_flux_adu_per_s * 10 ** (-0.4 * (7 + magnitude))
    return np.column_stack([position, flux])


def add_stars(image: Plane, stars: StarTable, sigma_pixel: float, exposure_time_s: float) -> None:
    """Add gaussian stars to `image` (ADU) in place."""
    for y, x, flux in stars:
        window, distance = cut_window(image.shape, np.array([y, x]), 5 * sigma_pixel)
        profile = np.exp(-0.5 * (distance / sigma_pixel) ** 2) / (2 * np.pi * sigma_pixel**2)
        image[window] += (flux * exposure_time_s * profile).astype(np.float32)
