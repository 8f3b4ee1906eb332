#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""For tidy.sh: runs clang-tidy on one source, unless it found nothing before in the same bytes: of the source, of every
header that it includes, of the options and of clang-tidy itself.

Usage: tidy_cached.py DATABASE CACHE FILE
"""
from __future__ import annotations

import hashlib
import json
import os
import pathlib
import subprocess
import sys

TIDY = "clang-tidy-14"
COMPILER = "clang++-14"
ROOT = pathlib.Path(__file__).resolve().parents[1]


def arguments_of(database: pathlib.Path, file: str) -> list[str]:
    entries = json.loads((database / "compile_commands.json").read_text())
    return next(entry["arguments"] for entry in entries if entry["file"] == file)


def files_read(arguments: list[str]) -> list[str] | None:
    """The source and its headers, as the compiler finds them; nothing if it can't say."""
    skipped = {"-o", "-MF", "-MT", "-MQ"}
    kept = [word for i, word in enumerate(arguments[1:], 1)
            if word not in skipped | {"-c", "-MD", "-MMD"} and arguments[i - 1] not in skipped]
    try:
        done = subprocess.run([COMPILER, "-M", "-w", *kept], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                              check=False, cwd=ROOT)
    except FileNotFoundError:
        return None
    if done.returncode != 0:
        return None
    return done.stdout.decode().replace("\\\n", " ").partition(":")[2].split()


def key_of(arguments: list[str]) -> str | None:
    files = files_read(arguments)
    if not files:
        return None
    digest = hashlib.sha256()
    version = subprocess.run([TIDY, "--version"], stdout=subprocess.PIPE, check=True).stdout
    for part in (version, (ROOT / ".clang-tidy").read_bytes(), "\0".join(arguments).encode()):
        digest.update(hashlib.sha256(part).digest())
    for name in files:
        digest.update(name.encode() + b"\0")
        digest.update(hashlib.sha256((ROOT / name).read_bytes()).digest())
    return digest.hexdigest()


def main(database: pathlib.Path, cache: pathlib.Path, file: str) -> int:
    key = key_of(arguments_of(database, file))
    if key and (cache / key).exists():
        os.utime(cache / key)  # tidy.sh removes what was not asked for in a month
        return 0
    code = subprocess.run([TIDY, "-p", str(database), "--quiet", file], check=False).returncode
    if code == 0 and key:
        cache.mkdir(parents=True, exist_ok=True)
        (cache / key).touch()
    return code


if __name__ == "__main__":
    sys.exit(main(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3]))
