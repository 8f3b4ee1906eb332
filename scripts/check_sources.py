#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Checks what every source file owes: its license line first, at most MAX_LINES lines, a namespace of its own in a test."""
from __future__ import annotations

import pathlib
import re
import subprocess
import sys

MAX_LINES = 700
SUFFIXES = {".h", ".cpp", ".cu", ".cuh", ".py", ".sh", ".cmake"}
SPDX = re.compile(r"(//|#) SPDX-License-Identifier: Apache-2\.0$")


def source_files(root: pathlib.Path) -> list[pathlib.Path]:
    """Tracked and new files where there is git, else everything outside build folders."""
    command = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        answer = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
        paths = [root / name for name in answer.stdout.decode().split("\0") if name]
    except (OSError, subprocess.CalledProcessError):
        paths = [p for p in root.rglob("*") if not p.relative_to(root).parts[0].startswith(("build", "."))]
    is_source = lambda path: path.suffix in SUFFIXES or path.name == "CMakeLists.txt"
    return sorted(path for path in paths if is_source(path) and path.is_file())


def check_file(root: pathlib.Path, path: pathlib.Path) -> list[str]:
    name = path.relative_to(root).as_posix()
    lines = path.read_text(encoding="utf-8").splitlines()
    first = lines[1:2] if lines and lines[0].startswith("#!") else lines[:1]
    complaints = []
    if not first or not SPDX.match(first[0]):
        complaints.append(f"{name}:1: the first line is not 'SPDX-License-Identifier: Apache-2.0' in a comment")
    if len(lines) > MAX_LINES:
        complaints.append(f"{name}: {len(lines)} lines; split it, {MAX_LINES} is the most")
    # A folder's tests are compiled in batches, so their helpers must not meet.
    if path.name.endswith("_test.cpp") and not any(re.match(rf"namespace ([\w:]+::)?{path.stem} {{", line) for line in lines):
        complaints.append(f"{name}: expected its cases in 'namespace halftone::{path.stem}'")
    return complaints


if __name__ == "__main__":
    tree = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parents[1]).resolve()
    problems = [line for path in source_files(tree) for line in check_file(tree, path)]
    print("\n".join(problems) if problems else "sources: all in order")
    sys.exit(1 if problems else 0)
