# SPDX-License-Identifier: Apache-2.0
"""One training run of ordinary size, which knows nothing of a probe: prints its
seconds and its processor time, without the first steps, and the last loss.

  workloads.py gpt|classifier [--steps N] [--threads N]
"""

import argparse
import time

import torch
import torch.nn.functional as F
from torch import nn

WARM_UP = 3


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        batch, length, width = x.shape
        q, k, v = (part.view(batch, length, self.heads, -1).transpose(1, 2)
                   for part in self.qkv(self.first(x)).split(width, -1))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(batch, length, width))
        return x + self.down(F.gelu(self.up(self.second(x))))


class GPT(nn.Module):
    """26 million parameters, as small language models have."""

    def __init__(self, width=512, layers=6, heads=8, letters=6400, length=256):
        super().__init__()
        self.tokens, self.places = nn.Embedding(letters, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, letters, bias=False)
        self.batch = torch.randint(0, letters, (4, length + 1))

    def loss(self):
        letters = self.batch[:, :-1]
        x = self.blocks(self.tokens(letters) + self.places(torch.arange(letters.shape[1])))
        return F.cross_entropy(self.head(self.norm(x)).flatten(0, 1).float(), self.batch[:, 1:].flatten())


class Residual(nn.Module):
    def __init__(self, channels_in, channels, stride):
        super().__init__()
        self.first = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(2))
        self.skip = nn.Conv2d(channels_in, channels, 1, stride) if channels_in != channels else nn.Identity()

    def forward(self, x):
        y = F.relu(self.norms[0](self.first(x)), inplace=True)
        return F.relu(self.norms[1](self.second(y)) + self.skip(x), inplace=True)


class Classifier(nn.Module):
    """A residual network for small images."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 64, 3, 1, 1)
        self.stages = nn.Sequential(Residual(64, 64, 1), Residual(64, 64, 1), Residual(64, 128, 2),
                                    Residual(128, 128, 1), Residual(128, 256, 2), Residual(256, 256, 1))
        self.head = nn.Linear(256, 10)
        self.images, self.labels = torch.randn(16, 3, 32, 32), torch.randint(0, 10, (16,))

    def loss(self):
        return F.cross_entropy(self.head(self.stages(self.stem(self.images)).mean((2, 3))).float(), self.labels)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("workload", choices=("gpt", "classifier"))
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--threads", type=int, default=0)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    model = GPT() if args.workload == "gpt" else Classifier()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    for step in range(WARM_UP + args.steps):
        if step == WARM_UP:
            start, processor = time.perf_counter(), time.process_time()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model.loss()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(time.perf_counter() - start, time.process_time() - processor, loss.item())


main()
