# SPDX-License-Identifier: Apache-2.0
"""Writes grad_scaler_traces.json: random training runs under torch.amp.GradScaler on the CPU.

pip install torch==2.15.0 numpy && python tests/golden/make_grad_scaler_traces.py
Every run draws its knobs at random. The data come from a counter (`value` below), so that a replay
makes the same numbers; what is stored is the knobs, where an inf or nan was put, and what torch did.
The last entry is a state dict as torch saves it, and the state torch had after loading it.
"""
import json
import pathlib
import random

import torch

random.seed(11)
TRACES = 210
STEPS = 10
SIZES = [3, 2]  # of the two parameters of each optimizer, each in a group of its own
BAD = {"inf": float("inf"), "-inf": float("-inf"), "nan": float("nan")}


def value(index):
    """The counter's number `index`: a multiple of 1/2048 in [-1, 1]."""
    x = (index * 2654435761 + 12345) % 2**32
    x = ((x ^ (x >> 15)) * 2246822519) % 2**32
    return ((x >> 16) % 4097 - 2048) / 2048


def make_optimizer(spec, parameters):
    groups = [{"params": [p], "lr": lr} for p, lr in zip(parameters, spec["lr"])]
    if spec["kind"] == "SGD":
        return torch.optim.SGD(groups, lr=0.1, momentum=spec["momentum"])
    kind = torch.optim.Adam if spec["kind"] == "Adam" else torch.optim.AdamW
    return kind(groups, lr=0.1)


def draw_optimizer():
    kind = random.choice(["SGD", "Adam", "AdamW"])
    # One rate for AdamW: the replay runs it through a fused step too, which has a single group.
    rates = [random.choice([0.05, 0.1, 0.125])] * 2
    if kind != "AdamW":
        rates[1] = 0.025
    return {"kind": kind, "lr": rates, "momentum": random.choice([0.0, 0.5]),
            "unscale": random.random() < 0.5, "clip": random.choice([0.0, 0.0, 0.25, 1.0])}


def draw_trace():
    share = random.choice([0.0, 0.1, 0.3, 0.6])
    optimizers = [draw_optimizer() for _ in range(random.choice([1, 2]))]
    parameters = len(optimizers) * sum(SIZES)
    steps = []
    for _ in range(STEPS):
        step = {}
        if random.random() < share:
            step["bad"] = [random.randrange(parameters), random.choice(list(BAD))]
        if random.random() < 0.04:
            step["new_scale"] = 2.0 ** random.randint(-3, 12)
        if random.random() < 0.04:
            step["growth_factor"] = random.choice([1.25, 4.0])
        if random.random() < 0.04:
            step["backoff_factor"] = random.choice([0.125, 0.75])
        steps.append(step)
    return {"init_scale": 2.0 ** random.randint(-4, 20), "growth_factor": random.choice([1.5, 2.0, 3.0, 16.0]),
            "backoff_factor": random.choice([0.25, 0.5, 0.9]), "growth_interval": random.randint(1, 5),
            "accumulate": random.choice([1, 1, 2, 3]), "losses": random.choice([1, 1, 2]),
            "penalty": random.random() < 0.25, "optimizers": optimizers, "steps": steps}


def loss_of(parameters, x, weight):
    """sum(x * p) + weight / 2 * sum(p * p)"""
    return sum((x[k] * p).sum() + 0.5 * weight * (p * p).sum() for k, p in enumerate(parameters))


def backward(scaler, trace, parameters, counter, bad):
    """One micro-batch: every loss, and its gradient penalty where the trace has one."""
    for loss_index in range(trace["losses"]):
        numbers = [value(counter + k) for k in range(sum(p.numel() for p in parameters))]
        counter += len(numbers)
        if bad is not None:
            numbers[bad[0]] = BAD[bad[1]]
        x, at = [], 0
        for p in parameters:
            x.append(torch.tensor(numbers[at:at + p.numel()]))
            at += p.numel()
        loss = loss_of(parameters, x, 0.5 + loss_index) / trace["accumulate"]
        if trace["penalty"]:
            gradients = torch.autograd.grad(scaler.scale(loss), parameters, create_graph=True)
            inverse = 1.0 / scaler.get_scale()
            loss = loss + 0.125 * sum((g * inverse).square().sum() for g in gradients)
        scaler.scale(loss).backward()
    return counter


def run(trace):
    scaler = torch.amp.GradScaler("cpu", **{k: trace[k] for k in
                                            ["init_scale", "growth_factor", "backoff_factor", "growth_interval"]})
    owned = [[torch.nn.Parameter(torch.tensor([value(1000 + 10 * o + 5 * k + i) for i in range(size)]))
              for k, size in enumerate(SIZES)] for o in range(len(trace["optimizers"]))]
    parameters = [p for own in owned for p in own]
    optimizers = [make_optimizer(spec, own) for spec, own in zip(trace["optimizers"], owned)]
    counter = 0
    for step in trace["steps"]:
        for optimizer in optimizers:
            optimizer.zero_grad()
        for micro in range(trace["accumulate"]):
            bad = step.get("bad") if micro == 0 else None
            counter = backward(scaler, trace, parameters, counter, bad)
        stepped = []
        for optimizer, spec, own in zip(optimizers, trace["optimizers"], owned):
            if spec["unscale"] or spec["clip"] > 0:
                scaler.unscale_(optimizer)
            if spec["clip"] > 0:
                torch.nn.utils.clip_grad_norm_(own, spec["clip"])
            calls = []
            original, optimizer.step = optimizer.step, lambda *a, **k: calls.append(1)
            scaler.step(optimizer)
            optimizer.step = original
            if calls:
                optimizer.step()
            stepped.append(len(calls))
        if "growth_factor" in step:
            scaler.set_growth_factor(step["growth_factor"])
        if "backoff_factor" in step:
            scaler.set_backoff_factor(step["backoff_factor"])
        scaler.update(step.get("new_scale"))
        step["out"] = [scaler.get_scale(), scaler._get_growth_tracker(), stepped,
                       [float(f"{v:.7g}") for p in parameters for v in p.detach().tolist()]]


def exchanged_state():
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**-3, growth_factor=4.0, backoff_factor=0.25, growth_interval=7)
    weight = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    for _ in range(3):
        scaler.scale(weight.sum()).backward()
        scaler.step(optimizer)
        scaler.update()
    return scaler.state_dict()


def reloaded(state):
    """What torch holds after loading a state with our additional keys."""
    ours = dict(state, hysteresis=2, _hysteresis_tracker=1, min_scale=1.0, max_scale=16777216.0, _skips_at_floor=0)
    scaler = torch.amp.GradScaler("cpu")
    scaler.load_state_dict(ours)
    assert scaler.state_dict() == state
    return {"given": ours, "held": scaler.state_dict()}


traces = [draw_trace() for _ in range(TRACES)]
for trace in traces:
    run(trace)
state = exchanged_state()
golden = {"torch": torch.__version__, "traces": traces, "state": state, "reloaded": reloaded(state)}
path = pathlib.Path(__file__).with_name("grad_scaler_traces.json")
path.write_text(json.dumps(golden, separators=(",", ":")) + "\n")
