#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Training steps of several processes with one core each, ours and PyTorch's, beside one process with all cores.

    python3 bench/compare/processes.py --data TEXT [--preset minimind-26m] [--batch 4] [--seq-len 256] [--rounds 5]
                                       [--steps 8] [--recipes 32-true,bf16-mixed] [--python PYTHON_WITH_TORCH]

Build first:  cmake --preset release && cmake --build build
Each turn is a run of its own: `halftone launch --processes N train`, or processes of pytorch_processes.py with DDP,
FSDP2 or DeepSpeed's ZeRO-2 over Gloo; the model, the global batch and the vocabulary are the same. The first two steps of a turn do not count.
Contestants take turns, and ratios are of the medians of one round, so that what else happens on the machine meets
both sides. "Apart": N processes at the same time with the shares of the batch that have nothing to do with each other;
what a step takes longer together than apart is the part of the exchange that is not hidden. Prints a Markdown table.
"""
import argparse
import json
import os
import pathlib
import socket
import statistics
import subprocess
import sys
import tempfile
import tomllib

from run import ROOT, cpu_model

WARM_UP = 2
CONTESTANTS = ("together,ddp,threads,apart,thread,shard-gradients,shard-parameters,fsdp2,pytorch-threads,pytorch-thread,"
               "all_reduce")
MORE = ",zero2"  # where PyTorch's interpreter has DeepSpeed
PYTORCH = {"32-true": "fp32", "bf16-mixed": "bf16-autocast"}


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_for(name, started):
    outputs = [process.communicate() for process in started]
    for process, (_, said) in zip(started, outputs):
        if process.returncode != 0:
            sys.exit(f"{name} ended with exit code {process.returncode}:\n{said}")
    return outputs[0][0]


def begin(command, environment):
    return subprocess.Popen([str(part) for part in command], env=environment, text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE)


class Contestant:
    def __init__(self, arguments, name, recipe):
        self.arguments, self.name, self.recipe, self.rounds = arguments, name, recipe, []

    def run(self, folder):
        seconds = self.seconds(pathlib.Path(folder))
        self.rounds.append(seconds[WARM_UP:])
        print(f"{self.recipe}, round {len(self.rounds)}: {self.name} {self.median() * 1e3:.1f} ms", file=sys.stderr)

    def environment(self, threads):
        return {**os.environ, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}

    def median(self):
        return statistics.median(value for values in self.rounds for value in values)

    def ratios(self, other):
        return [statistics.median(own) / statistics.median(its) for own, its in zip(self.rounds, other.rounds)]


class Ours(Contestant):
    """`launched` processes together, or `apart` ones that know nothing of each other."""

    def __init__(self, arguments, name, recipe, threads, launched=0, apart=1, more=()):
        super().__init__(arguments, name, recipe)
        self.threads, self.launched, self.apart, self.more = threads, launched, apart, more

    def command(self, out):
        a = self.arguments
        launch = ["launch", "--processes", self.launched] if self.launched else []
        batch = a.batch // max(self.launched, self.apart)
        return [a.build / "halftone", *launch, "train", "--preset", a.preset, "--data", a.data, "--precision", self.recipe,
                "--batch-size", batch, "--seq-len", a.seq_len, "--accumulate", 1, "--threads", self.threads,
                "--max-steps", a.steps + WARM_UP, "--save-every", 1000000, "--tensorboard", "false",
                "--schedule", "constant", "--out", out, "--overwrite", *self.more]

    def seconds(self, folder):
        outs = [folder / f"run{i}" for i in range(self.apart)]
        wait_for(self.name, [begin(self.command(out), self.environment(self.threads)) for out in outs])
        lines = (outs[0] / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line)["step_ms"] / 1e3 for line in lines]


class PyTorch(Contestant):
    def __init__(self, arguments, name, recipe, way, threads, processes=1):
        super().__init__(arguments, name, recipe)
        self.way, self.threads, self.processes = way, threads, processes

    def seconds(self, folder):
        a = self.arguments
        vocabulary = tomllib.loads((folder / "run0/config.toml").read_text())["model"]["vocab_size"]
        command = [a.python, ROOT / "bench/compare/pytorch_processes.py", self.way, a.preset, PYTORCH[self.recipe],
                   a.batch // self.processes, a.seq_len, vocabulary, self.threads, a.steps + WARM_UP]
        place = {**self.environment(self.threads), "WORLD_SIZE": str(self.processes), "MASTER_ADDR": "127.0.0.1",
                 "MASTER_PORT": str(free_port())}
        started = [begin(command, {**place, "RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(self.processes)]
        return json.loads(wait_for(self.name, started).splitlines()[-1])


def contestants_of(arguments, recipe):
    n = arguments.processes
    everyone = {
        "together": Ours(arguments, f"halftone, {n} processes", recipe, 1, launched=n),
        "ddp": PyTorch(arguments, f"DDP, {n} processes", recipe, "ddp", 1, n),
        "threads": Ours(arguments, f"halftone, 1 process, {n} threads", recipe, n),
        "apart": Ours(arguments, f"halftone, {n} processes apart", recipe, 1, apart=n),
        "thread": Ours(arguments, "halftone, 1 process, 1 thread", recipe, 1),
        **{f"shard-{what}": Ours(arguments, f"halftone, {n} processes, shard {what}", recipe, 1, launched=n,
                                 more=["--shard", what]) for what in ("gradients", "parameters")},
        "zero2": PyTorch(arguments, f"DeepSpeed ZeRO-2, {n} processes", recipe, "zero2", 1, n),
        "fsdp2": PyTorch(arguments, f"FSDP2, {n} processes", recipe, "fsdp2", 1, n),
        "pytorch-threads": PyTorch(arguments, f"PyTorch, 1 process, {n} threads", recipe, "alone", n),
        "pytorch-thread": PyTorch(arguments, "PyTorch, 1 process, 1 thread", recipe, "alone", 1),
        "all_reduce": PyTorch(arguments, f"Gloo's all_reduce of the gradients, {n} processes", recipe, "all_reduce", 1, n)}
    chosen = [everyone[key] for key in everyone if key in arguments.contestants.split(",")]
    return [one for one in chosen if arguments.python or isinstance(one, Ours)]


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--preset", default="minimind-26m", choices=["tiny", "minimind-26m", "minimind-104m"])
    parser.add_argument("--batch", type=int, default=4, help="of all processes together")
    parser.add_argument("--seq-len", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8, help="counted steps of a turn")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--contestants", default=CONTESTANTS, help="some of " + CONTESTANTS + MORE)
    parser.add_argument("--recipes", default="32-true,bf16-mixed")
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build")
    parser.add_argument("--python", help="interpreter that can import torch; without it PyTorch is left out")
    arguments = parser.parse_args()
    if arguments.batch % arguments.processes != 0:
        parser.error(f"--batch: expected a multiple of {arguments.processes}, got {arguments.batch}")
    if not set(CONTESTANTS.split(",")[:1]) <= set(arguments.contestants.split(",")) <= set((CONTESTANTS + MORE).split(",")):
        parser.error(f"--contestants: expected together and some of {CONTESTANTS + MORE}, got {arguments.contestants}")
    return arguments


def print_table(arguments, recipe, contestants):
    a = arguments
    print(f"{a.preset}, {recipe}, {a.batch} x {a.seq_len} tokens, {cpu_model()}, {a.rounds} rounds of {a.steps} steps\n")
    print(f"| | step, ms (median) | min .. max | tokens/s | time / halftone, {a.processes} processes (min .. max of the rounds) |")
    print("|---|---|---|---|---|")
    for c in contestants:
        values = [value * 1e3 for turn in c.rounds for value in turn]
        ratios = c.ratios(contestants[0])
        steps = "-" if "all_reduce" in c.name else f"{a.batch * a.seq_len / c.median():.0f}"
        print(f"| {c.name} | {statistics.median(values):.1f} | {min(values):.1f} .. {max(values):.1f} | {steps} | "
              f"{statistics.median(ratios):.2f} ({min(ratios):.2f} .. {max(ratios):.2f}) |")
    print(flush=True)


def main():
    arguments = parse_arguments()
    for recipe in arguments.recipes.split(","):
        contestants = contestants_of(arguments, recipe)
        for _ in range(arguments.rounds):
            with tempfile.TemporaryDirectory() as folder:
                for contestant in contestants:
                    contestant.run(folder)
        print_table(arguments, recipe, contestants)


if __name__ == "__main__":
    main()
