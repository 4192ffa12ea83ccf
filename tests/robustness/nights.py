"""The settings of the tests' night, and flatcal as a process."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

SETTINGS = "[camera]\ngain_electron_per_adu=1.5\nread_noise_electron=6\n"
PACKED = f"{SETTINGS}[output]\ncompress=true\nsplit_flat=true\n"


def program(*words: object, **options: Any) -> subprocess.Popen[str]:
    """Start flatcal as a process."""
    # A shell that starts the tests in the background lets them ignore interrupts.
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code += "from flatcal.cli import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "80", "NO_COLOR": "1"},
        **options,
    )
