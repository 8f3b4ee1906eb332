#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What a PyTorch program does before its first step, for bench/compare/startup.py.

    pytorch_startup.py PRESET BATCH SEQ_LEN THREADS

Prints "ready" on stderr when the model, its optimizer and a batch are there.
"""
import sys

import torch

from pytorch_train_step import COMMON, SHAPES, MiniMind


def main():
    preset, batch, seq_len, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    torch.manual_seed(0)
    config = {**COMMON, **SHAPES[preset]}
    model = MiniMind(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    ids = torch.randint(config["vocab_size"], (int(batch), int(seq_len) + 1))
    optimizer.zero_grad()
    print("ready", ids.shape, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
