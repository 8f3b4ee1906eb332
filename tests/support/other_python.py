# SPDX-License-Identifier: Apache-2.0
"""For tests that need a Python with PyTorch: HALFTONE_PYTHON names it; without one they are skipped."""

import os
import sys

SKIPPED = 77  # the exit status that CTest takes for it


def skip(reason):
    print(f"skipped: {reason}")
    sys.exit(SKIPPED)


def run_in_named_python():
    """Goes on as the Python of HALFTONE_PYTHON, if that is set."""
    python = os.environ.pop("HALFTONE_PYTHON", "")
    if python:
        os.execvp(python, [python, *sys.argv])
