"""The library of masters in PostgreSQL, and several programs at once in either database.

A server of PostgreSQL is started for these tests in a folder of its own, and can be reached from
this computer alone.
"""

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
from astropy.io import fits
from typer.testing import CliRunner

from flatcal.cli_library import library_app
from flatcal.errors import FlatcalError
from flatcal.frame import Kind, Setup
from flatcal.library import open_library
from flatcal.stored import MasterStatus

SETUP = Setup("Aspen CG16M", (10, 12), (1, 1), "", "", "adu")
CARDS = {
    "IMAGETYP": "dark",
    "COMBINED": True,
    "NCOMBINE": 10,
    "EXPTIME": 60.5,
    "DATE-OBS": "2026-01-04T22:00:00",
    "DATE-END": "2026-01-04T22:30:00",
    "OSCANSUB": True,
    "FLATCAL": "0.1.0",
    "RECIPE": "ab" * 32,
    "FCCAMERA": "Aspen CG16M",
    "FCROWS": 10,
    "FCCOLS": 12,
    "FCXBIN": 1,
    "FCYBIN": 1,
    "FCRDMODE": "",
    "FCGAINST": "",
    "FCUNIT": "adu",
    "FCLOSTB": False,
}


def put(path, **cards):
    """Write a master; '_' stands for '-'."""
    header = fits.Header()
    for keyword, value in (CARDS | {k.replace("_", "-"): v for k, v in cards.items()}).items():
        header[keyword] = value
    fits.PrimaryHDU(np.zeros((10, 12), np.float32), header).writeto(path, overwrite=True)
    return path


# -- a server ----------------------------------------------------------------------------


def find_programs():
    """The folder of initdb and pg_ctl, which Debian does not put into the path."""
    if found := shutil.which("initdb"):
        return Path(found).parent
    versions = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    newest = max(versions, key=lambda path: int(path.parent.parent.name), default=None)
    return newest and newest.parent


def unprivileged(folder):
    """How a program is run by one who may run a server: PostgreSQL refuses the superuser."""
    if os.geteuid() != 0:
        return []
    names = {user.pw_name for user in pwd.getpwall()}
    name = next((name for name in ("postgres", "nobody") if name in names), None)
    if name is None or shutil.which("runuser") is None:
        pytest.skip("tests run as root, and there is nobody else to run PostgreSQL")
    shutil.chown(folder, name)
    return ["runuser", "-u", name, "--"]


@pytest.fixture(scope="module")
def server():
    """Folder of the socket of a server that is empty."""
    pytest.importorskip("psycopg")
    programs = find_programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed")
    # Not a folder of pytest: others may not look into those, and their names are too long for
    # a socket.
    with tempfile.TemporaryDirectory(prefix="flatcal-pg-") as name:
        folder = Path(name)
        user = unprivileged(folder)

        def run(program, *words):
            command = [*user, programs / program, "-D", folder / "data", *words]
            subprocess.run(command, check=True, capture_output=True, cwd="/")

        run("initdb", "--auth=trust", "--username=astronomer", "--no-sync", "--encoding=UTF8")
        settings = f"-c listen_addresses= -c fsync=off -k {folder}"
        # Without a log the server would keep the pipes of pg_ctl open.
        run("pg_ctl", "start", "-w", "-l", folder / "log", "-o", settings)
        try:
            yield folder
        finally:
            run("pg_ctl", "stop", "-m", "immediate")


@pytest.fixture
def url(server):
    """A database of its own."""
    import psycopg  # noqa: PLC0415

    name = f"t{uuid4().hex}"
    with psycopg.connect(host=str(server), user="astronomer", dbname="postgres") as connection:
        connection.autocommit = True
        connection.execute(f"CREATE DATABASE {name} TEMPLATE template0")
    return f"postgresql://astronomer@/{name}?host={server}"


@pytest.fixture
def library(url, tmp_path):
    with open_library(url, store=tmp_path / "store") as opened:
        yield opened


def refusal(call, *args, **options):
    """The one line of an error."""
    with pytest.raises(FlatcalError) as error:
        call(*args, **options)
    assert error.value.slug == "library"
    assert "\n" not in str(error.value)
    return str(error.value)


# -- as in a file ------------------------------------------------------------------------


def test_a_master_comes_back_as_it_was_kept(library, url, tmp_path):
    path = put(tmp_path / "dark.fits", FCSETTMP=-20.25, TRIMDSEC="[1:10,1:10]", FCBIASRC="cd" * 32)
    master = library.add(
        path, valid_from="2026-01-01", valid_to="2026-06-30", note="größer 'x'; --"
    )
    with open_library(url, create=False) as again:
        assert again.store == tmp_path / "store"
        assert again.get(master.id) == master
        assert again.verify(master.id).note == "größer 'x'; --"
    assert master.setup == SETUP
    assert (master.kind, master.exposure_time_s) == (Kind.DARK, 60.5)
    assert (master.set_temperature_c, master.overscan, master.lost_bias) == (-20.25, True, False)
    assert (master.valid_from, master.valid_to) == ("2026-01-01", "2026-06-30")
    seconds = time.time() - time.mktime(time.strptime(master.added, "%Y-%m-%dT%H:%M:%SZ"))
    assert abs(seconds - time.timezone) < 60


def test_choices_are_those_of_a_file(library, tmp_path):
    old = library.add(put(tmp_path / "a.fits"), note="mine")
    new = library.add(put(tmp_path / "a.fits", NCOMBINE=11))
    other = library.add(put(tmp_path / "b.fits", NCOMBINE=12), valid_to="2026-01-31")
    assert library.get(old.id).note == f"mine; replaced by {new.id}"
    assert library.candidates(Kind.DARK, SETUP, "2026-01-31T23:59:59") == [other, new]
    assert library.candidates(Kind.DARK, SETUP, "2026-02-01") == [new]
    assert library.candidates(Kind.DARK, SETUP, "") == [new]
    assert library.candidates(Kind.DARK, replace(SETUP, unit="electron"), "") == []
    assert library.set_validity(new.id, "2026-01-01", None).valid_from == "2026-01-01"
    assert library.set_status(new.id, MasterStatus.BAD, "leak").note == "leak"
    assert library.find(date="2026-02-01") == []
    assert len(library.find("dark", "Aspen CG16M", None)) == 3


def test_a_library_in_a_file_moves_to_postgresql_and_back(library, tmp_path):
    with open_library(tmp_path / "old.sqlite") as old:
        old.add(put(tmp_path / "a.fits"), note="mine")
        old.add(put(tmp_path / "a.fits", NCOMBINE=11), valid_to="2026-01-31")
        assert library.copy_from(old) == []
        assert library.add(put(tmp_path / "b.fits", NCOMBINE=12)).id == 3
        with open_library(tmp_path / "back.sqlite") as back:
            assert back.copy_from(library) == []
            kept = [replace(master, path="") for master in back.find(status=None)[:2]]
        assert kept == [replace(master, path="") for master in old.find(status=None)]


def test_an_empty_library_moves(library, tmp_path):
    with open_library(tmp_path / "old.sqlite") as old:
        assert library.copy_from(old) == []
    assert library.add(put(tmp_path / "a.fits")).id == 1


def test_commands(url, tmp_path):
    path = put(tmp_path / "dark.fits")
    store = str(tmp_path / "store")

    def run(*words):
        return CliRunner().invoke(library_app, [*words, "--library", url])

    assert "name the folder" in str(run("add", str(path)).exception)
    assert run("add", str(path), "--store", store).output == f"{path} is kept as 1\n"
    assert run("add", str(path)).output.startswith(f"{path} is there already as 1 (good)")
    assert run("find", "--paths").output.startswith(store)
    assert run("verify").exit_code == 0


# -- opening -----------------------------------------------------------------------------


def test_a_new_library_needs_a_folder_and_remembers_it(url, tmp_path):
    assert "no library" in refusal(open_library, url, create=False)
    assert "--store" in refusal(open_library, url)
    with open_library(url, store=tmp_path / "store") as library:
        master = library.add(put(tmp_path / "dark.fits"))
    line = refusal(open_library, url, store=tmp_path / "typo")
    assert f"its files in {tmp_path}/store, and {tmp_path}/typo does not hold dark-" in line
    (tmp_path / "store").rename(tmp_path / "moved")
    for store in (tmp_path / "moved", None):
        with open_library(url, store=store) as library:
            assert library.verify(master.id).path.startswith(f"{tmp_path}/moved/")


def test_a_library_of_a_newer_flatcal_is_refused(library, url):
    import psycopg  # noqa: PLC0415

    with psycopg.connect(url) as connection:
        connection.execute("UPDATE flatcal_library SET schema_version = 4")
    assert "made by a newer flatcal (version 4" in refusal(open_library, url)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("exposure_time_s = 'Infinity'", "master 1 of the library"),
        ("set_temperature_c = 'NaN'", "set_temperature_c is nan"),
        ("trim_section = 'x'", "mark 1 bad"),
        ("valid_to = 'infinity'", "cannot be used: date too large"),
    ],
)
def test_a_master_that_cannot_be_read_is_told(library, url, tmp_path, change, told):
    import psycopg  # noqa: PLC0415

    library.add(put(tmp_path / "bias.fits"))
    with psycopg.connect(url) as connection:
        connection.execute(f"UPDATE flatcal_master SET {change}")
    assert told in refusal(library.find)


def test_a_server_or_database_that_is_not_there(url, tmp_path):
    for where in ("postgresql://me:secret@/x?", "postgresql:///x?user=me&password=secret&"):
        line = refusal(open_library, f"{where}host={tmp_path}")
        assert str(tmp_path) in line
        assert "secret" not in line
    line = refusal(open_library, url.replace("@/", "@/no"))
    assert "does not exist" in line


def test_rights_are_those_that_the_page_names(library, url, tmp_path):
    import psycopg  # noqa: PLC0415

    master = library.add(put(tmp_path / "dark.fits"))
    with psycopg.connect(url) as connection:
        connection.execute("DROP ROLE IF EXISTS visitor")
        connection.execute("CREATE ROLE visitor LOGIN")
        connection.execute("GRANT SELECT ON flatcal_master, flatcal_library TO visitor")
    with open_library(url.replace("astronomer@", "visitor@"), create=False) as readable:
        assert readable.candidates(Kind.DARK, SETUP, "") == [master]
        assert "permission denied" in refusal(readable.set_status, master.id, MasterStatus.BAD)
    with psycopg.connect(url) as connection:
        connection.execute("GRANT INSERT, UPDATE ON flatcal_master, flatcal_library TO visitor")
        connection.execute("GRANT USAGE ON SEQUENCE flatcal_master_id_seq TO visitor")
    with open_library(url.replace("astronomer@", "visitor@")) as writable:
        assert writable.add(put(tmp_path / "dark.fits", NCOMBINE=11)).id == 2
        assert writable.set_status(1, MasterStatus.BAD).status is MasterStatus.BAD
    with psycopg.connect(url) as connection:
        connection.execute("DROP OWNED BY visitor")
        connection.execute("DROP ROLE visitor")


def test_a_server_that_was_started_again_is_found(library, url):
    import psycopg  # noqa: PLC0415

    assert library.find() == []
    with psycopg.connect(url) as connection:
        others = "pid <> pg_backend_pid() AND datname = current_database()"
        connection.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}")
    assert library.find() == []


# -- several programs at once ------------------------------------------------------------

N_PROGRAMS, N_ROUNDS = 3, 4

# Each program adds masters of its own, masters that all add, and one path over and over again
# with a content that is new each time.
PROGRAM = """
import os, sys, time
from pathlib import Path
from uuid import uuid4
from flatcal.errors import FlatcalError
from flatcal.library import open_library
from flatcal.stored import MasterStatus

where, store, folder, number, rounds = sys.argv[1:]
folder = Path(folder)
(folder / f"ready{number}").touch()
while not (folder / "go").exists():
    time.sleep(0.01)
with open_library(where, store=store or None) as library:
    for turn in range(int(rounds)):
        library.add(folder / f"shared{turn}.fits")
        own = library.add(folder / f"own{number}-{turn}.fits")
        if turn % 2:
            library.set_status(own.id, MasterStatus.RETIRED, number)
        os.replace(folder / f"new{number}-{turn}.fits", folder / "contested.fits")
        try:
            library.add(folder / "contested.fits")
        except FlatcalError as error:
            # Another program has replaced the file meanwhile: it will add that one.
            assert "changed while" in str(error), error
        library.candidates(own.kind, own.setup, own.date_first)
"""


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request, tmp_path):
    """Where a library may be, and its folder if it needs one."""
    if request.param == "sqlite":
        return str(tmp_path / "masters.sqlite"), ""
    return request.getfixturevalue("url"), str(tmp_path / "store")


def test_several_programs_at_once(place, tmp_path):
    where, store = place
    folder = tmp_path / "masters"
    folder.mkdir()
    serial = 0
    for turn in range(N_ROUNDS):
        for name in (
            "shared",
            *(f"{what}{n}-" for n in range(N_PROGRAMS) for what in ("own", "new")),
        ):
            serial += 1
            put(folder / f"{name}{turn}.fits", NCOMBINE=serial)
    contested = {int(fits.getval(path, "NCOMBINE")) for path in folder.glob("new*")}
    words = [where, store, folder]
    programs = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", PROGRAM, *map(str, words), str(n), str(N_ROUNDS)],
            stderr=subprocess.PIPE,
            text=True,
        )
        for n in range(N_PROGRAMS)
    ]
    try:
        while len(list(folder.glob("ready*"))) < N_PROGRAMS:
            assert all(program.poll() is None for program in programs)
            time.sleep(0.01)
        # None has opened the library yet: they also race for making it.
        (folder / "go").touch()
        ends = [(program.communicate(timeout=300)[1], program.returncode) for program in programs]
    finally:
        for program in programs:
            program.kill()
            program.wait()
    assert ends == [("", 0)] * N_PROGRAMS
    with open_library(where, create=False) as library:
        masters = library.find(status=None)
        assert max(Counter(master.sha256 for master in masters).values()) == 1
        assert {Path(master.path) for master in masters} == set(library.store.iterdir())
        for master in masters:
            library.verify(master.id)
    of_contested = [master for master in masters if master.n_frames in contested]
    others = [master for master in masters if master.n_frames not in contested]
    assert len(others) == N_ROUNDS * (1 + N_PROGRAMS)
    retired = [master for master in others if master.status is MasterStatus.RETIRED]
    assert Counter(master.note for master in retired) == {
        str(n): N_ROUNDS // 2 for n in range(N_PROGRAMS)
    }
    # Of one path only the last is good; each of the others was replaced by the next.
    assert [master.status for master in of_contested[:-1]].count(MasterStatus.GOOD) == 0
    assert of_contested[-1].status is MasterStatus.GOOD
    assert [master.note for master in of_contested[:-1]] == [
        f"replaced by {master.id}" for master in of_contested[1:]
    ]
