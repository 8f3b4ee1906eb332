#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Demands a test of each line of the table "Lightning -> halftone" in docs/trainer.md, and a line of each test that is marked.

A test is marked by a comment above it: // guide: NAME; NAME. A NAME is the first cell of a line, without its backticks.

Usage: trainer_table_test.py SOURCE
"""
from __future__ import annotations

import pathlib
import re
import sys

TABLE = "## Lightning -> halftone"
MARK = re.compile(r"^// guide: (.+(?:\n// .+)*)\n(?:TEST|INSTANTIATE)", re.M)


def lines_of(document: str) -> set[str]:
    rows = [row for row in document[document.index(TABLE):].splitlines() if row.startswith("| ")]
    return {row.split("|")[1].replace("`", "").strip() for row in rows[1:]}


def marks_in(tests: pathlib.Path) -> set[str]:
    found = set()
    for source in tests.rglob("*_test.cpp"):
        for names in MARK.findall(source.read_text(encoding="utf-8")):
            found |= {name.strip() for name in names.replace("\n//", "").split(";")}
    return found


def main() -> int:
    source = pathlib.Path(sys.argv[1])
    lines = lines_of((source / "docs/trainer.md").read_text(encoding="utf-8"))
    marks = marks_in(source / "tests")
    for name in sorted(lines - marks):
        print(f"docs/trainer.md: no test is marked '// guide: {name}'")
    for name in sorted(marks - lines):
        print(f"a test is marked '// guide: {name}', which is no line of the table in docs/trainer.md")
    print(f"{len(lines & marks)} lines have their tests")
    return 1 if lines != marks or len(lines) < 20 else 0


if __name__ == "__main__":
    sys.exit(main())
