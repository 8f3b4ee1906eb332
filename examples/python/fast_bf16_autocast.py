#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""An ordinary PyTorch training step under 16-bit autocast on the CPU, without and with halftone's products.

    python3 examples/python/fast_bf16_autocast.py [--dtype bfloat16|float16] [--steps 3]
                                                  [--library build/libhalftone_cpu_gemm.so]

The program knows nothing of halftone but the one line that loads the library. Needs PyTorch of the
release that the library was built with (2.15).
"""
import argparse
import pathlib
import statistics
import time

import torch
from torch import nn

VOCABULARY, DIM, LAYERS, BATCH, LENGTH = 2048, 256, 4, 8, 128


class LanguageModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, DIM)
        layer = nn.TransformerEncoderLayer(DIM, nhead=4, dim_feedforward=4 * DIM, dropout=0.0, batch_first=True,
                                           norm_first=True)
        self.layers = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
        self.output = nn.Linear(DIM, VOCABULARY)

    def forward(self, ids):
        mask = nn.Transformer.generate_square_subsequent_mask(ids.size(1))
        return self.output(self.layers(self.embedding(ids), mask=mask, is_causal=True))


def train(dtype, steps):
    """Seconds of the median step, after one that is not counted, and the last loss."""
    torch.manual_seed(0)
    model = LanguageModel()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scaler = torch.amp.GradScaler("cpu", enabled=dtype == torch.float16)
    ids = torch.randint(VOCABULARY, (BATCH, LENGTH + 1))
    seconds = []
    for _ in range(steps + 1):
        start = time.perf_counter()
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
            logits = model(ids[:, :-1])
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:]), loss.item()


def report(name, dtype, steps):
    seconds, loss = train(dtype, steps)
    print(f"{name:<32} {seconds * 1e3:8.0f} ms a step   loss {loss:.4f}", flush=True)


def main():
    build = pathlib.Path(__file__).resolve().parents[2] / "build"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float16"])
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--library", default=build / "libhalftone_cpu_gemm.so")
    arguments = parser.parse_args()
    dtype = getattr(torch, arguments.dtype)

    report("float32", torch.float32, arguments.steps)
    report(f"{arguments.dtype} autocast", dtype, arguments.steps)
    torch.ops.load_library(arguments.library)
    report(f"{arguments.dtype} autocast, library loaded", dtype, arguments.steps)
    if hasattr(torch.ops.halftone, "cpu_gemm_paths"):  # not there when HALFTONE_CPU_GEMM=off
        print("ways of the products:", torch.ops.halftone.cpu_gemm_paths())


if __name__ == "__main__":
    main()
