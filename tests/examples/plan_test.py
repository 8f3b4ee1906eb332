#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What `PROGRAM plan` says a training takes in memory is within a tenth of what it takes.

    plan_test.py build/examples/emoji_trio FOLDER --batch-size 128 --recipes 32-true,standard bf16-mixed,lean

--with: words of both commands. Each recipe is a precision and a memory policy; its training has a few steps.
"""
import argparse
import pathlib
import re
import subprocess
import sys

UNITS = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--batch-size", required=True)
    parser.add_argument("--recipes", nargs="+", required=True)
    parser.add_argument("--steps", default="2")
    parser.add_argument("--with", dest="words", nargs=argparse.REMAINDER, default=[])
    return parser.parse_args()


def output(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def size(text: str) -> float:
    number, unit = text.split()
    return float(number) * UNITS[unit]


def is_right(recipe: str, options: argparse.Namespace) -> bool:
    precision, memory = recipe.split(",")
    words = ["--batch-size", options.batch_size, "--threads", "1", *options.words]
    table = output(options.program, "plan", *words, "--precisions", precision, "--memory", memory)
    row = re.search(rf"^{precision} +{memory} +{options.batch_size} +([0-9.]+ [KMG]iB) ", table, re.M)
    if not row:
        sys.exit(f"expected a line of {recipe}, got\n{table}")
    said = output(options.program, "train", *words, "--precision", precision, "--memory", memory, "--steps",
                  options.steps, "--overwrite", "--out", str(options.folder / f"{precision}-{memory}"))
    measured = size(re.search(r"at most ([0-9.]+ [KMG]iB) in memory", said)[1])
    planned = size(row[1])
    print(f"{recipe}: planned {planned / 2**20:.0f} MiB, measured {measured / 2**20:.0f}, "
          f"{100 * (planned / measured - 1):+.1f} %", flush=True)
    return abs(planned - measured) <= 0.1 * measured


def main() -> None:
    options = arguments()
    if not all([is_right(recipe, options) for recipe in options.recipes]):
        sys.exit("expected plans within 10 % of what was measured")


if __name__ == "__main__":
    main()
