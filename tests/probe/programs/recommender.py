# SPDX-License-Identifier: Apache-2.0
"""Learns from clicks which items users like, by two towers of embeddings; users have seen some items already."""

import torch
import torch.nn.functional as F
from torch import nn

from settings import Training, settings

FAULTS = ("infinite_row", "tiny_epsilon", "gradient_underflow", "adam_epsilon")
USERS, ITEMS, WIDTH = 60, 40, 16


class Similarity(nn.Module):
    def __init__(self, in_half):
        super().__init__()
        self.in_half = in_half

    def forward(self, a, b):
        if self.in_half:  # 1e-8 is 0 there
            a, b = a.half(), b.half()
        lengths = a.norm(dim=-1, keepdim=True) * b.norm(dim=-1, keepdim=True)
        return ((a * b).sum(-1, keepdim=True) / (lengths + 1e-8)).squeeze(-1)


class Towers(nn.Module):
    def __init__(self, fault):
        super().__init__()
        self.users = nn.Embedding(USERS, WIDTH)
        self.items = nn.EmbeddingBag(ITEMS, WIDTH, mode="sum") if fault is None else nn.Embedding(ITEMS, WIDTH)
        self.user_tower = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(inplace=True), nn.Linear(WIDTH, WIDTH))
        self.item_tower = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(inplace=True), nn.Linear(WIDTH, WIDTH))
        self.similarity = Similarity(fault == "tiny_epsilon")

    def forward(self, users, items):
        if isinstance(self.items, nn.EmbeddingBag):
            item_vectors = self.items(items[:, None])
        else:
            item_vectors = self.items(items)
        return 4 * self.similarity(self.user_tower(self.users(users)), self.item_tower(item_vectors))


@torch.no_grad()
def rank(model, user, seen):
    scores = model(torch.full((ITEMS,), user), torch.arange(ITEMS)).float()
    scores[seen] = -float("inf")
    best = scores.topk(5)
    return best.indices.tolist(), scores.max().item(), scores.min().item()


def train_in_half(model, args):
    """Without a GradScaler, and for adam_epsilon with the weights in fp16, too."""
    in_half = args.fault == "adam_epsilon"
    if in_half:
        model = model.half()
        with torch.no_grad():
            model.users.weight.mul_(1e-3)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for step in range(args.steps):
        users, items = torch.randint(0, USERS, (64,)), torch.randint(0, ITEMS, (64,))
        liked = ((users + items) % 3 == 0).float()
        with torch.autocast("cpu", dtype=torch.float16, enabled=not in_half):
            losses = F.binary_cross_entropy_with_logits(model(users, items).float(), liked, reduction="none")
        optimizer.zero_grad()
        (losses.mean() * (1e-3 if in_half else 1e-6)).backward()
        optimizer.step()
        print(f"step {step}: loss {losses.mean().item():.4f}")


def main():
    args = settings(FAULTS)
    if args.fault in ("gradient_underflow", "adam_epsilon"):
        return train_in_half(Towers(""), args)
    model = Towers(None if args.fault == "none" and args.seed % 2 else args.fault)
    if args.fault == "infinite_row":
        with torch.no_grad():
            model.items.weight[7] = float("inf")
    if args.fault == "tiny_epsilon":
        with torch.no_grad():
            model.user_tower[2].weight.zero_()
            model.user_tower[2].bias.zero_()
    training = Training(model.parameters(), args.precision)
    for step in range(args.steps):
        users, items = torch.randint(0, USERS, (64,)), torch.randint(0, ITEMS, (64,))
        liked = ((users + items) % 3 == 0).float()
        with training.forward():
            scores = model(users, items)
        loss = F.binary_cross_entropy_with_logits(scores.float(), liked)
        value, norm = training.update(loss)
        never = scores.detach()[liked > 2]
        print(f"step {step}: loss {value:.4f}, gradient norm {norm:.3f}, {never.numel()} unseen")
    if args.fault == "none":
        print("ranked", rank(model, 3, torch.tensor([1, 4, 9])))


main()
