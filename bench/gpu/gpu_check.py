#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Builds halftone for the GPU of this machine, tests it, holds its losses to PyTorch's and times its steps.

It needs an NVIDIA GPU, the CUDA toolkit, CMake 3.25, ninja, a C++ compiler and a Python with torch 2.11 or newer, whose
LibTorch is used, and no network. What else the build needs is a folder that --collect makes on a Debian machine.
gpu_check.json and gpu_check.md in the folder of --out are written after every result; gpu_check.log has all output.
Ends with 0 if all is right, 1 if something failed, 2 if the machine lacks something.
"""
from __future__ import annotations

import argparse
import datetime
import os
import pathlib
import sys
import time

import packages
from commands import CheckError, Deadline, Log, Runner
from machine import examine, missing_for_build, missing_for_gpu, text_of
from record import Record
from stages import ROOT, STAGES, Check, Skipped

EXAMPLES = """examples:
  scripts/gpu_check.sh --collect gpu-deps                  on a Debian machine with a network: 25 MB
  scripts/gpu_check.sh --deps gpu-deps --out result        on the machine with the GPU
  scripts/gpu_check.sh --out result --stages build,"CUDA tests" --limit 400
  scripts/gpu_check.sh --device cpu --built build --text poems --models dim-64 --shape 2 64 --steps 1 --tiny-seconds 3
                                                           tries the check itself; says nothing about a GPU
"""


def names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/gpu_check.sh", description=__doc__, epilog=EXAMPLES,
                                     allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    options = parser.parse_args()
    unknown = [name for name in options.stages if name not in STAGES]
    if unknown:
        parser.error(f"no stage is called '{unknown[0]}'; expected some of: {', '.join(STAGES)}")
    # One GPU takes several small trainings at once; the cores of a CPU do not.
    options.parallel = 8 if options.device == "cuda" else 1
    return options


def add_options(parser: argparse.ArgumentParser) -> None:
    path = pathlib.Path
    parser.add_argument("--collect", type=path, metavar="DIR", help="only fetch the packages that the build needs into DIR")
    parser.add_argument("--deps", type=path, metavar="DIR", help="the folder of --collect [gpu-deps if it is there]")
    parser.add_argument("--out", type=path, metavar="DIR", default=ROOT / "runs/gpu-check", help="for the results [runs/gpu-check]")
    parser.add_argument("--build", type=path, metavar="DIR", default=ROOT / "build-cuda", help="build folder [build-cuda]")
    parser.add_argument("--built", type=path, metavar="DIR", help="a build folder to use as it is, instead of building")
    parser.add_argument("--python", default="python3", help="a Python that has torch [python3]")
    parser.add_argument("--limit", type=float, default=720, metavar="S", help="seconds for everything [720]")
    parser.add_argument("--stages", type=names, default=list(STAGES), help="which, separated by commas: " + ", ".join(STAGES))
    parser.add_argument("--recipes", type=names, default=[], help="precisions to look at [all that the program has]")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="compilers at a time [one per core]")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"], help="cpu: to try the check itself [cuda]")
    parser.add_argument("--cases", default="*_CUDA", help="GoogleTest's filter of the stage CUDA tests [*_CUDA]")
    add_sizes(parser.add_argument_group("sizes"))


def add_sizes(sizes) -> None:
    sizes.add_argument("--models", type=names, default=["minimind-26m", "minimind-104m"], help="whose steps are timed")
    sizes.add_argument("--shape", type=int, nargs=2, metavar=("B", "T"), default=[32, 512], help="of a timed step [32 512]")
    sizes.add_argument("--steps", type=int, default=6, help="of a turn [6]")
    sizes.add_argument("--turns", type=int, default=5, help="turns that are timed [5]")
    sizes.add_argument("--loss-shape", type=int, nargs=2, metavar=("B", "T"), default=[8, 128], help="of the losses [8 128]")
    sizes.add_argument("--tiny-seconds", type=int, default=30, help="each small model trains for [30]")
    sizes.add_argument("--text", type=pathlib.Path, help="what they train on [the poems of --collect]")
    sizes.add_argument("--program-limit", type=float, default=90, metavar="S", help="for a program that times steps [90]")


def dependencies(options) -> pathlib.Path | None:
    folder = options.deps or (ROOT / "gpu-deps" if (ROOT / "gpu-deps").is_dir() else None)
    return packages.unpacked(folder, options.build / "gpu_check" / "deps") if folder else None


def environment_of(device: str, prefix: pathlib.Path | None) -> dict[str, str]:
    # Threads that spin between two matmuls slow down whatever else runs on the same cores.
    waiting = {"OMP_WAIT_POLICY": "PASSIVE"} if device == "cpu" else {}
    return {**waiting, **(build_environment(prefix) if prefix else {})}


def build_environment(prefix: pathlib.Path) -> dict[str, str]:
    libraries = ":".join(str(folder) for folder in packages.library_folders(prefix))
    before = os.environ.get("LD_LIBRARY_PATH")
    environment = {"LD_LIBRARY_PATH": f"{libraries}:{before}" if before else libraries,
                   "PKG_CONFIG_PATH": ":".join(str(folder) for folder in sorted(prefix.glob("usr/**/pkgconfig")))}
    if (prefix / "usr/bin/pkgconf").exists():
        environment["PKG_CONFIG"] = str(prefix / "usr/bin/pkgconf")
    return environment


def prepare(options) -> Check:
    """Looks at the machine; CheckError says in one line what is missing."""
    machine = examine(options.device, options.python)
    missing = missing_for_gpu(machine, options.python) if options.device == "cuda" else []
    if missing:
        raise CheckError(f"this machine lacks {'; '.join(missing)}")
    options.build = (options.built or options.build).resolve()
    prefix = dependencies(options)
    if not options.built and missing_for_build(prefix):
        raise CheckError(f"this machine lacks {'; '.join(missing_for_build(prefix))}")
    options.out.mkdir(parents=True, exist_ok=True)
    work = options.build / "gpu_check"
    work.mkdir(parents=True, exist_ok=True)
    log = Log(options.out / "gpu_check.log")
    log.path.unlink(missing_ok=True)
    facts = {"device": options.device, "begun": datetime.datetime.now().isoformat(" ", "seconds"),
             "revision": text_of(["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]).strip() or "unknown",
             "machine": machine.facts(), "limit_s": options.limit}
    return Check(options, machine, Runner(ROOT, environment_of(options.device, prefix), log),
                 Record(options.out, facts, options.stages), prefix, work)


def run_stage(check: Check, name: str, whole: Deadline) -> None:
    function, limit = STAGES[name]
    started = time.monotonic()
    print(f"==> {name}", file=sys.stderr, flush=True)
    check.record.end(name, "running", 0)
    state, more = "ok", {}
    try:
        function(check, whole.within(limit))
    except Skipped as reason:
        state, more = "skipped", {"reason": str(reason)}
    except CheckError as error:
        state, more = "failed", {"reason": str(error), "tail": error.tail}
    except Exception as error:  # an answer that nobody expected must not cost the results of the other stages
        state, more = "failed", {"reason": f"{type(error).__name__}: {error}"}
    check.record.end(name, state, time.monotonic() - started, **more)
    print(f"    {state}" + (f": {more['reason']}" if more else ""), file=sys.stderr, flush=True)


def check_all(options) -> int:
    whole = Deadline(options.limit)
    check = prepare(options)
    for name in options.stages:
        if name == "build" and options.built:
            check.record.end(name, "skipped", 0, reason=f"{options.build} is used as it is")
        elif whole.left() < 1:
            check.record.end(name, "not reached", 0, reason=f"the limit of {options.limit:.0f} s was used up")
        else:
            run_stage(check, name, whole)
    check.record.data["finished"] = True
    check.record.save()
    print((options.out / "gpu_check.md").read_text(encoding="utf-8"))
    return 1 if check.record.failed() else 0


def main() -> int:
    options = parse_arguments()
    try:
        if options.collect:
            print(packages.collect(options.collect))
            return 0
        return check_all(options)
    except (CheckError, OSError) as error:
        print(f"halftone: error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
