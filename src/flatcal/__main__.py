"""The program, as it is installed and as ``python -m flatcal``."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line, which takes a moment to load and may be interrupted meanwhile."""
    try:
        from flatcal.cli import main as program  # noqa: PLC0415

        program()
    except KeyboardInterrupt:
        print("flatcal: interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
