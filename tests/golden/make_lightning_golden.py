# SPDX-License-Identifier: Apache-2.0
"""What the Trainer of Lightning does: counts, hooks, learning rates and weights, for tests/optim and tests/train.

    pip install lightning==2.6.6 torch==2.15.0 numpy
    python make_lightning_golden.py

writes lightning.json beside this file: lists of cases, one case a line. A case holds its inputs next
to its results. All maths is in fp64 on the CPU with one thread. The strings "nan", "inf" and "-inf"
stand for the numbers that JSON lacks. Options are named as Lightning and PyTorch name them; an
option that a case leaves out has Lightning's default, but for num_sanity_val_steps, whose default
is 0 here.

    schedules            lr[group][step]: what the update of that optimizer step uses
    plateau              lr[epoch] of ReduceLROnPlateau, after monitored values
    validation_runs      when validation runs, and how many batches and steps there are
    hooks                names of hooks in the order of their calls
    early_stopping       epochs that were run, after monitored values
    top_k                files that ModelCheckpoint leaves
    ema, swa             weights, averaged weights
    manual               two optimizers in manual optimisation
    clipping             weights after clipped gradients
    logging              means over epochs; steps that reach a logger
    log_steps            steps that reach a logger, by log_every_n_steps
    accumulation         weights after steps on accumulated gradients
    seed_everything      what it returns and sets
    precision_aliases    precision strings and how Lightning reads them on a CPU
    accelerators         accelerators and devices, on a machine without a GPU
"""
import json
import logging
import math
import pathlib
import warnings

import lightning.pytorch as pl
import torch
from lightning_golden.loops import early_stopping, hooks, plateau, schedules, top_k, validation_runs
from lightning_golden.steps import (
    accelerators, accumulation, clipping, ema, log_steps, logging_cases, manual, precision_aliases, seed_everything, swa)


def plain(value):
    """The value with strings for what JSON lacks."""
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    return value


def main():
    torch.set_num_threads(1)
    torch.manual_seed(1)
    warnings.filterwarnings("ignore")
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("lightning"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    made = {"versions": [{"lightning": pl.__version__, "torch": torch.__version__}]}
    for make in (schedules, plateau, validation_runs, hooks, early_stopping, top_k, ema, swa, manual,
                 clipping,
                 logging_cases, log_steps, accumulation, seed_everything, precision_aliases, accelerators):
        made[make.__name__.removesuffix("_cases")] = make()
    dump = lambda value: json.dumps(plain(value), allow_nan=False, separators=(",", ":"))
    lists = [f'"{key}":[\n' + ",\n".join(map(dump, cases)) + "\n]" for key, cases in made.items()]
    path = pathlib.Path(__file__).parent / "lightning.json"
    path.write_text("{\n" + ",\n".join(lists) + "\n}\n")
    for key, cases in made.items():
        print(f"{key:18s} {len(cases):3d} cases, {sum(len(dump(case)) for case in cases):6d} bytes")


if __name__ == "__main__":
    main()
