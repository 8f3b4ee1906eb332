# SPDX-License-Identifier: Apache-2.0
"""Writes pth/*.pth with PyTorch's torch.save, for tests/io.

pip install torch==2.15.0 numpy && python tests/golden/make_pth_golden.py

Element i of every tensor is (7 * i) % 11 - 3 (unsigned types: (7 * i) % 11; bool: odd i), which tests/io/pth_test.cpp
rebuilds. Views are taken of such tensors.
"""
import argparse
import collections
import pathlib

import torch

DTYPES = {
    "f64": torch.float64, "f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16,
    "i64": torch.int64, "i32": torch.int32, "i16": torch.int16, "i8": torch.int8,
    "u8": torch.uint8, "u16": torch.uint16, "u32": torch.uint32, "bool": torch.bool,
    "f8_e4m3": torch.float8_e4m3fn, "f8_e5m2": torch.float8_e5m2, "c64": torch.complex64,
}
FOLDER = pathlib.Path(__file__).with_name("pth")
VOCABULARY, WIDTH, KV, FFN = 6, 4, 2, 8


def values(shape, name="f32"):
    count = torch.Size(shape).numel()
    if name == "bool":
        numbers = [i % 2 for i in range(count)]
    else:
        numbers = [(7 * i) % 11 - (0 if name.startswith("u") else 3) for i in range(count)]
    return torch.tensor(numbers, dtype=torch.float32).reshape(shape).to(DTYPES[name])


class Attention(torch.nn.Module):
    def __init__(self):
        super().__init__()
        for name, rows, columns in [("wq", WIDTH, WIDTH), ("wk", KV, WIDTH), ("wv", KV, WIDTH), ("wo", WIDTH, WIDTH)]:
            setattr(self, name, torch.nn.Linear(columns, rows, bias=False))


class FeedForward(torch.nn.Module):
    def __init__(self):
        super().__init__()
        for name, rows, columns in [("w1", FFN, WIDTH), ("w2", WIDTH, FFN), ("w3", FFN, WIDTH)]:
            setattr(self, name, torch.nn.Linear(columns, rows, bias=False))


class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = Attention()
        self.attention_norm = torch.nn.LayerNorm(WIDTH, bias=False)
        self.ffn_norm = torch.nn.LayerNorm(WIDTH, bias=False)
        self.feed_forward = FeedForward()


class Model(torch.nn.Module):
    """MiniMind V2's names and shapes, with the embedding tied to the head."""

    def __init__(self):
        super().__init__()
        self.tok_embeddings = torch.nn.Embedding(VOCABULARY, WIDTH)
        self.layers = torch.nn.ModuleList([Block()])
        self.norm = torch.nn.LayerNorm(WIDTH, bias=False)
        self.output = torch.nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.tok_embeddings.weight = self.output.weight
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(values(parameter.shape))


def save(name, content, **how):
    torch.save(content, FOLDER / name, **how)


def kinds():
    tensors = {f"{name}": values((2, 3), name) for name in DTYPES}
    base = values((4, 6))
    tensors |= {
        "scalar": values(()), "empty": torch.empty((0, 3)), "base": base, "tied": base,
        "slice": base[1:3], "corner": base[1:3, 2:5], "transposed": base.t(), "parameter": torch.nn.Parameter(values((5,))),
        "long/诗": values((300,)),
    }
    return tensors


FOLDER.mkdir(exist_ok=True)
model = Model()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
sum(parameter.sum() for parameter in model.parameters()).backward()
optimizer.step()
model = Model()

untagged = torch.serialization.location_tag
torch.serialization.location_tag = lambda storage: "cuda:0"
save("state_dict.pth", model.state_dict())
torch.serialization.location_tag = untagged
half = {name: tensor.half() for name, tensor in model.state_dict().items()}
save("half.pth", half)
save("resume.pth", {"model": half, "optimizer": optimizer.state_dict(), "epoch": 1, "step": 2**40, "world_size": 1,
                    "wandb_id": None, "scaler": {"scale": 65536.0, "growth_factor": 2.0}, "note": "诗", "done": False,
                    "loss": 2.5, "shape": torch.Size([2, 3]), "seen": {3, 5}, "bytes": b"\x00\xff"})
save("kinds.pth", kinds())
save("expanded.pth", {"w": torch.ones(1).expand(4)})
save("conjugate.pth", {"w": torch.ones(2, dtype=torch.complex64).conj()})
save("namespace.pth", {"model": half, "args": argparse.Namespace(epochs=1)})
save("legacy.pth", model.state_dict(), _use_new_zipfile_serialization=False)
save("protocol4.pth", half, pickle_protocol=4)
# Without _metadata, as the first versions had it.
save("ordered.pth", collections.OrderedDict(half))
