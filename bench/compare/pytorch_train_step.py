#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The same optimizer step as bench/train_step_bench.cpp, in PyTorch, for bench/compare/run.py and bench/gpu.

    pytorch_train_step.py PRESET RECIPE BATCH SEQ_LEN THREADS [--device cpu|cuda] [--compile] [--library FILE]

RECIPE: fp32, bf16-autocast, fp16-autocast, or of weights and arithmetic bf16, fp16. --compile: torch.compile of the
model and its loss. --library: with build/libhalftone_cpu_gemm.so loaded. The model is the one of
tests/golden/make_minimind_golden.py. HALFTONE_BENCH_CLOCK=cpu times the process, not the wall. On a GPU the last step
of a turn waits for the device, so only the turn's sum is a time.
"""
import argparse
import json
import os
import pathlib
import sys
import time

import torch

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "golden"))
from make_minimind_golden import MiniMind  # noqa: E402


SHAPES = {
    "dim-64": dict(dim=64, n_layers=2, n_heads=4, n_kv_heads=2, hidden_dim=192),
    "tiny": dict(dim=128, n_layers=4, n_heads=4, n_kv_heads=2, hidden_dim=384),
    "minimind-26m": dict(dim=512, n_layers=8, n_heads=8, n_kv_heads=2, hidden_dim=1408),
    "minimind-104m": dict(dim=768, n_layers=16, n_heads=8, n_kv_heads=2, hidden_dim=2048),
}
COMMON = dict(vocab_size=6400, norm_eps=1e-5, rope_theta=1e6, use_moe=False)
AUTOCAST = {"bf16-autocast": torch.bfloat16, "fp16-autocast": torch.float16}
WEIGHTS = {"bf16": torch.bfloat16, "fp16": torch.float16}
RECIPES = ["fp32", *AUTOCAST, *WEIGHTS]
CLIP = 1.0


def config_of(preset):
    return {**COMMON, **SHAPES[preset]}


def synchronize(device):
    if device == "cuda":
        torch.cuda.synchronize()


class TrainStep:
    """A model, its AdamW and what one step does. Returns the loss and the norm of all gradients, on the device."""

    def __init__(self, preset, recipe, device="cpu", compiled=False, weights=None):
        self.device, self.autocast = device, AUTOCAST.get(recipe)
        self.model = MiniMind(config_of(preset))
        if weights:
            self.model.load_state_dict(weights)
        self.model.to(device=device, dtype=WEIGHTS.get(recipe, torch.float32))
        self.narrow = list(self.model.parameters()) if recipe in WEIGHTS else []
        trained = [torch.nn.Parameter(p.detach().float()) for p in self.narrow] or list(self.model.parameters())
        self.optimizer = torch.optim.AdamW(trained, lr=1e-3, fused=True)
        self.trained = trained
        self.scaler = torch.amp.GradScaler(device, enabled=torch.float16 in (self.autocast, WEIGHTS.get(recipe)))
        self.loss_of = torch.compile(self.plain_loss) if compiled else self.plain_loss

    def plain_loss(self, ids):
        logits, aux_loss = self.model(ids[:, :-1])
        return torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten()) + aux_loss

    def __call__(self, ids):
        self.optimizer.zero_grad(set_to_none=True)
        self.model.zero_grad(set_to_none=True)
        with torch.autocast(self.device, dtype=self.autocast or torch.bfloat16, enabled=self.autocast is not None):
            loss = self.loss_of(ids)
        self.scaler.scale(loss).backward()
        for wide, narrow in zip(self.trained, self.narrow):
            wide.grad = narrow.grad.float()
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.trained, CLIP)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.round_weights()
        return loss.detach(), norm

    @torch.no_grad()
    def round_weights(self):
        """16-bit weights keep nothing of what an update rounds away; their moments are fp32."""
        for wide, narrow in zip(self.trained, self.narrow):
            narrow.copy_(wide)
            wide.copy_(narrow)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("preset", choices=SHAPES)
    parser.add_argument("recipe", choices=RECIPES)
    for name in ("batch", "seq_len", "threads"):
        parser.add_argument(name, type=int)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--library", type=pathlib.Path)
    return parser.parse_args()


def timed_turn(step, ids, steps):
    now = time.process_time if os.environ.get("HALFTONE_BENCH_CLOCK") == "cpu" else time.perf_counter
    seconds = []
    for i in range(steps):
        start = now()
        step(ids)
        if i + 1 == steps:
            synchronize(step.device)
        seconds.append(now() - start)
    return seconds


def main():
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    if arguments.library:
        torch.ops.load_library(arguments.library)
    step = TrainStep(arguments.preset, arguments.recipe, arguments.device, arguments.compile)
    shape = (arguments.batch, arguments.seq_len + 1)
    ids = torch.randint(COMMON["vocab_size"], shape).to(arguments.device)
    step(ids)
    synchronize(arguments.device)
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(timed_turn(step, ids, int(line))), flush=True)


if __name__ == "__main__":
    main()
