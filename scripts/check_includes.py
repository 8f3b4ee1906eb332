#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Holds every #include to the rooms and their order: prints each that breaks them, and exits with 1 if there is one.

Usage: scripts/check_includes.py [ROOT]
"""
from __future__ import annotations

import pathlib
import re
import sys

KERNELS = {"kernels/common", "kernels/gemm", "kernels/fused", "kernels/linear", "kernels/attention", "kernels/optimizer"}
# Room of halftone/ -> the rooms it may include, and with them what those may. A file belongs to the longest room
# that its path begins with. Nothing includes upward: the table has no cycle.
LAYERS = {
    "core": set(),
    "system": {"core"},
    "autocast": {"core"},
    "kernels/common": {"autocast", "system"},
    "kernels/gemm": {"kernels/common"},
    "kernels/fused": {"kernels/common"},
    "kernels/linear": {"kernels/gemm", "kernels/fused"},
    "kernels/attention": {"kernels/linear"},
    "kernels/optimizer": {"kernels/common"},
    "nn": KERNELS,
    "optim": {"kernels/optimizer"},
    "dist": {"core", "system"},
    "precision": {"optim", "kernels/gemm"},
    "inspect": {"autocast"},
    "probe": {"inspect", "system"},
    "data": {"system"},
    "media": {"data"},
    "tokenizer": {"system"},
    "io": {"system"},
    "run": {"io"},
    "report": {"run"},
    "machine": KERNELS,
    "models": {"nn"},
    # The training framework knows no model, tokenizer or configuration file: those are pretrain's.
    "train": {"precision", "dist", "nn", "data", "media", "report", "inspect", "machine"},
    "plan": {"models", "train"},
    # One training step looked at: two precisions beside each other, its cost, its choice of precision per layer.
    "diagnostics": {"train"},
    "pretrain": {"train", "plan", "diagnostics", "tokenizer"},
    # What is read back is read by whoever starts from weights.
    "export": {"pretrain"},
}
# Outside the library: these may include all of its headers, what is named here, and files of their own folder.
USERS = {"cli": ("cli/",), "tests": ("cli/", "support/"), "bench": ("bench/",), "examples": ("examples/",)}
# Libraries that a user of the installed headers need not have.
PRIVATE_LIBRARIES = ("fmt/", "spdlog/", "nlohmann/", "toml", "unicode/", "xxhash.h", "zlib.h", "hwy/", "re2/", "protozero/", "CLI/",
                     "png.h", "ft2build.h", "freetype/", "hb.h", "hb-ot.h", "expat.h", "sndfile.h", "samplerate.h")
# at::RecordFunction has a member that only builds without NDEBUG know, and LibTorch is a release build: these files
# are compiled as one, whatever the others are.
RECORD_FUNCTION = "ATen/record_function.h"
KNOW_RECORD_FUNCTION = ("halftone/kernels/common/observed_backward.cpp", "halftone/inspect/operation_observer.cpp",
                        "halftone/probe/backward_watch.cpp")
UMBRELLA = "halftone/halftone.h"
NOT_INSTALLED = ("_impl.h", "-inl.h", "/pch.h")

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')


def includes_of(path: pathlib.Path) -> list[tuple[int, str, str]]:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    matches = ((number, INCLUDE.match(line)) for number, line in enumerate(lines, 1))
    return [(number, match.group(1), match.group(2)) for number, match in matches if match]


def room_of(name: str) -> str:
    """The room of "halftone/a/b/c.h": "a/b" if the table has it, else "a"."""
    folders = name.split("/")[1:-1]
    prefixes = ["/".join(folders[:depth]) for depth in range(len(folders), 0, -1)]
    return next((prefix for prefix in prefixes if prefix in LAYERS), prefixes[-1] if prefixes else "")


def rooms_below(room: str, above: tuple[str, ...] = ()) -> set[str]:
    """All rooms that `room` may include, itself left out."""
    if room in above:
        raise SystemExit(f"includes: the table of rooms has a cycle: {' -> '.join((*above, room))}")
    return LAYERS[room].union(*(rooms_below(lower, (*above, room)) for lower in LAYERS[room]))


def broken_layer(name: str, included: str) -> str:
    """Why the library's file `name` may not include "halftone/...", or nothing."""
    folder = room_of(name)
    target = room_of(included)
    if name == UMBRELLA:
        return ""
    if included == UMBRELLA:
        return "the umbrella header is for users of the library"
    if folder not in LAYERS:
        return f"halftone/{folder} is not in the table of scripts/check_includes.py"
    if target not in rooms_below(folder) | {folder}:
        allowed = ", ".join(sorted(rooms_below(folder))) or "itself"
        return f"{folder} may include only {allowed}"
    return ""


def broken_library_include(name: str, quote: str, included: str) -> str:
    is_public = name.endswith(".h") and not name.endswith(NOT_INSTALLED)
    if included.startswith("halftone/"):
        return "own headers are included with quotes" if quote == "<" else broken_layer(name, included)
    if quote == '"':
        return "own headers are included by their path from the root, halftone/..."
    if included == "torch/torch.h" and name.endswith((".h", ".cuh")):
        return "headers include the parts of LibTorch they need, such as <torch/types.h>"
    if included == RECORD_FUNCTION and name not in KNOW_RECORD_FUNCTION:
        return f"only {' and '.join(KNOW_RECORD_FUNCTION)} may touch at::RecordFunction"
    if included.startswith("CLI/"):
        return "only cli knows the command line"
    if is_public and included.startswith(PRIVATE_LIBRARIES):
        return "a public header includes std and LibTorch only"
    return ""


def broken_user_include(name: str, quote: str, included: str) -> str:
    own = ("halftone/", *USERS[name.split("/")[0]])
    if included.endswith(NOT_INSTALLED) and name.startswith(("cli/", "examples/")):
        return "this header is private to the library"
    if quote == '"' and "/" in included and not included.startswith(own):
        return f"only {', '.join(own)} and the own folder are at hand here"
    return ""


def check_file(root: pathlib.Path, path: pathlib.Path) -> list[str]:
    name = path.relative_to(root).as_posix()
    check = broken_library_include if name.startswith("halftone/") else broken_user_include
    includes = includes_of(path)
    complaints = [
        f"{name}:{number}: {included}: {reason}"
        for number, quote, included in includes
        if (reason := check(name, quote, included))
    ]
    own_header = path.with_suffix(".h")
    if path.suffix == ".cpp" and own_header.exists():
        expected = own_header.relative_to(root).as_posix()
        if not includes or includes[0][2] not in (expected, expected.removeprefix("tests/")):
            complaints.append(f"{name}:{includes[0][0] if includes else 1}: its own header {expected} comes first")
    return complaints


def check_tree(root: pathlib.Path) -> list[str]:
    folders = [root / folder for folder in ("halftone", *USERS)]
    files = sorted(path for folder in folders for path in folder.rglob("*") if path.suffix in (".h", ".cpp", ".cu", ".cuh"))
    own_project = root / "tests" / "find_package"  # a stranger's project: it uses the installed headers
    return [line for path in files if own_project not in path.parents for line in check_file(root, path)]


if __name__ == "__main__":
    tree = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parents[1]).resolve()
    problems = check_tree(tree)
    print("\n".join(problems) if problems else "includes: all in order")
    sys.exit(1 if problems else 0)
