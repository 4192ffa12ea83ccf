"""The pages against the program: settings, messages, flags, profiles, links and commands."""

from __future__ import annotations

import configparser
import importlib.util
import re
import shlex
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import typer
from pydantic_core import PydanticUndefined

import flatcal
from flatcal import camera, facts, linearity, matching, recipe
from flatcal.camera import (
    GENERIC,
    CameraProfile,
    CameraSettings,
    ExtensionSettings,
    KindRule,
    Strict,
    load_profiles,
)
from flatcal.cli import app
from flatcal.errors import MESSAGES
from flatcal.flags import MEANING
from flatcal.recipe import CombineSettings, Config, DarkSettings
from flatcal.verify.records import TESTS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
# Of click, or of the copy of it that newer versions of typer hold.
USAGE_ERROR = typer.BadParameter.__mro__[1]
MADE = ("_build", "api")  # by Sphinx
PAGES = [
    page
    for page in (*sorted(DOCS.rglob("*.md")), *sorted(ROOT.glob("*.md")))
    if not set(page.relative_to(ROOT).parts) & set(MADE)
]
page_of_each = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))

# Heading of a table on the configuration page, and the model that it describes.
TABLES: dict[str, type[Strict]] = {
    "[camera]": CameraSettings,
    "[[camera.amplifiers]]": camera.AmplifierSettings,
    "[camera.extensions.NAME]": ExtensionSettings,
    "[[kinds]]": KindRule,
    "[[exclude]]": recipe.ExcludeRule,
    "[dark]": recipe.DarkSettings,
    "[combine]": recipe.CombineSettings,
    "[science]": recipe.ScienceSettings,
    "[cosmic_rays]": recipe.CosmicRaySettings,
    "[output]": recipe.OutputSettings,
    "Profile files": CameraProfile,
}


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)


def section(page: Path, heading: str) -> str:
    """What stands between a heading of the second level and the next one."""
    parts = re.split(r"^## (.+)$", page.read_text(encoding="utf-8"), flags=re.M)
    headings = [part.replace("`", "") for part in parts[1::2]]
    return parts[2 * headings.index(heading) + 2]


def rows(text: str) -> list[list[str]]:
    """Cells of the table rows of a text, without heads and rules."""
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


# -- settings ----------------------------------------------------------------------------


def as_toml(value: Any) -> str:
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, str):
        return f'`"{value}"`'
    if isinstance(value, tuple):
        return "`[" + ", ".join(as_toml(item).strip("`") for item in value) + "]`"
    return f"`{value}`"


def fields_of(model: type[Strict]) -> dict[str, str]:
    """Each setting of a model with its default as the page must have it."""
    wanted = {}
    for name, field in model.model_fields.items():
        if model is CameraProfile and name in CameraSettings.model_fields:
            continue
        if model is CameraSettings:
            # A setting that nobody names comes from the generic profile.
            wanted[name] = as_toml(getattr(GENERIC, name))
        elif field.default is PydanticUndefined and field.default_factory is None:
            wanted[name] = "required"
        else:
            wanted[name] = as_toml(field.get_default(call_default_factory=True))
    return wanted


@pytest.mark.parametrize("heading", TABLES)
def test_every_setting_is_on_the_page_with_its_default(heading):
    table = rows(section(DOCS / "configuration.md", heading))
    assert {row[0].strip("`"): row[2] for row in table} == fields_of(TABLES[heading])
    assert all(len(row) == 4 and row[1] and row[3] for row in table)


@pytest.mark.parametrize("heading", TABLES)
def test_every_choice_of_a_setting_is_on_the_page(heading):
    table = {row[0].strip("`"): row[1] for row in rows(section(DOCS / "configuration.md", heading))}
    for name, field in TABLES[heading].model_fields.items():
        for choice in choices_of(field.annotation) if name in table else ():
            assert f'`"{choice}"`' in table[name]


def choices_of(annotation: Any) -> Iterator[str]:
    if get_origin(annotation) is Literal:
        yield from get_args(annotation)
    for argument in get_args(annotation):
        yield from choices_of(argument)


RULES = (ROOT / "docs" / "decisions.md").read_text().split("| Rule |")[1].split("\n\n")[0]


@pytest.mark.parametrize(
    ("rule", "value"),
    [
        ("Exposure time", {5: "and four others"}[len(GENERIC.exposure_keyword)]),
        ("Belonging together", f"within {DarkSettings().temperature_tolerance_c:g} C"),
        ("Sensor off its temperature", f"beyond {facts._NEAR_SET_C:g} C"),
        ("Sensor off its temperature", f"beyond {matching.NOTABLE_TEMPERATURE_C:g} C"),
        ("Grouping of darks", f"within {100 * matching.SAME_EXPOSURE:g} % and "
                              f"{DarkSettings().tolerance_s:g} s"),
        ("Unscaled dark", f"within {DarkSettings().tolerance_s:g} s"),
        ("Scaled dark", f"at least {matching.ENOUGH_TO_REJECT} frames"),
        ("Few frames", f"below {matching.ENOUGH_TO_REJECT}"),
        ("Linear dark current", f"beyond {linearity._SIGNIFICANT:g} standard errors and "
                                f"{100 * linearity._NOTABLE:g} %"),
        ("Refined factor", "on" if DarkSettings().refine else "off"),
        ("Overscan", GENERIC.overscan_section),
        ("Overscan", GENERIC.overscan_statistic),
        ("Section that is kept", GENERIC.trim_section),
        ("Rejection", f"{CombineSettings().low_sigma:g} times"),
        ("Rejection", f"{CombineSettings().high_sigma:g} times"),
    ],
)  # fmt: skip
def test_the_table_of_rules_has_the_numbers_of_the_program(rule, value):
    (row,) = (line for line in RULES.splitlines() if line.startswith(f"| [{rule}]"))
    assert value in row.split("|")[2]


def test_the_table_of_rules_names_settings_that_exist_and_none_that_decides_is_left_out():
    named = {(table, name) for table, name in re.findall(r"`([a-z]+)\.([a-z_]+)", RULES)}
    models = {name: field.annotation for name, field in Config.model_fields.items()}
    deciding = {
        (table, name)
        for table in ("camera", "dark", "combine", "science")
        for name in models[table].model_fields
    }
    assert named == deciding


def test_no_table_and_no_model_of_settings_is_left_out():
    models = {
        model
        for module in (camera, recipe)
        for model in vars(module).values()
        if isinstance(model, type) and issubclass(model, Strict)
    }
    assert models - {Strict, recipe.Config} == set(TABLES.values())
    page = (DOCS / "configuration.md").read_text(encoding="utf-8")
    described = [part.replace("`", "") for part in re.findall(r"^## (.+)$", page, flags=re.M)]
    assert {h for h in described if rows(section(DOCS / "configuration.md", h))} == set(TABLES)
    in_tables = {h.strip("[]").split(".")[0] for h in TABLES if h.startswith("[")}
    assert in_tables == set(recipe.Config.model_fields)


def toml_blocks() -> Iterator[Any]:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for number, block in enumerate(re.findall(r"^```toml\n(.*?)^```", text, re.M | re.S), 1):
            yield pytest.param(block, id=f"{page.name}-{number}")


@pytest.mark.parametrize("text", list(toml_blocks()))
def test_settings_shown_are_valid(text):
    if re.search(r"^match\b", text, re.M):  # a profile file
        CameraProfile.model_validate(tomllib.loads(text))
    else:
        recipe.parse_config(text, "page")


# -- messages, flags, profiles -----------------------------------------------------------


def script_of(name):
    """A script of the documentation as a module."""
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


def test_the_schemas_are_what_the_script_makes():
    script = script_of("make_schema")
    for name, model in script.SCHEMAS.items():
        assert (DOCS / name).read_text(encoding="utf-8") == script.schema_text(model)


def test_the_page_of_commands_is_what_the_script_makes():
    script = script_of("make_commands")
    assert (DOCS / "reference" / "command-line.md").read_text(encoding="utf-8") == script.render()
    for name, command in script.commands_of(typer.main.get_command(app), "flatcal"):
        assert command.help, name
        assert all(parameter.help for parameter in command.params), name


def test_the_page_of_python_has_every_public_name():
    text = (DOCS / "reference" / "python.md").read_text(encoding="utf-8")
    listed = re.findall(r"^   (\w+)$", text, flags=re.M)
    in_words = re.findall(r"`flatcal\.(\w+)", text)
    assert len(listed) == len(set(listed))
    assert set(listed) | set(in_words) == set(flatcal.__all__)


def test_the_page_of_messages_is_what_the_script_makes():
    script = script_of("make_messages")
    assert (DOCS / "messages.md").read_text(encoding="utf-8") == script.render()
    assert set(MESSAGES) <= anchors(DOCS / "messages.md")


def test_the_table_of_flags_is_that_of_the_program():
    table = rows(section(DOCS / "outputs.md", "FLAGS"))
    flags = [[f"`{flag.value}`", f"`{flag.name}`", text] for flag, text in MEANING.items()]
    assert [row[:3] for row in table] == flags


def test_every_test_of_verify_is_on_its_page():
    table = rows(section(DOCS / "verify.md", "Tests"))
    assert [row[0].strip("`") for row in table] == list(TESTS)


@pytest.mark.parametrize("profile", load_profiles(), ids=lambda profile: profile.name)
def test_the_facts_of_each_profile_are_on_the_page(profile):
    table = {row[0].strip("`"): row[1] for row in rows(section(DOCS / "cameras.md", profile.name))}
    wanted = {"shape": f"`[{profile.shape[0]}, {profile.shape[1]}]`", "source": profile.source}
    for name in ("overscan_section", "trim_section", "dark_required"):
        wanted[name] = as_toml(getattr(profile, name))
    for name in ("gain_electron_per_adu", "read_noise_electron", "saturation_adu"):
        wanted[name] = as_toml(getattr(profile, name))
    assert {name: table[name] for name in wanted} == wanted
    assert all(f'{key} = "{glob}"' in table["match"] for key, glob in profile.match.items())


def test_the_layers_on_the_page_are_those_that_are_checked():
    contract = configparser.ConfigParser()
    contract.read(ROOT / ".importlinter", encoding="utf-8")
    layers = contract["importlinter:contract:layers"]["layers"].split("\n")
    table = rows(section(DOCS / "architecture.md", "Layers"))
    shown = [re.findall(r"`(\w+)`", row[0]) for row in table]
    assert shown == [re.findall(r"\w+", layer) for layer in layers if layer.strip()]


# -- links -------------------------------------------------------------------------------


@cache
def anchors(page: Path) -> set[str]:
    """Anchors of the headings of a page, as a forge makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), flags=re.M)
    kept = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
    return {heading.replace(" ", "-") for heading in kept}


@page_of_each
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), f"{page.name} links to {target}"
        if anchor:
            assert anchor in anchors(file), f"{page.name} links to {target}"


def included(page: Path) -> bool:
    """Whether a page is there for the site alone, and holds a file from outside of docs."""
    return page.read_text(encoding="utf-8").startswith("```{include}")


def test_the_index_names_every_page():
    index = DOCS / "index.md"
    linked = re.findall(r"\]\(([\w/-]+\.md)\)", index.read_text(encoding="utf-8"))
    pages = [page for page in PAGES if DOCS in page.parents and not included(page)]
    assert {str(page.relative_to(DOCS)) for page in pages} - {"index.md"} == set(linked)


def test_every_page_is_in_one_tree():
    listed = []
    for page in DOCS.rglob("index.md"):
        for tree in re.findall(r"^```{toctree}\n(.*?)^```", page.read_text("utf-8"), re.M | re.S):
            for entry in re.findall(r"^[\w./-]+$", tree, flags=re.M):
                listed.append((page.parent / f"{entry}.md").resolve())
    assert len(listed) == len(set(listed))
    assert set(listed) | {DOCS / "index.md"} == {page for page in PAGES if DOCS in page.parents}


# -- commands ----------------------------------------------------------------------------


def command_lines() -> Iterator[Any]:
    for page in PAGES:
        for block in re.findall(r"^```.*?^```", page.read_text(encoding="utf-8"), re.M | re.S):
            for line in block.replace("\\\n", " ").splitlines():
                # What another program makes of the output is not flatcal's.
                command = re.split(r" [|>] ", line.removeprefix("$ "))[0]
                if command.startswith("flatcal "):
                    yield pytest.param(command, id=f"{page.name}: {command}")


def parse(command: Any, words: list[str]) -> None:
    """Parse words as the command line does, without running anything.

    Raises
    ------
    Exception
        The usage error of the command line's own parser.
    """
    if hasattr(command, "commands"):
        options = {name for parameter in command.params for name in parameter.opts}
        while words[0] in options:
            words = words[1:]
            if not words:
                return
        assert words[0] in command.commands, f"{words[0]} is no command"
        parse(command.commands[words[0]], words[1:])
    else:
        command.make_context(command.name, list(words)).close()


@pytest.mark.parametrize("line", list(command_lines()))
def test_commands_shown_parse(line):
    # What a shell writes into a file is not of the command.
    words = shlex.split(line.partition(" > ")[0], comments=True)
    parse(typer.main.get_command(app), words[1:])


@pytest.mark.parametrize(
    "line",
    ["flatcal flan RAW", "flatcal plan", "flatcal plan RAW --jsn", "flatcal run RAW", "flatcal -x"],
)
def test_a_wrong_command_would_be_found(line):
    with pytest.raises((AssertionError, USAGE_ERROR)):
        parse(typer.main.get_command(app), shlex.split(line)[1:])
