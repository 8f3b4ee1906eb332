#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Seconds from the start of a process to the begin of its first training step, ours and PyTorch's.

    python3 bench/compare/startup.py --data TEXT --tokenizer TOKENIZER [--preset minimind-26m] [--rounds 9]
                                     [--python PYTHON_WITH_TORCH]

Build first:  cmake --preset release && cmake --build build
Ours is `halftone train` with the text's tokens in the cache, up to the line that it prints before the first step. PyTorch's
is pytorch_startup.py: import torch, build the same model and its AdamW, make a batch. A first round of each, which
does not count, warms the files up; then they take turns. Prints a Markdown table.
"""
import argparse
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]


def seconds_until(command, beginning):
    """From the start of `command` until it writes a line that begins so; then it is ended."""
    start = time.perf_counter()
    process = subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                               text=True)
    said = []
    for line in process.stderr:
        said.append(line)
        if line.startswith(beginning):
            seconds = time.perf_counter() - start
            process.kill()
            process.wait()
            return seconds
    sys.exit(f"{command[0]} ended before its first step:\n{''.join(said)}")


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--preset", default="minimind-26m")
    parser.add_argument("--precision", default="bf16-mixed")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build")
    parser.add_argument("--python", help="interpreter that can import torch; without it PyTorch is left out")
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory() as folder:
        ours = [arguments.build / "halftone", "train", "--preset", arguments.preset, "--data", arguments.data,
                "--tokenizer", arguments.tokenizer, "--precision", arguments.precision, "--batch-size", 4,
                "--seq-len", 256, "--threads", arguments.threads, "--out", pathlib.Path(folder) / "run", "--overwrite"]
        contestants = {"halftone train": (ours, "run ")}
        if arguments.python:
            script = ROOT / "bench/compare/pytorch_startup.py"
            contestants["PyTorch"] = ([arguments.python, script, arguments.preset, 4, 256, arguments.threads], "ready")
        samples = {name: [] for name in contestants}
        for number in range(arguments.rounds + 1):
            for name, (command, beginning) in contestants.items():
                seconds = seconds_until(command, beginning)
                if number > 0:
                    samples[name].append(seconds)
    print(f"{arguments.preset}, {arguments.threads} threads, {arguments.rounds} rounds\n")
    print("| program | start to first step, s (median) | min .. max |")
    print("|---|---|---|")
    for name, values in samples.items():
        print(f"| {name} | {statistics.median(values):.2f} | {min(values):.2f} .. {max(values):.2f} |")


if __name__ == "__main__":
    main()
