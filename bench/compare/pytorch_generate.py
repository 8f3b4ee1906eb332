#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Greedy generation as bench/generate_bench.cpp does it, in PyTorch, for bench/compare/generate.py.

    pytorch_generate.py PRESET RECIPE PROMPT NEW THREADS

RECIPE: fp32 or bf16 (of weights and arithmetic), each also with -compile behind it (torch.compile of a token's pass,
whose shapes do not change: attention sees the whole cache through a mask). The model is the one of
tests/golden/make_minimind_golden.py, with a cache allocated once, merged projections and grouped-query attention
without repeated keys.
"""
import json
import pathlib
import sys
import time

import torch
import torch.nn.functional as F

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tests" / "golden"))
from make_minimind_golden import MiniMind, rotate  # noqa: E402
from pytorch_train_step import COMMON, SHAPES  # noqa: E402


class Decoder:
    """A MiniMind's layers over a cache of keys and values."""

    def __init__(self, config, dtype, capacity):
        self.model = MiniMind(config).to(dtype).eval()
        self.heads, self.kv_heads = config["n_heads"], config["n_kv_heads"]
        self.head_dim = config["dim"] // self.heads
        frequencies = 1.0 / config["rope_theta"] ** (torch.arange(0, self.head_dim, 2).float() / self.head_dim)
        self.angles = torch.outer(torch.arange(capacity).float(), frequencies)
        shape = (2, config["n_layers"], 1, self.kv_heads, capacity, self.head_dim)
        self.keys, self.values = torch.zeros(shape, dtype=dtype)
        self.merged = [(torch.cat([a.wq.weight, a.wk.weight, a.wv.weight]), torch.cat([f.w1.weight, f.w3.weight]))
                       for a, f in ((layer.attention, layer.feed_forward) for layer in self.model.layers)]

    def attend(self, i, x, positions, end):
        """Positions (T) of x, after which `end` of the cache's are filled; None: hide what is not by a mask."""
        qkv = F.linear(x, self.merged[i][0]).unflatten(-1, (-1, self.head_dim))
        turned = rotate(qkv[:, :, :self.heads + self.kv_heads], self.angles[positions])
        q, k = turned.transpose(1, 2).split([self.heads, self.kv_heads], dim=1)
        self.keys[i].index_copy_(2, positions, k)
        self.values[i].index_copy_(2, positions, qkv[:, :, self.heads + self.kv_heads:].transpose(1, 2))
        mask = None if end else torch.arange(self.keys.shape[3]) <= positions[:, None]
        out = F.scaled_dot_product_attention(q, self.keys[i][:, :, :end], self.values[i][:, :, :end], mask,
                                             is_causal=mask is None and len(positions) > 1, enable_gqa=True)
        return self.model.layers[i].attention.wo(out.transpose(1, 2).flatten(2))

    def next_id(self, ids, positions, end):
        x = self.model.tok_embeddings(ids)
        for i, layer in enumerate(self.model.layers):
            x = x + self.attend(i, layer.attention_norm(x), positions, end)
            gate, up = F.linear(layer.ffn_norm(x), self.merged[i][1]).chunk(2, dim=-1)
            x = x + layer.feed_forward.w2(F.silu(gate) * up)
        return F.linear(self.model.norm(x[:, -1:]), self.model.tok_embeddings.weight).argmax(-1)


def main():
    preset, recipe, prompt, new, threads = sys.argv[1:]
    prompt, new = int(prompt), int(new)
    torch.set_num_threads(int(threads))
    torch.manual_seed(0)
    config = {**COMMON, **SHAPES[preset]}
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[recipe.removesuffix("-compile")]
    with torch.inference_mode():
        decoder = Decoder(config, dtype, prompt + new)
        compiled = recipe.endswith("-compile")
        next_id = torch.compile(decoder.next_id, dynamic=False) if compiled else decoder.next_id
        start_ids = torch.randint(config["vocab_size"], (1, prompt))

        def generate():
            ids = decoder.next_id(start_ids, torch.arange(prompt), prompt)
            ids.item()  # the caller wants it
            for position in range(prompt, prompt + new - 1):
                ids = next_id(ids, torch.tensor([position]), None if compiled else position + 1)
                ids.item()

        generate()
        print("ready", flush=True)
        for line in sys.stdin:
            seconds = []
            for _ in range(int(line)):
                start = time.perf_counter()
                generate()
                seconds.append(time.perf_counter() - start)
            print(json.dumps(seconds), flush=True)


if __name__ == "__main__":
    main()
