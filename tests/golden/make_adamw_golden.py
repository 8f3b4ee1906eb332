# SPDX-License-Identifier: Apache-2.0
"""Writes adamw.json: parameters and moments after each of some steps of torch.optim.AdamW (fp32, CPU).

pip install torch==2.15.0 numpy && python tests/golden/make_adamw_golden.py
Parameters and gradients follow from formulas that tests/optim/adamw_test.cpp repeats.
"""
import json
import pathlib

import torch

SHAPES = [[3, 5], [1], [0], [17], [8, 2, 3], [131]]
STEPS = 12
CASES = [
    {"lr": 1e-3, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.01},
    {"lr": 5e-2, "beta1": 0.8, "beta2": 0.95, "eps": 1e-6, "weight_decay": 0.1},
    {"lr": 3e-4, "beta1": 0.0, "beta2": 0.99, "eps": 1e-8, "weight_decay": 0.0},
]


def values(tensor, step, numel):
    """Multiples of 2^-10 in [-1, 1): the same numbers in any language."""
    return [((i * 7919 + step * 104729 + tensor * 1299709) % 2048 - 1024) / 1024 for i in range(numel)]


def tensor_of(index, step, shape):
    numel = torch.Size(shape).numel()
    return torch.tensor(values(index, step, numel), dtype=torch.float32).reshape(shape)


def run(options):
    parameters = [torch.nn.Parameter(tensor_of(t, 0, shape)) for t, shape in enumerate(SHAPES)]
    optimizer = torch.optim.AdamW(
        parameters, lr=options["lr"], betas=(options["beta1"], options["beta2"]), eps=options["eps"],
        weight_decay=options["weight_decay"], foreach=False, fused=False)
    for step in range(1, STEPS + 1):
        for t, parameter in enumerate(parameters):
            parameter.grad = tensor_of(t, step, SHAPES[t])
        optimizer.step()
    state = [optimizer.state[p] for p in parameters]
    return {"options": options,
            "weights": [p.detach().flatten().tolist() for p in parameters],
            "exp_avg": [s["exp_avg"].flatten().tolist() for s in state],
            "exp_avg_sq": [s["exp_avg_sq"].flatten().tolist() for s in state]}


golden = {"torch": torch.__version__, "shapes": SHAPES, "steps": STEPS, "cases": [run(c) for c in CASES]}
path = pathlib.Path(__file__).with_name("adamw.json")
path.write_text(json.dumps(golden) + "\n")
