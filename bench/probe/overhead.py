#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What the probe costs: two PyTorch programs of ordinary size, without it and with it, in turns.

  python3 bench/probe/overhead.py [--python PYTHON_WITH_TORCH] [--library build/libhalftone_probe.so]
                                  [--rounds 3] [--steps 10] [--sampled-steps 150] [--workloads gpt,classifier]

Each round runs the program without the probe, then in each of its modes, then without it again: the ratio is to the
mean of both. A machine that does other things at the same time changes the time; processor time it changes less. The
losses must be the same to the last bit.
"""

import argparse
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
ALL = "first-nonfinite,census,underflow,compare"
# name -> HALFTONE_PROBE, HALFTONE_PROBE_EVERY
EVERYTHING = {
    "first-nonfinite, every step": ("first-nonfinite", "1"),
    "census, every step": ("census", "1"),
    "underflow and compare, every step": ("underflow,compare", "1"),
    "all four, every step": (ALL, "1"),
}
SAMPLED = {"all four, sampled": (ALL, "auto"), "one step in 200": (ALL, "200")}


def run(args, workload, steps, mode, folder):
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HALFTONE_PROBE")}
    environment["OMP_WAIT_POLICY"] = "PASSIVE"
    if mode is not None:
        environment |= {"HALFTONE_PROBE": mode[0], "HALFTONE_PROBE_EVERY": mode[1], "HALFTONE_PROBE_OUT": folder,
                        "LD_PRELOAD": str(args.library)}
    command = [args.python, str(ROOT / "bench/probe/workloads.py"), workload, "--steps", str(steps)]
    if args.threads:
        command += ["--threads", str(args.threads)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}: {done.stderr}")
    seconds, processor, loss = done.stdout.split()
    return float(seconds), float(processor), loss


def measure(args, workload, steps, modes, folder):
    ratios = {name: [] for name in modes}
    bases = []
    for _ in range(args.rounds):
        turns = [run(args, workload, steps, mode, folder) for mode in (None, *modes.values(), None)]
        if len({loss for _, _, loss in turns}) != 1:
            sys.exit(f"{workload}: the losses differ: {[loss for _, _, loss in turns]}")
        base = [(turns[0][i] + turns[-1][i]) / 2 for i in (0, 1)]
        bases.append(base[0] / steps)
        for name, turn in zip(modes, turns[1:-1]):
            ratios[name].append((turn[0] / base[0], turn[1] / base[1]))
    for name, values in ratios.items():
        wall, processor = (statistics.median(value[i] for value in values) for i in (0, 1))
        print(f"| {workload} | {name} | {statistics.median(bases):.3f} s | {wall:.3f} | {processor:.3f} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=os.environ.get("HALFTONE_PYTHON", sys.executable))
    parser.add_argument("--library", type=pathlib.Path, default=ROOT / "build/libhalftone_probe.so")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--sampled-steps", type=int, default=150)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--workloads", default="gpt,classifier")
    args = parser.parse_args()
    args.library = args.library.resolve()
    print("| program | mode | a step without | time | processor time |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for workload in args.workloads.split(","):
            measure(args, workload, args.steps, EVERYTHING, folder)
            measure(args, workload, args.sampled_steps, SAMPLED, folder)


if __name__ == "__main__":
    main()
