#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Seeded faults in foreign Python programs: the probe finds and names each, and is silent about clean runs.

Usage: python_programs_test.py LIBRARY [CLEAN_RUNS]

The programs know nothing of halftone. HALFTONE_PYTHON names a Python that has the torch of the library's release; where
none has, the test ends with 77 (skipped). CLEAN_RUNS: how many runs without a fault are watched, over programs,
precisions and seeds (10).
"""
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

from seeded_faults import FAULTS

SKIPPED = 77
PROGRAMS = pathlib.Path(__file__).with_name("programs")
CLEAN = [("image_classifier", "bf16"), ("gpt", "bf16"), ("gpt", "fp16"), ("lstm", "fp32"), ("diffusion", "bf16"),
         ("recommender", "fp32"), ("image_classifier", "fp16"), ("lstm", "bf16"), ("diffusion", "fp32"), ("gpt", "fp32")]


def python_with_torch():
    python = os.environ.get("HALFTONE_PYTHON", sys.executable)
    probe = subprocess.run([python, "-c", "import torch; print(torch.__version__)"], capture_output=True, text=True)
    if probe.returncode != 0 or not probe.stdout.startswith("2.15"):
        print(f"skipped: {python} has no torch 2.15; name one that has in HALFTONE_PYTHON")
        sys.exit(SKIPPED)
    return python


def watched(python, library, program, *flags, modes="first-nonfinite", preload=True):
    """The report about one run, and the program's exit code."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"HALFTONE_PROBE": modes, "HALFTONE_PROBE_OUT": folder, "HALFTONE_PROBE_EVERY": "1"}
        command = [python, str(PROGRAMS / f"{program}.py"), *flags]
        if preload:
            environment["LD_PRELOAD"] = str(library)
        else:
            command += ["--load", str(library)]
        run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        report = pathlib.Path(folder, "probe.json")
        if not report.exists():
            sys.exit(f"{program} {flags}: no report\n{run.stdout}{run.stderr}")
        return json.loads(report.read_text()), run


def what_differs(fault, report):
    """Why the report does not name the fault; nothing if it does."""
    if fault.kind == "underflow":
        shares = [entry["flushed_share"] for entry in report["underflow"] if entry["direction"] == fault.direction]
        return "" if max(shares, default=0) > 0.5 else f"flushed shares are {shares}"
    find = report["first_nonfinite"]
    if find is None:
        return "nothing was found"
    for key, pattern in [("operation", fault.operation), ("autograd_node", fault.node), ("module", fault.module)]:
        if pattern and not re.search(pattern, find.get(key) or ""):
            return f"{key} is {find.get(key)!r}, not {pattern!r}"
    for key, word in [("direction", fault.direction), ("kind", fault.kind)]:
        if find[key] != word:
            return f"{key} is {find[key]!r}, not {word!r}"
    return ""


def main():
    library = pathlib.Path(sys.argv[1]).resolve()
    clean_runs = int(sys.argv[2]) if len(sys.argv) > 2 else len(CLEAN)
    python = python_with_torch()
    failures = []
    for i, fault in enumerate(FAULTS):
        modes = "underflow" if fault.kind == "underflow" else "first-nonfinite"
        report, _ = watched(python, library, fault.program, "--fault", fault.name, "--precision", fault.precision,
                            modes=modes, preload=i % 2 == 0)
        wrong = what_differs(fault, report)
        print(f"{fault.program} {fault.name} {fault.precision}: {wrong or 'named'}", flush=True)
        failures += [f"{fault.program} {fault.name}: {wrong}"] if wrong else []
    for i in range(clean_runs):
        program, precision = CLEAN[i % len(CLEAN)]
        report, run = watched(python, library, program, "--precision", precision, "--seed", str(i),
                              modes="first-nonfinite,census", preload=i % 2 == 0)
        alarm = report["first_nonfinite"] is not None or run.returncode != 0 or not report["census"]
        if alarm:
            failures.append(f"clean {program} {precision} seed {i}: {report['first_nonfinite']} rc {run.returncode}")
        print(f"clean {program} {precision} seed {i}: {'ALARM' if alarm else 'silent'}", flush=True)
    print(f"{len(FAULTS)} faults, {clean_runs} clean runs, {len(failures)} failures")
    if failures:
        sys.exit("\n".join(failures))


if __name__ == "__main__":
    main()
