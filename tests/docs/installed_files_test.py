#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`scripts/quickstart.sh --build-only` must build whatever `cmake --install build` copies.

Usage: installed_files_test.py SOURCE BUILD SCRATCH

In a build folder that is complete nothing would be missing: asks Ninja for the inputs of the script's target.
"""
from __future__ import annotations

import pathlib
import re
import subprocess
import sys


def output_of(*command: str) -> str:
    return subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout.decode()


def main(source: pathlib.Path, build: pathlib.Path, scratch: pathlib.Path) -> int:
    target = re.search(r"--target (\S+)", (source / "scripts/quickstart.sh").read_text()).group(1)
    built = {pathlib.Path(name).name for name in output_of("ninja", "-C", str(build), "-t", "query", target).split()}
    output_of("cmake", "--install", str(build), "--prefix", str(scratch))
    programs = [path for path in scratch.rglob("*") if path.parent.name == "bin" or path.suffix in (".so", ".a")]
    missing = sorted(path.name for path in programs if path.name not in built)
    print(f"{target}: {len(programs)} programs and libraries are installed")
    if len(programs) < 3 or missing:
        print(f"not built by scripts/quickstart.sh --build-only: {' '.join(missing)}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*(pathlib.Path(argument).resolve() for argument in sys.argv[1:4])))
