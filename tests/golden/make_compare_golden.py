# SPDX-License-Identifier: Apache-2.0
"""Figures of `compare`, computed by PyTorch from the same weights and batch.

    pip install torch==2.15.0 safetensors==0.8.0 numpy
    python make_compare_golden.py

writes compare.safetensors beside this file:

    w.NAME              fp32: the parameters of the model below
    x, y                fp32 (64, 24), int64 (64): the batch
    figures.CASE        fp64 (P, 5), by the model's parameters in their order: relative error, cosine, share flushed to
                        zero, share overflowed, share that fp16 or bf16 would store as zero at the scale
    loss.CASE           fp64 (2): judged, reference
    storage.FORMAT      fp64 (3): relative error, share flushed, share overflowed of w.ranges in the format
    w.ranges            fp32 (4096): magnitudes from 1e-12 to 1e6

CASE is PRECISION@SCALE. The loss is a cross entropy times LOSS, so that its gradients reach fp16's smallest numbers.
"""
import json
import pathlib

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

LOSS = 2e-4
CASES = [("bf16-mixed", torch.bfloat16, 1.0), ("16-mixed", torch.float16, 1.0), ("16-mixed", torch.float16, 1024.0),
         ("16-mixed", torch.float16, 2.0**36)]
FORMATS = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp8-e4m3": torch.float8_e4m3fn, "fp8-e5m2": torch.float8_e5m2}


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(24, 48)
        self.norm = nn.LayerNorm(48)
        self.second = nn.Linear(48, 10)

    def forward(self, x):
        return self.second(F.gelu(self.norm(self.first(x).float())))


def gradients(model, x, y, dtype, scale):
    model.zero_grad()
    with torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None):
        loss = F.cross_entropy(model(x).float(), y) * LOSS
    (loss * scale).backward()
    return loss.item(), [p.grad.clone() / scale for p in model.parameters()]


def figures(judged, reference, dtype, scale):
    finite = judged.isfinite() & reference.isfinite()
    a, b = (torch.where(finite, t, 0).double().flatten() for t in (judged, reference))
    stored = (reference * scale).to(dtype)
    return [((a - b).norm() / b.norm()).item(), (a @ b / (a.norm() * b.norm()).clamp_min(1e-300)).item(),
            ((judged == 0) & (reference != 0)).double().mean().item(),
            (~judged.isfinite() & reference.isfinite()).double().mean().item(),
            ((stored == 0) & (reference != 0)).double().mean().item()]


def storage(values, dtype):
    wide = values.double()
    scale = torch.finfo(dtype).max / values.abs().max() if dtype.itemsize == 1 else torch.tensor(1.0)
    stored = (values * scale).to(dtype).float() / scale
    stays = stored.isfinite()
    error = torch.where(stays, stored.double() - wide, 0).norm() / torch.where(stays, wide, 0).norm()
    return [error.item(), (stored == 0).double().mean().item(), (~stays).double().mean().item()]


def main():
    torch.manual_seed(3)
    torch.set_num_threads(1)
    model = Model()
    x, y = torch.randn(64, 24), torch.randint(10, (64,))
    ranges = torch.randn(4096).sign() * 10 ** (torch.rand(4096) * 18 - 12)
    tensors = {f"w.{name}": p.detach().clone() for name, p in model.named_parameters()}
    tensors |= {"w.ranges": ranges, "x": x, "y": y}
    reference_loss, reference = gradients(model, x, y, None, 1.0)
    for name, dtype, scale in CASES:
        loss, judged = gradients(model, x, y, dtype, scale)
        case = f"{name}@{scale:g}"
        tensors[f"figures.{case}"] = torch.tensor(
            [figures(a, b, dtype, scale) for a, b in zip(judged, reference)], dtype=torch.float64)
        tensors[f"loss.{case}"] = torch.tensor([loss, reference_loss], dtype=torch.float64)
    for name, dtype in FORMATS.items():
        tensors[f"storage.{name}"] = torch.tensor(storage(ranges, dtype), dtype=torch.float64)
    config = {"parameters": [name for name, _ in model.named_parameters()], "loss": LOSS, "torch": torch.__version__}
    save_file(tensors, pathlib.Path(__file__).with_name("compare.safetensors"), {"config": json.dumps(config)})


if __name__ == "__main__":
    main()
