#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""For tidy.sh: writes BUILD/tidy/compile_commands.json without what only g++ understands, prints the chosen sources.

Usage: tidy_database.py BUILD [--all | --light | FILE...]
"""
from __future__ import annotations

import json
import pathlib
import re
import shlex
import subprocess
import sys

PRECOMPILED = "cmake_pch.hxx"
# In the command of a source that includes LibTorch: its precompiled header, or the library that has none.
WITH_LIBTORCH = (PRECOMPILED, "halftone_cpu_gemm.dir", "cpu_gemm_library_program.dir",
                "halftone_probe_torch.dir", "probe_program_")
BATCHED = re.compile(r'^#include "(.+\.cpp)"$', re.MULTILINE)
ROOT = pathlib.Path(__file__).resolve().parents[1]


def clang_arguments(command: str) -> list[str]:
    """The compiler's arguments without launcher, precompiled header and OpenMP (whose header is g++'s own)."""
    words = shlex.split(command)
    start = next(i for i, word in enumerate(words) if word.rpartition("/")[2].startswith(("c++", "g++", "clang++")))
    kept = ["clang++", "-DHWY_COMPILE_ONLY_STATIC"]  # Highway's kernels once, not once for each set of instructions
    rest = iter(words[start + 1 :])
    for word in rest:
        if word == "-include":
            header = next(rest)
            kept += [] if PRECOMPILED in header else [word, header]
        elif word not in ("-fopenmp", "-Winvalid-pch", "-Werror"):
            kept.append(word)
    return kept


def sources_of(entry: dict) -> list[dict]:
    """The entry, or one for each source of the batch that it compiles (cmake/Sources.cmake)."""
    batch = entry["file"]
    if "/Unity/" not in batch:
        return [entry]
    sources = BATCHED.findall(pathlib.Path(batch).read_text())
    return [{**entry, "file": source, "command": entry["command"].replace(batch, source)} for source in sources]


def changed_files() -> set[str]:
    names = set()
    for command in (["git", "diff", "--name-only", "main"], ["git", "ls-files", "--others", "--exclude-standard"]):
        names.update(subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout.decode().split())
    return {str(ROOT / name) for name in names}


def main() -> None:
    build = pathlib.Path(sys.argv[1])
    wanted = sys.argv[2:]
    commands = json.loads((build / "compile_commands.json").read_text())
    entries = [source for entry in commands if PRECOMPILED not in entry["file"] for source in sources_of(entry)]
    heavy = {entry["file"] for entry in entries if any(word in entry["command"] for word in WITH_LIBTORCH)}
    for entry in entries:
        entry["arguments"] = clang_arguments(entry.pop("command"))
    (build / "tidy").mkdir(exist_ok=True)
    (build / "tidy" / "compile_commands.json").write_text(json.dumps(entries, indent=1))
    files = {entry["file"] for entry in entries}
    if wanted == ["--light"]:
        files -= heavy
    elif wanted != ["--all"]:
        files &= {str(pathlib.Path(name).resolve()) for name in wanted} if wanted else changed_files()
    print("\n".join(sorted(files)))


if __name__ == "__main__":
    main()
