"""Leaving frames out: the setting, and the viewer that writes it."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request

import numpy as np
import pytest

from flatcal import build_plan, load_config, run_plan
from flatcal.errors import ConfigError
from flatcal.recipe import Config, ExcludeRule, parse_config
from flatcal.records import Status
from flatcal.verify.night import open_night
from flatcal.viewing import Viewer, make_server
from flatcal.viewing.overrule import add_exclusion, overrule, remove_exclusion


@pytest.fixture
def raw(tmp_path, put_frame):
    folder = tmp_path / "raw"
    for number in range(3):
        bias = np.full((24, 32), 1000 + number, np.uint16)
        put_frame(folder / f"b{number}.fits", "BIAS", 0.0, bias)
        put_frame(folder / f"d{number}.fits", "DARK", 10.0, bias + 10)
        put_frame(folder / f"f{number}.fits", "FLAT", 10.0, bias + 20_000, FILTER="V")
    return folder


def test_a_frame_that_is_left_out_is_named_and_used_nowhere(raw, tmp_path):
    config = Config(exclude=(ExcludeRule(file="f1*", reason="a cloud"),))
    plan = build_plan(raw, config)
    assert plan.master("master_flat_V").inputs == ("f0.fits", "f2.fits")
    frame = plan.find_frame("f1.fits")
    assert (frame.action, frame.reason) == ("leave_out", "left out by [[exclude]] f1*: a cloud")
    assert plan.refused == ()
    result = run_plan(plan, tmp_path / "out")
    assert result.failed == ()
    (outcome,) = (o for o in result.record.outcomes if o.file == "f1.fits")
    assert (outcome.status, outcome.output, outcome.part_of) == (Status.LEFT_OUT, None, None)
    assert not (tmp_path / "out/flats/flat-f1.fits").exists()


@pytest.mark.parametrize("name", ["f.fits", "a [x]*?.fits", 'q"\\.fits', "\x7fé.fits"])
def test_a_rule_that_is_written_fits_its_file_alone_and_can_be_taken_away(name):
    text = '[camera]\nunit = "adu"\n'
    changed = add_exclusion(text, name)
    config = parse_config(changed, "x")
    assert config.exclusion(name) is not None
    assert config.exclusion("ax.fits") is None
    assert config.camera.unit == "adu"
    assert remove_exclusion(changed, name) == text


def test_overruling_needs_the_settings_of_the_run(raw, tmp_path):
    out, settings = tmp_path / "out", tmp_path / "night.toml"
    run_plan(build_plan(raw, parse_config("[dark]\ntolerance_s = 1.0\n", "x")), out)
    with pytest.raises(ConfigError, match="does not hold the settings of the run"):
        overrule(open_night(out), "f1.fits", settings, leave_out=True)
    assert not settings.exists()


def test_a_name_that_fits_two_files_is_refused(raw, tmp_path, put_frame):
    again = np.full((24, 32), 21_000, np.uint16)
    put_frame(raw / "sub/f1.fits", "FLAT", 10.0, again, FILTER="V")
    out, settings = tmp_path / "out", tmp_path / "night.toml"
    run_plan(build_plan(raw), out)
    with pytest.raises(ConfigError, match=r"it would change sub/f1\.fits as well"):
        overrule(open_night(out), "f1.fits", settings, leave_out=True)
    result = overrule(open_night(out), "sub/f1.fits", settings, leave_out=True)
    assert result.made == ("masters/master_flat_V.fits",)
    assert load_config(settings).exclude[0].file == "sub/f1.fits"


@pytest.fixture
def served(raw, tmp_path):
    run_plan(build_plan(raw), tmp_path / "out")
    server = make_server(Viewer(tmp_path / "out"))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def ask(server, path, *, body=None, **headers):
    request = urllib.request.Request(
        server.url + path, body, {name.replace("_", "-"): v for name, v in headers.items()}
    )
    return urllib.request.urlopen(request, timeout=20)


def test_the_server_answers_no_other_site(served):
    assert served.server_address[0] == "127.0.0.1"
    body = json.dumps({"file": "f1.fits", "leave_out": True}).encode()
    for path, headers, content in (
        ("frames", {"Host": "evil.example"}, None),
        ("overrule", {}, body),
        ("overrule", {"X_Flatcal_Token": "guessed"}, body),
    ):
        with pytest.raises(urllib.error.HTTPError) as refused:
            ask(served, path, body=content, **headers)
        assert refused.value.code == 403
        refused.value.close()
    assert open_night(served.viewer.out).plan.config.exclude == ()


def test_a_region_has_the_pixels_of_the_file(served, raw):
    with ask(served, "region?file=d2.fits&stage=raw&x0=3&x1=7&y0=5&y1=9") as answer:
        about = json.loads(answer.headers["X-Flatcal-Region"])
        values = np.frombuffer(answer.read(), "<f4").reshape(about["shape"])
    assert (about["first"], about["block"], about["whole"]) == ([4, 6], 1, [24, 32])
    assert (values == 1012).all()
    with pytest.raises(urllib.error.HTTPError) as refused:
        ask(served, "region?file=../d2.fits&stage=raw")
    assert refused.value.code == 409
    refused.value.close()
