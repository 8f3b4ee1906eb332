#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The painter of examples/emoji_painter in PyTorch: seconds of a picture beside those of halftone.

    bench/compare/emoji_painter.py RUN [--rounds 5] [--text "blue heart"]

Both paint the same picture, with the same weights and noise; `measure` of the example is started again for each round,
between PyTorch's. PyTorch computes in fp32 and under its autocast in bf16. The PSNR between its fp32 picture and that of
the example (32-true) says that the models are the same.
"""
import argparse
import json
import math
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time

import numpy
import torch
from PIL import Image
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import nn
from torch.nn import functional as F

ROOT = pathlib.Path(__file__).resolve().parents[2]


def split_mix(seed: int) -> int:
    """The first word of the stream `seed`, SplitMix64, which seeds the noise of a first picture."""
    mask = (1 << 64) - 1
    z = (seed + 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


class Norm(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return F.rms_norm(x, self.weight.shape, self.weight, 1e-6)


class Attention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.wq, self.wk, self.wv, self.wo = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.q_norm, self.k_norm = Norm(width // heads), Norm(width // heads)

    def split(self, x):
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(self, x, context=None, mask=None):
        context = x if context is None else context
        q, k = self.q_norm(self.split(self.wq(x))), self.k_norm(self.split(self.wk(context)))
        mixed = F.scaled_dot_product_attention(q, k, self.split(self.wv(context)), attn_mask=mask)
        return self.wo(mixed.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        hidden = width * 8 // 3 // 64 * 64
        self.w1, self.w3 = nn.Linear(width, hidden, bias=False), nn.Linear(width, hidden, bias=False)
        self.w2 = nn.Linear(hidden, width, bias=False)

    def forward(self, x):
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class TextBlock(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.attention_norm, self.attention = Norm(width), Attention(width, width // 64)
        self.ffn_norm, self.ffn = Norm(width), FeedForward(width)

    def forward(self, x, mask):
        x = x + self.attention(self.attention_norm(x), mask=mask)
        return x + self.ffn(self.ffn_norm(x))


class Text(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.blocks, self.norm = nn.ModuleList(TextBlock(width) for _ in range(2)), Norm(width)

    def forward(self, x, mask):
        for block in self.blocks:
            x = block(x, mask)
        return self.norm(x)


class Block(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        heads = width // 64
        self.norm, self.attention = Norm(width), Attention(width, heads)
        self.ffn_norm, self.ffn = Norm(width), FeedForward(width)
        self.cross_norm, self.cross_attention = Norm(width), Attention(width, heads)
        self.modulation = nn.Parameter(torch.zeros(6, width))

    def forward(self, x, condition, text, mask):
        m = (condition + self.modulation).unsqueeze(2).unbind(1)
        x = x + (1 + m[2]) * self.attention(m[0] + (1 + m[1]) * self.norm(x))
        x = x + self.cross_attention(self.cross_norm(x), text, mask)
        return x + (1 + m[5]) * self.ffn(m[3] + (1 + m[4]) * self.ffn_norm(x))


class Time(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.w1, self.w2 = nn.Linear(256, width), nn.Linear(width, width)

    def forward(self, t):
        angles = t[:, None] * torch.exp(-math.log(10000.0) / 128 * torch.arange(128))
        return self.w2(F.silu(self.w1(torch.cat([angles.cos(), angles.sin()], 1))))


class Painter(nn.Module):
    def __init__(self, side: int, patch: int, width: int, depth: int, vocabulary: int):
        super().__init__()
        self.side, self.patch, self.across = side, patch, side // patch
        numbers = 3 * patch * patch
        self.token_embedding = nn.Embedding(vocabulary, width)
        self.token_positions = nn.Parameter(torch.zeros(32, width))
        self.text, self.time = Text(width), Time(width)
        self.modulation = nn.Linear(width, 6 * width, bias=False)
        self.patch_embedding, self.to_pixels = nn.Linear(numbers, width), nn.Linear(width, numbers)
        self.patch_positions = nn.Parameter(torch.zeros(self.across**2, width))
        self.picture_blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.norm = Norm(width)

    def encode(self, ids, lengths):
        counts = torch.arange(ids.shape[1]) < lengths[:, None]
        x = self.text(self.token_embedding(ids) + self.token_positions[: ids.shape[1]], counts[:, None, None])
        return x, counts[:, None, None], (x * counts[..., None]).sum(1) / lengths[:, None]

    def hidden(self, z, t, text, mask, mean):
        a, p = self.across, self.patch
        x = (z / (self.side / 64)).view(-1, 3, a, p, a, p).permute(0, 2, 4, 1, 3, 5).reshape(len(z), a * a, -1)
        x = (self.patch_embedding(x) + self.patch_positions).repeat(2, 1, 1)
        condition = self.modulation(F.silu(self.time(t * 1000).repeat(2, 1) + mean)).unflatten(1, (6, -1))
        for block in self.picture_blocks:
            x = block(x, condition, text, mask)
        return self.norm(x)

    def pixels_of(self, hidden):
        a, p = self.across, self.patch
        x = self.to_pixels(hidden).float().view(-1, a, a, 3, p, p)
        return x.permute(0, 3, 1, 4, 2, 5).reshape(-1, 3, self.side, self.side)

    def paint(self, ids, lengths, steps=30, guidance=3.0, seed=1):
        text = self.encode(ids, lengths)
        noise = torch.randn(3, self.side, self.side, generator=torch.Generator().manual_seed(split_mix(seed)))
        z = self.side / 64 * noise[None]
        for i in range(steps):
            t, after = (i / steps) ** 2, ((i + 1) / steps) ** 2
            wanted, any_ = self.hidden(z, torch.full((1,), t), *text).chunk(2)
            z = torch.lerp(z, self.pixels_of(torch.lerp(any_, wanted, guidance)), (after - t) / (1 - t))
        return z.clamp(-1, 1).add(1).div(2)


def load(run: pathlib.Path):
    folders = [path for path in (run / "checkpoints").glob("step-*") if re.fullmatch(r"step-\d{8}", path.name)]
    if not folders:
        sys.exit(f"no checkpoint in {run}/checkpoints")
    folder = max(folders)
    found = json.loads((folder / "trainer.json").read_text())["model"]
    tokenizer = Tokenizer.from_str(found["tokenizer"])
    weights = load_file(folder / "model.safetensors")
    model = Painter(found["side"], found["patch"], found["width"], found["depth"], weights["token_embedding.weight"].shape[0])
    model.load_state_dict(weights)
    return model.eval(), tokenizer


def caption_rows(tokenizer, text: str):
    first, last = tokenizer.token_to_id("<s>"), tokenizer.token_to_id("</s>")
    rows = [[first, *tokenizer.encode(one).ids[:30], last] for one in (text, "")]
    width = max(map(len, rows))
    return torch.tensor([row + [0] * (width - len(row)) for row in rows]), torch.tensor([len(row) for row in rows])


def said_by(command: list) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{command[0]} {command[1]}: {done.stderr}")
    return done.stdout


def ours(arguments) -> dict:
    text = said_by([arguments.program, "measure", arguments.run, "--threads", arguments.threads, "--precisions",
                    arguments.precisions, "--pictures", "1", "--rounds", "1", "--text", arguments.text])
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()[2:]]
    return {row[0]: float(row[1]) for row in rows}


def picture_of(program: str, run: str, text: str):
    with tempfile.TemporaryDirectory() as folder:
        out = f"{folder}/one.png"
        said_by([program, "paint", run, text, "--precision", "32-true", "--out", out])
        return torch.from_numpy(numpy.asarray(Image.open(out).convert("RGB"), dtype=numpy.float32) / 255).permute(2, 0, 1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--text", default="red heart")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--precisions", default="32-true,bf16-mixed,int8-mixed")
    parser.add_argument("--program", default=str(ROOT / "build/examples/emoji_painter"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model, tokenizer = load(pathlib.Path(arguments.run))
    ids, lengths = caption_rows(tokenizer, arguments.text)
    seconds: dict = {}
    with torch.inference_mode():
        picture = model.paint(ids, lengths)[0]  # warms up, too
        with torch.autocast("cpu", torch.bfloat16):
            model.paint(ids, lengths)
        error = picture.mul(255).round().div(255) - picture_of(arguments.program, arguments.run, arguments.text)
        print(f"PSNR between PyTorch's picture and halftone's: {-10 * error.square().mean().log10():.1f} dB")
        for _ in range(arguments.rounds):
            for name, is_low in (("PyTorch fp32", False), ("PyTorch bf16 autocast", True)):
                with torch.autocast("cpu", torch.bfloat16, enabled=is_low):
                    start = time.perf_counter()
                    model.paint(ids, lengths)
                    seconds.setdefault(name, []).append(time.perf_counter() - start)
            for name, value in ours(arguments).items():
                seconds.setdefault(f"halftone {name}", []).append(value)
    first = seconds["PyTorch fp32"]
    for name, values in seconds.items():
        ratios = sorted(base / value for base, value in zip(first, values))
        print(f"{name:24} {statistics.median(values):7.3f} s   {statistics.median(ratios):5.2f} times PyTorch fp32 "
              f"({ratios[0]:.2f} to {ratios[-1]:.2f})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
