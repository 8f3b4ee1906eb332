#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The first losses of PyTorch's own steps, and the file of weights and batches that ours start from, for bench/gpu.

    pytorch_first_losses.py PRESET STEPS BATCH SEQ_LEN DEVICE FILE RECIPE...

Writes FILE, a safetensors file: `batches`, int64 (STEPS, BATCH, SEQ_LEN + 1), and weights.NAME of the model. Prints a
JSON object: for each recipe of pytorch_train_step.py, losses and grad_norms.
"""
import json
import struct
import sys

import torch

from pytorch_train_step import COMMON, MiniMind, TrainStep, config_of

DTYPES = {torch.float32: "F32", torch.int64: "I64"}


def save_tensors(path, tensors):
    """The safetensors format, which not every Python has a package for."""
    header, begin = {}, 0
    for name, tensor in tensors.items():
        end = begin + tensor.nbytes
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors.values():
            file.write(tensor.contiguous().numpy().tobytes())


def make_batches(steps, batch, seq_len, vocab):
    """Something to learn: few ids of many, of which nine of ten follow from the one before."""
    ids = torch.randint(vocab, (steps, batch, seq_len + 1))
    follows = torch.randperm(vocab)
    for t in range(1, seq_len + 1):
        ids[..., t] = torch.where(torch.rand(steps, batch) < 0.9, follows[ids[..., t - 1]], ids[..., t])
    return ids


def first_steps(preset, recipe, device, weights, batches):
    step = TrainStep(preset, recipe, device, weights=weights)
    outcomes = [step(ids) for ids in batches.to(device)]
    return {name: [outcome[i].item() for outcome in outcomes] for i, name in enumerate(("losses", "grad_norms"))}


def main():
    preset, steps, batch, seq_len, device, file, *recipes = sys.argv[1:]
    torch.manual_seed(0)
    weights = {name: value.clone() for name, value in MiniMind(config_of(preset)).state_dict().items()}
    batches = make_batches(int(steps), int(batch), int(seq_len), COMMON["vocab_size"] // 32)
    save_tensors(file, {"batches": batches, **{f"weights.{name}": value for name, value in weights.items()}})
    print(json.dumps({recipe: first_steps(preset, recipe, device, weights, batches) for recipe in recipes}))


if __name__ == "__main__":
    main()
