#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compiles refused_loaders.cpp as a test is compiled, and checks that the compiler names what each class lacks.

Usage: refused_loaders_test.py BUILD_FOLDER
"""
from __future__ import annotations

import json
import pathlib
import shlex
import subprocess
import sys

FOLDER = pathlib.Path(__file__).resolve().parent
MESSAGES = (
    "expected a module that derives from halftone::TrainingModule<Batch>",
    "this loader lacks `Batch batch_at(std::int64_t position) const` and `std::int64_t batches_per_epoch() const`, "
    "or instead begin() and end() over the batches of an epoch",
    "this loader has batch_at(), but lacks `std::int64_t batches_per_epoch() const`",
    "this loader's batch_at(std::int64_t position) must be const",
    "this loader has only one of `halftone::StateDict state_dict() const` and "
    "`void load_state_dict(const halftone::StateDict&)`",
    "this loader's batches are of another type than the module's",
)


def compiler_says(build: pathlib.Path) -> str:
    entries = json.loads((build / "compile_commands.json").read_text(encoding="utf-8"))
    entry = next(entry for entry in entries if "train_tests.dir" in entry["command"])
    command = shlex.split(entry["command"])
    command[command.index("-o") : command.index("-o") + 2] = ["-fsyntax-only", "-fmax-errors=0"]
    command[command.index(entry["file"])] = str(FOLDER / "refused_loaders.cpp")
    done = subprocess.run(command, cwd=entry["directory"], capture_output=True, text=True, check=False)
    assert done.returncode != 0, "refused_loaders.cpp compiles"
    return done.stderr


def main() -> int:
    said = compiler_says(pathlib.Path(sys.argv[1]))
    lines = [line for line in said.splitlines() if "static assertion failed" in line]
    missing = [message for message in MESSAGES if sum(message in line for line in lines) != 1]
    for message in missing:
        print(f"expected once: {message}")
    if missing or len(lines) != len(MESSAGES):
        print(said)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
