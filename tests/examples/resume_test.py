#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Trains an example in each precision, in one go and in three parts: both must come to the same bits.

The first part is stopped between two checkpoints of its schedule, by the program's own --stop-at or, with
--interrupt-at, by Ctrl-C (SIGINT) once so many steps are done. The second is killed (SIGKILL) at a random time, even
while it writes. Then, with --learn, a longer run in 32-true must learn: its last NAME lies within MIN..MAX.

Usage: resume_test.py PROGRAM FOLDER --steps N (--stop-at | --interrupt-at) STEP --limit SAMPLES
                      [--learn STEPS SAMPLES NAME MIN MAX] [--seed N] [--precisions P ...] [--with WORD ...]

--with: words of the program that come first. What a program prints of its time and memory is not compared.
"""
from __future__ import annotations

import argparse
import json
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import time

PRECISIONS = ["32-true", "16-true", "bf16-true", "16-mixed", "bf16-mixed", "int8-mixed", "fp8-mixed"]
CHECKPOINT = ["model.safetensors", "optimizer.safetensors"]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--steps", type=int, required=True)
    stop = parser.add_mutually_exclusive_group(required=True)
    stop.add_argument("--stop-at", type=int)
    stop.add_argument("--interrupt-at", type=int)
    parser.add_argument("--limit", type=int, required=True)
    parser.add_argument("--learn", nargs=5)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 100000)
    parser.add_argument("--precisions", nargs="+", default=PRECISIONS)
    parser.add_argument("--with", nargs=argparse.REMAINDER, default=[], dest="words")
    return parser.parse_args()


def newest(run: pathlib.Path) -> pathlib.Path:
    """The whole checkpoint of the latest step; one that is being written has a longer name."""
    return max(path for path in (run / "checkpoints").iterdir() if re.fullmatch(r"step-\d{8}", path.name))


def last_step(run: pathlib.Path) -> int:
    return int(newest(run).name.removeprefix("step-"))


def train(command: list[str], run: pathlib.Path, *more: str) -> str:
    """What it printed beside the numbers of its validations."""
    done = subprocess.run([*command, "--out", str(run), *more], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(done.args)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return "\n".join(line for line in done.stdout.splitlines() if not re.match("step |.*in memory$", line))


def steps_of(run: pathlib.Path) -> list[dict]:
    """Its whole lines about steps."""
    log = run / "metrics.jsonl"
    lines = log.read_text().split("\n")[:-1] if log.exists() else []
    return [line for line in map(json.loads, lines) if "step_ms" in line]


def interrupt(command: list[str], run: pathlib.Path, options: argparse.Namespace) -> None:
    """Begins the run, and presses Ctrl-C when so many steps are done: anew where it came to its end before."""
    for _ in range(5):
        shutil.rmtree(run, ignore_errors=True)
        with subprocess.Popen([*command, "--out", str(run)], stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL) as process:
            while len(steps_of(run)) < options.interrupt_at and process.poll() is None:
                time.sleep(0.001)
            process.send_signal(signal.SIGINT)
        if last_step(run) == options.steps:
            continue
        if process.returncode != 128 + signal.SIGINT:
            sys.exit(f"after Ctrl-C it ended with {process.returncode}, not {128 + signal.SIGINT}")
        return
    sys.exit("Ctrl-C came too late each time")


def kill_within(seconds: float, command: list[str], run: pathlib.Path, dice: random.Random) -> None:
    """Goes on with the run, and kills it at a random time after it has begun to train."""
    log = run / "metrics.jsonl"
    before = log.stat().st_size
    with subprocess.Popen([*command, "--out", str(run), "--resume"], stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL) as process:
        while log.stat().st_size == before and process.poll() is None:
            time.sleep(0.001)
        time.sleep(dice.uniform(0, seconds))
        process.kill()


def training_seconds(run: pathlib.Path, first: int) -> float:
    """The time that its steps from `first` on took."""
    return sum(line["step_ms"] for line in steps_of(run) if line["step"] > first) / 1000


def compare(one: pathlib.Path, other: pathlib.Path) -> list[str]:
    """The files that differ, of the newest checkpoints and what the program has made; and losses of steps."""
    pairs = [(newest(one) / name, newest(other) / name) for name in CHECKPOINT]
    pairs += [(path, other / path.name) for path in one.glob("*.pgm")]
    losses = [[(line["step"], line["loss"]) for line in steps_of(run)] for run in (one, other)]
    different = ["losses"] if losses[0] != losses[1] else []
    return different + [a.name for a, b in pairs if a.read_bytes() != b.read_bytes()]


def resume(precision: str, options: argparse.Namespace, dice: random.Random) -> bool:
    command = [options.program, *options.words, "--precision", precision, "--steps", str(options.steps), "--limit",
               str(options.limit)]
    straight, parts = options.folder / f"{precision}-straight", options.folder / f"{precision}-parts"
    said = train(command, straight)
    if options.interrupt_at:
        interrupt(command, parts, options)
    else:
        train(command, parts, "--stop-at", str(options.stop_at))
        if last_step(parts) != options.stop_at:
            sys.exit(f"{precision}: expected a checkpoint of step {options.stop_at}, got {newest(parts)}")
    kill_within(training_seconds(straight, last_step(parts)), command, parts, dice)
    killed_behind = last_step(parts)
    says = train(command, parts, "--resume")
    # Where no step was left, there is none to speak of.
    different = ["output"] if says != said and killed_behind < options.steps else []
    different += compare(straight, parts)
    if last_step(parts) != options.steps:
        different.append(f"last step, {last_step(parts)}")
    print(f"{precision:10}  killed behind the checkpoint of step {killed_behind}:",
          f"other {', '.join(different)}" if different else "the same bits", flush=True)
    return not different


def learns(options: argparse.Namespace) -> bool:
    if not options.learn:
        return True
    steps, samples, name, least, most = options.learn
    run = options.folder / "learning"
    train([options.program, *options.words, "--precision", "32-true", "--steps", steps, "--limit", samples], run)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    values = [line[name] for line in lines if name in line]
    print(f"{name} {' '.join(f'{value:.4f}' for value in values)}: expected {least} to {most} at last")
    return float(least) <= values[-1] <= float(most)


def main() -> None:
    options = arguments()
    shutil.rmtree(options.folder, ignore_errors=True)
    options.folder.mkdir(parents=True)
    print("seed", options.seed)
    dice = random.Random(options.seed)
    results = [resume(precision, options, dice) for precision in options.precisions]
    if not (learns(options) and all(results)):
        sys.exit(1)


if __name__ == "__main__":
    main()
