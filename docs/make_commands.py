"""Write reference/command-line.md, the page of all commands, from the command line itself.

Run it after a change of a command: ``python docs/make_commands.py``.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from flatcal.cli import app

PAGE = Path(__file__).parent / "reference" / "command-line.md"
INTRODUCTION = """\
# Command line

Every command, argument and option. `flatcal --help` and `flatcal COMMAND --help` say the same in
the terminal; [Exit codes](../outputs.md#exit-codes) tell what the program ends with.

This page is made by `docs/make_commands.py` from the command line itself; do not edit it by hand.
"""


def commands_of(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """The program itself and each command that does something, with its whole name."""
    children = getattr(command, "commands", {})
    if not children or name == "flatcal":
        yield name, command
    for word, child in children.items():
        yield from commands_of(child, f"{name} {word}")


def usage(name: str, command: Any) -> str:
    """The line to type."""
    words = [name, "COMMAND"] if hasattr(command, "commands") else [name]
    for parameter in command.params:
        if is_argument(parameter):
            word = word_of(parameter) + ("" if parameter.nargs == 1 else "...")
            words.append(word if parameter.required else f"[{word}]")
    return " ".join([*words, "[OPTIONS]"])


def is_argument(parameter: Any) -> bool:
    return not parameter.opts[0].startswith("-")


def word_of(argument: Any) -> str:
    """The word that stands for an argument."""
    return (argument.metavar or argument.name.upper()).strip("[]")


def names_of(parameter: Any) -> str:
    """How an option is written, longest name first."""
    names = sorted(parameter.opts, key=len, reverse=True)
    value = parameter.metavar or parameter.name.upper()
    value = "" if parameter.is_flag or parameter.count else value
    return ", ".join(f"`{name} {value}`" if value else f"`{name}`" for name in names)


def default_of(parameter: Any) -> str:
    """The default as the table has it; empty where leaving the option out means nothing special."""
    if parameter.is_flag or parameter.count or parameter.default in (None, ""):
        return ""
    return f"`{parameter.default}`"


def one_command(name: str, command: Any) -> Iterator[str]:
    """Heading, purpose, the line to type and the tables of a command."""
    yield f"## {name}\n"
    yield inspect.cleandoc(command.help) + "\n"
    yield f"Usage: `{usage(name, command)}`\n"
    arguments = [p for p in command.params if is_argument(p)]
    options = [p for p in command.params if not is_argument(p)]
    if arguments:
        yield "| Argument | Meaning |\n|---|---|"
        for parameter in arguments:
            yield f"| `{word_of(parameter)}` | {cell(parameter)} |"
        yield ""
    if options:
        yield "| Option | Default | Meaning |\n|---|---|---|"
        for parameter in options:
            row = (names_of(parameter), default_of(parameter), cell(parameter))
            yield "| " + " | ".join(row) + " |"
        yield ""


def cell(parameter: Any) -> str:
    """What an argument or option means, as a cell of a table."""
    variable = f" Or the environment variable `{parameter.envvar}`." if parameter.envvar else ""
    return (parameter.help or "").replace("|", "\\|") + variable


def render() -> str:
    """Text of the page: a heading, the line to type and its tables for each command.

    Returns
    -------
    str
        Markdown, ending with a line feed.
    """
    parts = [INTRODUCTION]
    for name, command in commands_of(typer.main.get_command(app), "flatcal"):
        parts += one_command(name, command)
    return "\n".join(parts).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
