# SPDX-License-Identifier: Apache-2.0
"""Writes layer_statistics.json: the statistics of each parameter in some steps of PyTorch (CPU), in plain operations.

pip install torch==2.15.0 numpy && python tests/golden/make_layer_statistics_golden.py
The loss of micro-batch i is sum(parameter * gradients[i]) over all parameters, so that its gradients are those numbers:
tests/train/layer_statistics_test.cpp trains the same.
"""
import json
import math
import pathlib

import torch

SHAPES = {"embedding": [6, 8], "matrix": [5, 16], "bias": [7]}
STEPS = 3
CASES = [
    {"name": "32-true", "dtype": "float32", "compute": "float32", "optimizer": "adamw", "lr": 1e-2, "scale": 1.0,
     "accumulate": 2, "clip": 0.5, "size": 1.0},
    {"name": "16-mixed", "dtype": "float32", "compute": "float16", "optimizer": "adamw", "lr": 1e-3, "scale": 8.0,
     "accumulate": 2, "clip": 0.0, "size": 2e-9},
    {"name": "bf16-true", "dtype": "bfloat16", "compute": "bfloat16", "optimizer": "sgd", "lr": 2e-3, "scale": 1.0,
     "accumulate": 1, "clip": 0.0, "size": 1.0},
    {"name": "16-true", "dtype": "float16", "compute": "float16", "optimizer": "sgd", "lr": 200.0, "scale": 4.0,
     "accumulate": 1, "clip": 0.0, "size": 1e-7},
]


def weights_and_gradients(case):
    """Gradients spread over five powers of ten; the embedding has rows of zeros, as for tokens that do not occur."""
    generator = torch.Generator().manual_seed(len(case["name"]))
    weights = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    batches = []
    for _ in range(STEPS * case["accumulate"]):
        batch = {}
        for name, shape in SHAPES.items():
            spread = 10 ** (5 * torch.rand(shape, generator=generator) - 3)
            batch[name] = torch.randn(shape, generator=generator) * spread * case["size"]
        batch["embedding"][1::3] = 0
        batches.append(batch)
    return weights, batches


def gradient_statistics(gradient, scale, compute):
    """Of a gradient as it is stored, with the scale."""
    wide = gradient.double()
    live = wide != 0
    if gradient.dtype == torch.float16:
        rows = live.any(dim=-1, keepdim=True) if gradient.dim() > 1 else live.any()
        zeros = (~live & rows).sum().item()
        underflow = zeros / (zeros + live.sum().item())
    else:
        underflow = ((gradient.to(compute) == 0) & live).sum().item() / live.sum().item()
    norm = wide.norm().item() / scale
    return {"grad_norm": norm, "grad_rms": norm / math.sqrt(gradient.numel()),
            "grad_max": wide.abs().max().item() / scale, "zero_share": (~live).double().mean().item(),
            "underflow_share": underflow}


def update_statistics(before, after, live):
    change = after.double() - before.double()
    return {"update_ratio": (change.norm() / before.double().norm()).item(),
            "lost_updates": ((change == 0) & live).sum().item() / live.sum().item()}


def run(case):
    dtype, compute = getattr(torch, case["dtype"]), getattr(torch, case["compute"])
    weights, batches = weights_and_gradients(case)
    parameters = {name: torch.nn.Parameter(value.to(dtype, copy=True)) for name, value in weights.items()}
    if case["optimizer"] == "adamw":
        optimizer = torch.optim.AdamW(parameters.values(), lr=case["lr"], weight_decay=0.0)
    else:
        optimizer = torch.optim.SGD(parameters.values(), lr=case["lr"])
    steps = []
    for step in range(STEPS):
        optimizer.zero_grad()
        for i in range(case["accumulate"]):
            batch = batches[step * case["accumulate"] + i]
            loss = sum((p * batch[name].to(dtype)).sum() for name, p in parameters.items()) / case["accumulate"]
            (loss * case["scale"]).backward()
        statistics = {}
        for name, parameter in parameters.items():
            for key, value in gradient_statistics(parameter.grad, case["scale"], compute).items():
                statistics[f"{key}/{name}"] = value
        before = {name: p.detach().clone() for name, p in parameters.items()}
        live = {name: p.grad != 0 for name, p in parameters.items()}
        for parameter in parameters.values():
            parameter.grad.div_(case["scale"])
        if case["clip"] > 0:
            torch.nn.utils.clip_grad_norm_(parameters.values(), case["clip"])
        optimizer.step()
        for name, parameter in parameters.items():
            for key, value in update_statistics(before[name], parameter.detach(), live[name]).items():
                statistics[f"{key}/{name}"] = value
        steps.append(statistics)
    return {**case, "weights": {name: value.flatten().tolist() for name, value in weights.items()},
            "batches": [{name: value.flatten().tolist() for name, value in batch.items()} for batch in batches],
            "steps": steps}


golden = {"torch": torch.__version__, "shapes": SHAPES, "cases": [run(case) for case in CASES]}
path = pathlib.Path(__file__).with_name("layer_statistics.json")
path.write_text(json.dumps(golden) + "\n")
