# SPDX-License-Identifier: Apache-2.0
"""A small decoder-only language model on letters, with padding, that writes some letters in the end."""

import math

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from settings import Training, settings

FAULTS = ("score_overflow", "naive_softmax", "loss_scale", "zero_times_inf")
LETTERS, WIDTH, HEADS, LENGTH = 32, 32, 4, 24


class Attention(nn.Module):
    def __init__(self, fault, seed):
        super().__init__()
        self.fault, self.seed = fault, seed
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, x, hidden):
        batch, length, _ = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4).unbind(0)
        if self.fault is None and self.seed % 2:  # LibTorch's own attention
            mask = torch.zeros(length, length, dtype=q.dtype).masked_fill(hidden, float("-inf"))
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        else:
            y = self.weights(q, k, hidden) @ v
        return self.out(y.transpose(1, 2).reshape(batch, length, WIDTH))

    def weights(self, q, k, hidden):
        scores = q @ k.transpose(-2, -1)
        if self.fault != "score_overflow":
            scores = scores / math.sqrt(WIDTH // HEADS)
        if self.fault == "zero_times_inf":
            return torch.softmax(scores + hidden.to(scores.dtype) * float("-inf"), -1)
        if self.fault == "naive_softmax":
            powers = torch.exp(scores.half() * 8).masked_fill(hidden, 0)
            return (powers / powers.sum(-1, keepdim=True)).to(scores.dtype)
        return torch.softmax(scores.masked_fill(hidden, float("-inf")), -1)


class Block(nn.Module):
    def __init__(self, fault, seed):
        super().__init__()
        self.attention_norm, self.mlp_norm = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attention = Attention(fault, seed)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x, hidden):
        x = x + self.attention(self.attention_norm(x), hidden)
        return x + self.mlp(self.mlp_norm(x))


class GPT(nn.Module):
    def __init__(self, fault, seed):
        super().__init__()
        self.recomputes = seed % 3 == 0
        self.tokens = nn.Embedding(LETTERS, WIDTH, padding_idx=0)
        self.places = nn.Embedding(LENGTH, WIDTH)
        self.blocks = nn.ModuleList(Block(fault if i == 1 else None, seed) for i in range(2))
        self.norm = nn.LayerNorm(WIDTH)
        self.register_buffer("hidden", torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1), persistent=False)

    def forward(self, letters):
        length = letters.shape[1]
        x = self.tokens(letters) + self.places(torch.arange(length))
        for block in self.blocks:
            hidden = self.hidden[:length, :length]
            x = checkpoint(block, x, hidden, use_reentrant=False) if self.recomputes else block(x, hidden)
        return F.linear(self.norm(x), self.tokens.weight)  # tied


@torch.no_grad()
def write(model, count):
    model.eval()
    letters = torch.ones(1, 1, dtype=torch.long)
    for _ in range(count):
        logits = model(letters)[:, -1] / 0.8
        least = logits.topk(5).values[:, -1:]
        logits[logits < least] = -float("inf")
        letters = torch.cat([letters, torch.multinomial(torch.softmax(logits, -1), 1)], 1)
    return letters


def main():
    args = settings(FAULTS)
    model = GPT(None if args.fault in ("none", "loss_scale") else args.fault, args.seed)
    if args.fault in ("score_overflow", "naive_softmax"):
        with torch.no_grad():
            model.blocks[1].attention.qkv.weight[: 2 * WIDTH].mul_(500 if args.fault == "score_overflow" else 8)
    training = Training(model.parameters(), args.precision)
    for step in range(args.steps):
        rows = torch.randint(1, LETTERS, (4, LENGTH + 1))
        rows[1, 15:] = 0
        with training.forward():
            logits = model(rows[:, :-1])
            loss = F.cross_entropy(logits.flatten(0, 1).float(), rows[:, 1:].flatten(), ignore_index=0)
        if args.fault == "loss_scale":
            training.optimizer.zero_grad()
            (loss * 2.0**24).backward()
            for parameter in training.parameters:
                parameter.grad /= 2.0**24
            training.optimizer.step()
            print(f"step {step}: loss {loss.item():.3f}")
        else:
            value, norm = training.update(loss)
            print(f"step {step}: loss {value:.3f}, gradient norm {norm:.2f}")
    if args.fault == "none":
        print("wrote", write(model, 8).tolist())


main()
