"""Write messages.md, the page that explains each message, from the table in flatcal.errors.

Run it after a change of the table: ``python docs/make_messages.py``.
"""

from __future__ import annotations

import textwrap
from pathlib import Path

from flatcal.errors import MESSAGES

PAGE = Path(__file__).with_name("messages.md")
INTRODUCTION = """\
# Messages

A message of flatcal ends with a name in square brackets, such as `[dark-exposure]`. This page
says what each name means and what to do. In `plan.json` and `run.json` the name stands under
`slug`, so that a script can ask for it.

This page is made by `docs/make_messages.py` from the table in `src/flatcal/errors.py`; do not
edit it by hand.
"""


def render() -> str:
    """Text of the page: a heading, and with it an anchor, for each slug in order of the alphabet.

    Returns
    -------
    str
        Markdown, ending with a line feed.
    """
    parts = [INTRODUCTION]
    for slug, meaning in sorted(MESSAGES.items()):
        parts += [f"## {slug}\n", textwrap.fill(meaning, 95, break_on_hyphens=False) + "\n"]
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
