# SPDX-License-Identifier: Apache-2.0
"""The command line of the programs beside it, and a training step in the precision that it asks for."""

import argparse

import torch


def settings(faults):
    parser = argparse.ArgumentParser()
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default="fp32")
    parser.add_argument("--fault", choices=("none", *faults), default="none")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--load", help="a library to load, once PyTorch is imported")
    arguments = parser.parse_args()
    if arguments.load:
        torch.ops.load_library(arguments.load)
    torch.manual_seed(arguments.seed)
    torch.set_num_threads(1)
    return arguments


class Training:
    """Autocast, and where gradients are fp16 a GradScaler, whose scale is too large in the beginning."""

    def __init__(self, parameters, precision, learning_rate=1e-3, scale=2.0**22):
        self.parameters = list(parameters)
        self.precision = precision
        self.optimizer = torch.optim.AdamW(self.parameters, lr=learning_rate)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=scale, enabled=precision == "fp16")

    def forward(self):
        dtype = torch.float16 if self.precision == "fp16" else torch.bfloat16
        return torch.autocast("cpu", dtype=dtype, enabled=self.precision != "fp32")

    def update(self, loss):
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss.item(), norm.item()
