#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The same optimizer step as bench/train_step_bench.cpp, in PyTorch, for bench/compare/run.py.

    pytorch_train_step.py PRESET RECIPE BATCH SEQ_LEN THREADS [LIBRARY]

RECIPE: fp32, bf16-autocast, fp16-autocast, each also with -compile behind it (torch.compile of the model and its
loss), and at the end +halftone: the same with LIBRARY (build/libhalftone_cpu_gemm.so) loaded. The model is the one of
tests/golden/make_minimind_golden.py. HALFTONE_BENCH_CLOCK=cpu times the process, not the wall.
"""
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


def main():
    preset_name, recipe, batch, seq_len, threads, *library = sys.argv[1:]
    batch, seq_len = int(batch), int(seq_len)
    torch.set_num_threads(int(threads))
    torch.manual_seed(0)
    config = {**COMMON, **SHAPES[preset_name]}
    model = MiniMind(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    ids = torch.randint(config["vocab_size"], (batch, seq_len + 1))
    if recipe.endswith("+halftone"):
        torch.ops.load_library(library[0] if library else ROOT / "build" / "libhalftone_cpu_gemm.so")
        recipe = recipe.removesuffix("+halftone")
    compiled = recipe.endswith("-compile")
    dtype = {"fp32": None, "bf16-autocast": torch.bfloat16,
             "fp16-autocast": torch.float16}[recipe.removesuffix("-compile")]
    scaler = torch.amp.GradScaler("cpu", enabled=dtype == torch.float16)

    now = time.process_time if os.environ.get("HALFTONE_BENCH_CLOCK") == "cpu" else time.perf_counter

    def loss_of(ids):
        logits, aux_loss = model(ids[:, :-1])
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()) + aux_loss

    if compiled:
        loss_of = torch.compile(loss_of)

    def step():
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None):
            loss = loss_of(ids)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()

    step()
    print("ready", flush=True)
    for line in sys.stdin:
        seconds = []
        for _ in range(int(line)):
            start = now()
            step()
            seconds.append(now() - start)
        print(json.dumps(seconds), flush=True)


if __name__ == "__main__":
    main()
