#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Whole training steps of every recipe, ours and PyTorch's, side by side on this machine.

    python3 bench/compare/run.py [--preset minimind-26m] [--batch 4] [--seq-len 256] [--rounds 7] [--steps 3]
                                 [--python PYTHON_WITH_TORCH] [--cap-avx2] [--cpu-time]
                                 [--pytorch-recipes fp32,bf16-autocast,bf16-autocast+halftone]

Build first:  cmake --preset release -DHALFTONE_BUILD_BENCH=ON && cmake --build build
All programs are started at once and take turns, a few steps each, so that what else happens on the
machine meets all of them alike; the first round, and the first step of each turn, warm up. Prints a Markdown table: the median step,
tokens/s, the ratio to our 32-true, the peak resident memory of the process, and the share of the fp32 multiply-add peak that was measured in
the same rounds (6 flops per parameter and token, attention left out). --cap-avx2 limits LibTorch's,
oneDNN's and MKL's kernels to AVX2: it shows which path is chosen there, not how such a CPU performs.
--cpu-time takes each program's own processor time: with --threads 1 it can be compared on a machine that is not quiet.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
PARAMETERS = {"dim-64": None, "tiny": None, "minimind-26m": 25_829_888, "minimind-104m": 104_030_976}
AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "FBGEMM_ENABLE_INSTRUCTIONS": "AVX2"}


class Contestant:
    def __init__(self, name, command, environment):
        self.name = name
        self.process = subprocess.Popen([str(part) for part in command], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True, env=environment)
        self.samples = []

    def wait_until_ready(self):
        if self.process.stdout.readline().strip() != "ready":
            sys.exit(f"{self.name}: the program ended before it was ready")

    def run(self, steps, keep):
        # The first step of a turn finds the caches full of somebody else's data: training does not.
        self.process.stdin.write(f"{steps + 1}\n")
        self.process.stdin.flush()
        values = json.loads(self.process.stdout.readline())
        if keep:
            self.samples += values[1:]

    def median(self):
        return statistics.median(self.samples)

    def peak_resident_bytes(self):
        """The process's own record; with several contestants nothing else can tell them apart."""
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def cpu_model():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return "unknown CPU"


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="minimind-26m", choices=sorted(PARAMETERS))
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--seq-len", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=3, help="counted steps of a turn, after one that is not")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build")
    parser.add_argument("--python", help="interpreter that can import torch; without it PyTorch is left out")
    parser.add_argument("--recipes", default="32-true,bf16-mixed,16-mixed,bf16-true,16-true")
    parser.add_argument("--pytorch-recipes", default="fp32,bf16-autocast,fp16-autocast",
                        help="fp32, bf16-autocast, fp16-autocast, bf16, fp16; with -compile behind it: torch.compile; "
                             "with +halftone: with libhalftone_cpu_gemm.so loaded")
    parser.add_argument("--cap-avx2", action="store_true")
    parser.add_argument("--cpu-time", action="store_true", help="processor time instead of the wall's")
    return parser.parse_args()


def pytorch_command(arguments, recipe, shape):
    name, _, library = recipe.partition("+")
    flags = ["--compile"] if name.endswith("-compile") else []
    if library:
        flags += ["--library", arguments.build / "libhalftone_cpu_gemm.so"]
    script = ROOT / "bench/compare/pytorch_train_step.py"
    return [arguments.python, script, arguments.preset, name.removesuffix("-compile"), *shape, *flags]


def start(arguments):
    environment = {**os.environ, **(AVX2 if arguments.cap_avx2 else {}),
                   "HALFTONE_BENCH_CLOCK": "cpu" if arguments.cpu_time else "wall"}
    shape = [arguments.batch, arguments.seq_len, arguments.threads]
    contestants = []
    for recipe in filter(None, arguments.recipes.split(",")):
        command = [arguments.build / "bench/train_step_bench", arguments.preset, recipe, *shape]
        contestants.append(Contestant(f"halftone {recipe}", command, environment))
        contestants[-1].wait_until_ready()
    for recipe in filter(None, arguments.pytorch_recipes.split(",") if arguments.python else []):
        contestants.append(Contestant(f"PyTorch {recipe}", pytorch_command(arguments, recipe, shape), environment))
        contestants[-1].wait_until_ready()
    peak = Contestant("peak", [arguments.build / "bench/peak_bench", arguments.threads], environment)
    peak.wait_until_ready()
    return contestants, peak


def main():
    arguments = parse_arguments()
    contestants, peak = start(arguments)
    for round_number in range(arguments.rounds + 1):
        for contestant in [*contestants, peak]:
            contestant.run(arguments.steps, keep=round_number > 0)
        print(f"round {round_number}/{arguments.rounds}", file=sys.stderr)
    tokens = arguments.batch * arguments.seq_len
    capped = ", kernels capped to AVX2" if arguments.cap_avx2 else ""
    clock = "of processor time " if arguments.cpu_time else ""
    print(f"{arguments.preset}, {arguments.batch} x {arguments.seq_len} tokens, {cpu_model()}, "
          f"{arguments.threads} threads{capped}, {arguments.rounds} rounds of {arguments.steps} steps; fp32 peak {peak.median():.0f} GFLOP/s\n")
    print(f"| recipe | step, ms {clock}(median) | min .. max | tokens/s | time / our 32-true | share of fp32 peak | peak MiB |")
    print("|---|---|---|---|---|---|---|")
    base = next((c.median() for c in contestants if c.name == "halftone 32-true"), None)
    parameters = PARAMETERS[arguments.preset]
    for contestant in contestants:
        step = contestant.median()
        ratio = f"{step / base:.2f}" if base else "-"
        share = f"{6 * parameters * tokens / step / 1e9 / peak.median():.0%}" if parameters and not arguments.cpu_time else "-"
        digits = 0 if step > 0.1 else 1
        print(f"| {contestant.name} | {step * 1e3:.{digits}f} | {min(contestant.samples) * 1e3:.{digits}f} .. "
              f"{max(contestant.samples) * 1e3:.{digits}f} | {tokens / step:.0f} | {ratio} | {share} | "
              f"{contestant.peak_resident_bytes() / 2**20:.0f} |")
        contestant.close()
    peak.close()


if __name__ == "__main__":
    main()
