"""The simulator against plain numpy: what is put in can be measured in what comes out."""

import numpy as np
import pytest
from astropy.io import fits

from flatcal.simulate import CAMERA_NAMES, NightTruth, get_camera, make_detector, simulate_night

SEED = 7


@pytest.fixture(scope="module")
def detectors():
    return {name: make_detector(name, seed=SEED) for name in CAMERA_NAMES}


@pytest.fixture(scope="module")
def nights(tmp_path_factory):
    folders = {name: tmp_path_factory.mktemp(name) / "raw" for name in CAMERA_NAMES}
    return {name: (simulate_night(name, folders[name]), folders[name]) for name in CAMERA_NAMES}


def image_of(detector, *args, **kwargs):
    """Return the trimmed image of one frame as float64."""
    data, _, _ = detector.expose(*args, **kwargs)
    return data[detector.camera.image_slice].astype(float)


def log_of(truth, kind):
    return [
        (f.filter, f.exposure_time_s, f.signal_adu + f.bias_level_adu)
        for f in truth.frames
        if f.kind == kind
    ]


@pytest.mark.parametrize(("name", "read_noise"), [("lfc", 11.0), ("cg16m", 10.0)])
def test_bias_pairs_give_the_read_noise(detectors, name, read_noise):
    first, second = (image_of(detectors[name], "bias", frame_number=n) for n in (1, 2))
    gain = detectors[name].camera.gain_electron_per_adu
    assert np.std(first - second) / np.sqrt(2) * gain == pytest.approx(read_noise, rel=0.02)


@pytest.mark.parametrize(("name", "gain"), [("lfc", 2.0), ("cg16m", 1.5)])
@pytest.mark.parametrize("level", [2000.0, 20000.0])
def test_flat_pairs_give_the_gain(detectors, name, gain, level):
    detector = detectors[name]
    flats = [image_of(detector, "flat", 1.0, level_adu=level, frame_number=n) for n in (1, 2)]
    biases = [image_of(detector, "bias", frame_number=n) for n in (3, 4)]
    signal = np.mean(flats) - np.mean(biases)
    variance = (np.var(flats[0] - flats[1]) - np.var(biases[0] - biases[1])) / 2
    assert signal / variance == pytest.approx(gain, rel=0.02)


@pytest.mark.parametrize("name", CAMERA_NAMES)
def test_faint_light_is_poisson(detectors, name):
    """Below 100 electrons too, where the law is drawn in another way."""
    detector, level = detectors[name], 20.0
    flats = [image_of(detector, "flat", 1.0, level_adu=level, frame_number=n) for n in (1, 2)]
    camera = detector.camera
    shot_variance = level * detector.truth.flat_response[camera.filters[0]].mean()
    shot_variance /= camera.gain_electron_per_adu
    read_variance = (camera.read_noise_electron / camera.gain_electron_per_adu) ** 2
    rounding_variance = 1 / 12
    expected = shot_variance + read_variance + rounding_variance
    hot_free = detector.truth.dark_rate_adu_per_s < 0.1
    difference = (flats[0] - flats[1])[hot_free]
    assert np.var(difference) / 2 == pytest.approx(expected, rel=0.01)


def test_dark_current_grows_with_the_exposure_time(detectors):
    detector = detectors["cg16m"]
    times = np.array([30.0, 300.0])
    images = [image_of(detector, "dark", t, noise=False, quantise=False) for t in times]
    hot = detector.truth.dark_rate_adu_per_s * times[1] < 20_000
    slope = (images[1] - images[0]) / (times[1] - times[0])
    levels = [detector.expose("dark", t)[2].bias_level_adu for t in times]
    assert levels[0] == levels[1]
    np.testing.assert_allclose(slope[hot], detector.truth.dark_rate_adu_per_s[hot], atol=1e-5)
    assert np.median(slope) * 1.5 == pytest.approx(0.01, rel=0.02)


def test_noisy_dark_has_the_mean_dark_current(detectors):
    detector = detectors["cg16m"]
    rate = detector.truth.dark_rate_adu_per_s
    cool = rate < 0.1
    _, _, frame = detector.expose("dark", 3000.0)
    signal = image_of(detector, "dark", 3000.0) - frame.bias_level_adu - detector.truth.bias_adu
    assert signal[cool].mean() == pytest.approx(3000.0 * rate[cool].mean(), rel=0.01)


def test_hot_pixels_scale_with_the_area(detectors):
    rate = detectors["cg16m"].truth.dark_rate_adu_per_s * 1.5
    assert np.count_nonzero(rate > 4.0) == round(4308 / 16)
    assert get_camera("cg16m", full_size=True).n_hot_pixels == 4308


def test_glow_stays_in_its_corner_and_scales_with_time(detectors):
    detector = detectors["lfc"]
    size = detector.camera.glow_size_pixel
    assert (size, get_camera("lfc", full_size=True).glow_size_pixel) == (50, 200)
    short, long = (
        image_of(detector, "dark", t, noise=False, quantise=False) for t in (70.0, 300.0)
    )
    rise = (long - short) / 230.0
    corner, elsewhere = rise[:10, :10], rise[size:, size:]
    assert np.median(corner) > 50 * np.median(elsewhere)
    assert np.median(rise[:size, size - 1]) == pytest.approx(np.median(elsewhere), rel=0.3)


def test_bias_structure_is_fixed_and_small(detectors):
    for detector in detectors.values():
        pattern = detector.truth.bias_adu
        mean = np.mean([image_of(detector, "bias", frame_number=n) for n in range(8)], axis=0)
        assert np.corrcoef(mean.mean(axis=0), pattern.mean(axis=0))[0, 1] > 0.9
        assert abs(np.median(pattern)) < 1e-3
        assert 0.5 < pattern.std() < 3


def measure_levels(detector):
    """Return measured levels (n, 2) of image and clean overscan of twelve biases."""
    frames = [detector.expose("bias", frame_number=n)[0] for n in range(1, 13)]
    slices = detector.camera.image_slice, detector.camera.clean_overscan_slice
    return np.array([[frame[where].mean() for where in slices] for frame in frames])


def test_overscan_of_lfc_follows_the_bias(detectors):
    levels = measure_levels(detectors["lfc"])
    assert 15 < np.ptp(levels[:, 0]) < 30
    assert np.ptp(levels[:, 0] - levels[:, 1]) < 0.4
    assert levels[:, 0].mean() == pytest.approx(1100, abs=15)


def test_overscan_of_cg16m_says_nothing_of_the_bias(detectors):
    levels = measure_levels(detectors["cg16m"])
    assert np.all(np.abs(levels[:, 1] - levels[:, 0]) > 150)
    assert np.ptp(levels[:, 1]) > 20 * np.ptp(levels[:, 0])
    assert levels[:, 0].mean() == pytest.approx(1200, abs=2)


def test_light_leaks_into_seven_overscan_columns(detectors):
    detector = detectors["lfc"]
    columns = []
    for level in (10_000.0, 20_000.0):
        data, _, frame = detector.expose("flat", 70.0, level_adu=level)
        overscan = data[:, 512:].astype(float)
        columns.append(overscan.mean(axis=0) - frame.overscan_level_adu)
    half, full = columns
    assert full.size == 32
    assert np.all(full[:7] > 20)
    assert np.all(np.abs(full[7:]) < 1)
    np.testing.assert_allclose(full[:7] / half[:7], 2.0, rtol=0.05)
    assert full[0] == pytest.approx(0.05 * 20_000, rel=0.1)


def test_no_light_leaks_in_cg16m(detectors):
    data, _, frame = detectors["cg16m"].expose("flat", 1.0, level_adu=44_000.0)
    assert data[:, 1024:].mean() == pytest.approx(frame.overscan_level_adu, abs=1)


@pytest.mark.parametrize(("name", "ceiling"), [("lfc", 1100 + 60_000), ("cg16m", 65_535)])
def test_saturation(detectors, name, ceiling):
    """The full well ends the LFC's range, the converter that of the CG16M."""
    data, _, _ = detectors[name].expose("flat", 1.0, level_adu=500_000.0, noise=False)
    image = data[detectors[name].camera.image_slice]
    assert data.dtype == np.uint16
    assert np.all(np.abs(image - float(ceiling)) < 25)


def test_response_is_linear_to_its_limit(detectors):
    detector = detectors["cg16m"]
    dust_free = detector.truth.flat_response["r"] > 0.95

    def measure(level):
        image = image_of(detector, "flat", 1.0, level_adu=level, noise=False, quantise=False)
        return np.median((image / detector.truth.flat_response["r"])[dust_free])

    steps = np.diff([measure(level) for level in (0, 10_000, 20_000, 40_000, 50_000, 60_000)])
    np.testing.assert_allclose(steps[1:4], [10_000, 20_000, 10_000], rtol=1e-3)
    assert steps[4] < 9_000


@pytest.mark.parametrize("name", CAMERA_NAMES)
def test_mean_of_noisy_frames_is_the_expected_signal(detectors, name):
    detector, n = detectors[name], 24
    total = np.zeros(detector.camera.image_shape)
    for number in range(n):
        data, _, frame = detector.expose("science", 90.0, level_adu=500.0, frame_number=number)
        dark = detector.truth.dark_rate_adu_per_s * 90.0
        fixed = frame.bias_level_adu + detector.truth.bias_adu + dark
        total += data[detector.camera.image_slice] - fixed
    expected = detector.truth.expected_signal(frame)
    gain = detector.camera.gain_electron_per_adu
    electrons = (expected + dark) * gain + detector.camera.read_noise_electron**2
    pull = (total / n - expected) / (np.sqrt(electrons / n) / gain)
    unsaturated = dark < 30_000
    assert pull[unsaturated].mean() == pytest.approx(0, abs=0.01)
    assert pull[unsaturated].std() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("name", CAMERA_NAMES)
def test_stars_and_sky(detectors, name):
    detector = detectors[name]
    _, _, frame = detector.expose("science", 100.0, level_adu=300.0)
    flattened = detector.truth.expected_flattened(frame)
    assert np.median(flattened) == pytest.approx(300.0, abs=0.1)
    y, x, flux = detector.truth.stars[detector.truth.stars[:, 2].argmax()]
    y, x = round(y), round(x)
    peak = flux * 100.0 / (2 * np.pi * detector.camera.star_sigma_pixel**2)
    assert flattened[y - 1 : y + 2, x - 1 : x + 2].max() - 300 == pytest.approx(peak, rel=0.15)
    response = detector.truth.flat_response[detector.camera.filters[0]]
    np.testing.assert_allclose(detector.truth.expected_signal(frame), flattened * response)


@pytest.mark.parametrize("name", CAMERA_NAMES)
def test_response_looks_like_a_flat(detectors, name):
    for response in detectors[name].truth.flat_response.values():
        assert response.shape == detectors[name].camera.image_shape
        assert np.median(response) == pytest.approx(1, abs=1e-6)
        neighbours = np.diff(response[:, ::2], axis=1) / np.sqrt(2)
        assert 1.4826 * np.median(np.abs(neighbours)) == pytest.approx(0.0102, rel=0.03)
        assert 0.8 < response.min() < 0.95


def test_right_corners_of_cg16m_are_dark(detectors):
    response = detectors["cg16m"].truth.flat_response["r"]
    corners = {
        (y, x): np.median(response[y * 992 : y * 992 + 32, x * 992 : x * 992 + 32])
        for y in (0, 1)
        for x in (0, 1)
    }
    assert max(corners[0, 1], corners[1, 1]) < 0.92
    assert min(corners[0, 0], corners[1, 0]) > 0.98


def test_lfc_header(detectors):
    data, header, _ = detectors["lfc"].expose("flat", 70.011, level_adu=100.0, filter="g'")
    assert data.shape == (1032, 544)
    assert header["IMAGETYP"] == "FLATFIELD"
    assert (header["EXPTIME"], header["FILTER"]) == (70.011, "g'")
    assert header["INSTRUME"] == "Large Format Camera"
    assert (header["BIASSEC"], header["DATASEC"]) == ("[513:544,1:1031]", "[1:512,1:1032]")
    assert {"BUNIT", "GAIN", "RDNOISE", "TRIMSEC", "CCD-TEMP"}.isdisjoint(header)


def test_cg16m_header(detectors):
    data, header, _ = detectors["cg16m"].expose("science", 90.0, level_adu=100.0)
    assert data.shape == (1024, 1037)
    assert (header["IMAGETYP"], header["BUNIT"], header["FILTER"]) == ("LIGHT", "adu", "r")
    assert header["INSTRUME"] == "Aspen CG16M"
    assert (header["BIASSEC"], header["TRIMSEC"]) == ("[1024:1037]", "[1:1024, :]")
    assert header["SET-TEMP"] == -25
    assert header["CCD-TEMP"] == pytest.approx(-25, abs=1)
    assert {"GAIN", "EGAIN", "RDNOISE", "DATASEC"}.isdisjoint(header)


def test_full_size_has_the_real_geometry():
    data, header, _ = make_detector("lfc", full_size=True).expose("bias")
    assert data.shape == (4128, 2080)
    assert header["BIASSEC"] == "[2049:2080,1:4127]"
    assert header["DATASEC"] == "[1:2048,1:4128]"
    lfc, cg16m = (get_camera(name, full_size=True) for name in ("lfc", "cg16m"))
    assert lfc.image_slice == np.s_[:, :2048]
    assert lfc.clean_overscan_slice == np.s_[:, 2055:]
    assert cg16m.shape == (4096, 4109)
    assert cg16m.image_slice == np.s_[:, :4096]


def test_the_night_of_lfc(nights):
    truth, folder = nights["lfc"]
    assert sorted(p.name for p in folder.iterdir()) == [f.file for f in truth.frames]
    assert len(log_of(truth, "bias")) == 6
    assert [t for _, t, _ in log_of(truth, "dark")] == [7.0] * 3 + [70.0] * 3 + [300.0] * 3
    flats = [(name, t) for name, t, _ in log_of(truth, "flat")]
    assert flats == [("g'", 70.001), ("g'", 70.011), ("g'", 70.001)] + [("i'", 7.0)] * 3
    science = [(name, t) for name, t, _ in log_of(truth, "science")]
    assert science == [("g'", 300.062), ("i'", 300.014)]


def test_the_night_of_cg16m(nights):
    truth, folder = nights["cg16m"]
    assert {p.name for p in folder.iterdir()} == {f.file for f in truth.frames}
    assert len(log_of(truth, "bias")) == 10
    assert log_of(truth, "dark")[0][:2] == (None, 90.0)
    assert len(log_of(truth, "dark")) == 11
    times = [t for _, t, _ in log_of(truth, "flat")]
    assert times == [1.0] * 5 + [1.02, 1.06, 1.11, 1.16, 1.21]
    assert [t for _, t, _ in log_of(truth, "science")] == [90.0, 90.0]
    levels = [
        np.median(fits.getdata(folder / f.file)[:, :1024]) for f in truth.frames if f.kind == "flat"
    ]
    assert levels[0] == pytest.approx(45_900, abs=30)
    assert levels[-1] == pytest.approx(38_700, abs=30)
    assert np.diff(levels) == pytest.approx(-800, abs=30)


@pytest.mark.parametrize("name", CAMERA_NAMES)
def test_files_agree_with_the_truth(nights, name):
    truth, folder = nights[name]
    dates = []
    for frame in truth.frames:
        with fits.open(folder / frame.file) as hdus:
            header, data = hdus[0].header, hdus[0].data
            assert data.dtype == np.uint16
            assert (header["BITPIX"], header["BZERO"]) == (16, 32768)
            assert header["IMAGETYP"] == truth.camera.image_types[frame.kind]
            assert header["EXPTIME"] == frame.exposure_time_s
            assert frame.filter in (None, header["FILTER"])
            level = np.median(data[truth.camera.image_slice])
            assert level == pytest.approx(frame.signal_adu + frame.bias_level_adu, rel=2e-3)
            overscan = data[truth.camera.clean_overscan_slice].mean()
            assert overscan == pytest.approx(frame.overscan_level_adu, abs=0.4)
            dates.append(header["DATE-OBS"])
    assert dates == sorted(set(dates))
    flats = [f for f in truth.frames if f.kind == "flat"]
    assert all(f.signal_adu == pytest.approx(20_000, rel=0.03) for f in flats if name == "lfc")
    assert set(truth.bias_level_adu) == {f.file for f in truth.frames}


def test_a_frame_of_the_night_can_be_made_alone(nights):
    """Same seed, same pixels, whatever else was exposed before."""
    truth, folder = nights["cg16m"]
    detector = make_detector("cg16m")
    for number in (33, 5):
        frame = truth.frames[number - 1]
        data, _, again = detector.expose(
            frame.kind,
            frame.exposure_time_s,
            level_adu=frame.signal_adu,
            frame_number=number,
        )
        assert again == frame
        np.testing.assert_array_equal(data, fits.getdata(folder / frame.file))


def test_seeds_and_frames_differ(detectors):
    detector = detectors["lfc"]
    other = make_detector("lfc", seed=SEED + 1)
    first, second = (detector.expose("bias", frame_number=n)[0] for n in (1, 2))
    assert np.mean(first == second) < 0.2
    assert np.mean(first == other.expose("bias", frame_number=1)[0]) < 0.2
    assert not np.array_equal(detector.truth.bias_adu, other.truth.bias_adu)


@pytest.mark.parametrize("name", CAMERA_NAMES)
def test_truth_survives_the_disk(nights, name, tmp_path):
    truth, _ = nights[name]
    path = tmp_path / "truth"
    truth.save(path)
    again = NightTruth.load(path)
    assert (again.camera, again.seed, again.frames) == (truth.camera, truth.seed, truth.frames)
    assert list(again.flat_response) == list(truth.flat_response)
    science = truth.frames[-1]
    for plane in ("bias_adu", "dark_rate_adu_per_s", "stars"):
        np.testing.assert_array_equal(getattr(again, plane), getattr(truth, plane))
    np.testing.assert_array_equal(again.expected_signal(science), truth.expected_signal(science))


def test_truth_of_another_format_is_refused(tmp_path):
    np.savez(tmp_path / "truth.npz", facts=np.array('{"format": 99}'))
    with pytest.raises(ValueError, match="format 99"):
        NightTruth.load(tmp_path / "truth.npz")


def test_existing_files_are_kept(tmp_path):
    last = tmp_path / "ccd.023.0.fits"
    last.write_text("mine")
    with pytest.raises(FileExistsError, match=r"ccd\.023\.0\.fits"):
        simulate_night("lfc", tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [last.name]
    assert last.read_text() == "mine"


def test_progress_is_told_of_each_file(tmp_path):
    lines = []
    truth = simulate_night("lfc", tmp_path, progress=lines.append)
    assert len(lines) == len(truth.frames) == 23
    assert lines[0] == "wrote ccd.001.0.fits (1 of 23)"


def test_without_noise_only_rounding_is_left(detectors):
    detector = detectors["cg16m"]
    exact, rounded = (
        image_of(detector, "flat", 1.0, level_adu=9_000.0, noise=False, quantise=q)
        for q in (False, True)
    )
    np.testing.assert_array_equal(rounded, np.rint(exact))


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        (("light", 1.0), {}, "kind 'light'"),
        (("flat", 1.0), {"filter": "z"}, "no filter 'z'"),
        (("dark", -1.0), {}, "negative"),
        (("bias", 1.0), {}, "no exposure time"),
        (("dark", 1.0), {"level_adu": 5.0}, "no light"),
    ],
)
def test_impossible_exposures_are_refused(detectors, args, kwargs, message):
    with pytest.raises(ValueError, match=message):
        detectors["lfc"].expose(*args, **kwargs)


def test_unknown_camera_is_refused():
    with pytest.raises(ValueError, match="'hst'"):
        make_detector("hst")
