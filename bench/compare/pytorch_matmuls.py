#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""GFLOP/s of torch.mm on the products of one training step of minimind-26m, 4 x 256 tokens.

    pytorch_matmuls.py [DTYPE] [THREADS]        DTYPE: bfloat16 (default), float32

Forward is y = x W^T, then dX = g W and dW = g^T x; the head goes in two chunks of 512 rows. The last line is what all
of them take in a step: what is left for everything else, whoever calls them.
"""
import os
import statistics
import sys
import time

import torch

# name, rows, inputs, outputs, times in a step
SHAPES = [("qkv", 1024, 512, 768, 8), ("wo", 1024, 512, 512, 8), ("gate, up", 1024, 512, 2816, 8),
          ("down", 1024, 1408, 512, 8), ("head", 512, 512, 6400, 2)]


def seconds(product, rounds=30, warm_up=5):
    taken = []
    for _ in range(warm_up + rounds):
        start = time.perf_counter()
        product()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken[warm_up:])


def main():
    dtype = getattr(torch, sys.argv[1] if len(sys.argv) > 1 else "bfloat16")
    torch.set_num_threads(int(sys.argv[2]) if len(sys.argv) > 2 else os.cpu_count())
    total = 0.0
    print("| product | rows x inputs x outputs | forward | dX | dW |\n|---|---|---|---|---|")
    for name, rows, inputs, outputs, times in SHAPES:
        x, w, g = (torch.randn(shape).to(dtype) for shape in ((rows, inputs), (outputs, inputs), (rows, outputs)))
        taken = [seconds(lambda: torch.mm(x, w.t())), seconds(lambda: torch.mm(g, w)), seconds(lambda: torch.mm(g.t(), x))]
        total += times * sum(taken)
        rates = " | ".join(f"{2e-9 * rows * inputs * outputs / s:.0f}" for s in taken)
        print(f"| {name} | {rows} x {inputs} x {outputs} | {rates} |")
    print(f"\nall products of a step: {1e3 * total:.0f} ms")


if __name__ == "__main__":
    main()
