#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What each way of keeping weights, gradients and moments does to what is learned.

    python3 bench/compare/quality.py --data TEXT [--out DIR] [--seeds 1,2,3] [--recipes standard,lean,...]
                                     [-- flags of halftone train: --preset tiny --max-steps 600 ...]

TEXT is a fortune file or a folder of them. Every tenth document is held out; each recipe trains on the others with the
same seeds, so that runs of one seed see the same batches from the same weights, and `halftone eval` gives the loss on
what was held out. A recipe is a value of --memory and, behind +, keys of it: lean+master_weights=split16. The first is
what the others are compared with. Prints a Markdown table; runs that are in DIR are not trained again.
"""
import argparse
import json
import pathlib
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]


def flags_of(recipe):
    memory, *parts = recipe.split("+")
    flags = ["--memory", memory]
    for part in parts:
        key, value = part.split("=")
        flags += ["--" + key, value]
    return flags


def documents_of(path):
    files = [path]
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file() and not p.suffix and p.name != "copyright")
    return [piece for file in files for piece in file.read_text(encoding="utf-8").split("\n%\n") if piece.strip()]


def hold_out(path, folder):
    """Two fortune files: nine tenths to train on, one tenth to be judged by."""
    pieces = documents_of(path)
    if len(pieces) < 100:
        sys.exit(f"'{path}' has {len(pieces)} pieces between lines of '%'; expected 100 or more to hold some out")
    for name, chosen in (("train", [p for i, p in enumerate(pieces) if i % 10]), ("held-out", pieces[::10])):
        (folder / name).write_text("\n%\n".join(chosen) + "\n%\n", encoding="utf-8")


def run(command):
    outcome = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if outcome.returncode != 0:
        sys.exit(outcome.stderr)
    return outcome.stdout


class Bench:
    def __init__(self, arguments, train_flags):
        self.program = arguments.build / "halftone"
        self.out = arguments.out
        self.flags = train_flags
        self.out.mkdir(parents=True, exist_ok=True)
        hold_out(arguments.data, self.out)
        if not (self.out / "tokenizer.json").exists():
            run([self.program, "tokenizer", "train", "--data", self.out / "train", "--out", self.out])

    def loss(self, recipe, seed):
        folder = self.out / f"{recipe}-{seed}"
        result = folder.with_suffix(".json")
        if not result.exists():
            run([self.program, "train", "--data", self.out / "train", "--tokenizer", self.out, "--seed", seed,
                 "--out", folder, "--overwrite", "--keep-checkpoints", 1, "--save-every", 1_000_000,
                 *flags_of(recipe), *self.flags])
            result.write_text(run([self.program, "eval", folder, "--data", self.out / "held-out", "--json"]))
            for checkpoint in (folder / "checkpoints").glob("*/*.safetensors"):
                checkpoint.unlink()
        return json.loads(result.read_text())["loss"]


def main():
    own, train_flags = sys.argv[1:], []
    if "--" in own:
        own, train_flags = own[:own.index("--")], own[own.index("--") + 1:]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "runs" / "quality")
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build")
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--recipes", default="standard,lean,lean+master_weights=split16,"
                                             "lean+master_weights=split8,leanest,standard+moments=bf16,"
                                             "standard+moments=int8")
    arguments = parser.parse_args(own)
    seeds = arguments.seeds.split(",")
    bench = Bench(arguments, train_flags)
    reference, *others = arguments.recipes.split(",")
    base = [bench.loss(reference, seed) for seed in seeds]
    print(f"| recipe | loss on held-out text, mean of {len(seeds)} | difference, seed by seed | mean difference |")
    print("|---|---|---|---|")
    print(f"| `{reference}` | {statistics.mean(base):.4f} | - | - |", flush=True)
    for recipe in others:
        losses = [bench.loss(recipe, seed) for seed in seeds]
        differences = [loss - own for loss, own in zip(losses, base)]
        print(f"| `{recipe}` | {statistics.mean(losses):.4f} | {', '.join(f'{d:+.4f}' for d in differences)} "
              f"| {statistics.mean(differences):+.4f} |", flush=True)


if __name__ == "__main__":
    main()
