# SPDX-License-Identifier: Apache-2.0
"""Writes grad_scaler.json: traces of torch.amp.GradScaler on the CPU.

pip install torch==2.15.0 numpy && python tests/golden/make_grad_scaler_golden.py
Each trace trains w (3) with SGD on sum(w * x), with random overflows, setter calls and unscale_().
"""
import json
import pathlib
import random

import torch

random.seed(3)
TRACES = 30
STEPS = 40


def trace():
    options = {"init_scale": 2.0 ** random.randint(0, 20), "growth_factor": random.choice([1.5, 2.0, 3.0, 16.0]),
               "backoff_factor": random.choice([0.25, 0.5, 0.9]), "growth_interval": random.randint(1, 6)}
    scaler = torch.amp.GradScaler("cpu", **options)
    weights = torch.nn.Parameter(torch.tensor([1.0, -2.0, 0.5]))
    optimizer = torch.optim.SGD([weights], lr=0.125)
    share = random.choice([0.0, 0.1, 0.3])
    steps = []
    for i in range(STEPS):
        x = [random.randint(-8, 8) / 8 for _ in range(3)]
        bad = random.random() < share
        if bad:
            x[random.randint(0, 2)] = random.choice([float("inf"), float("-inf"), float("nan")])
        unscale = random.random() < 0.5
        optimizer.zero_grad()
        scaler.scale((weights * torch.tensor(x)).sum()).backward()
        if unscale:
            scaler.unscale_(optimizer)
        before = weights.detach().clone()
        scaler.step(optimizer)
        scaler.update()
        steps.append({"x": [str(v) for v in x], "unscale": unscale, "stepped": not bad,
                      "scale": scaler.get_scale(), "tracker": scaler._get_growth_tracker(),
                      "weights": weights.detach().tolist()})
        assert bad == bool((before == weights).all()) or not bad
    return {"options": options, "steps": steps}


traces = [trace() for _ in range(TRACES)]
path = pathlib.Path(__file__).with_name("grad_scaler.json")
path.write_text(json.dumps({"torch": torch.__version__, "traces": traces}) + "\n")
