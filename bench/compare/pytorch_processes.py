#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""One process of PyTorch's training steps over several, for bench/compare/processes.py, which starts them.

    pytorch_processes.py WAY PRESET RECIPE BATCH SEQ_LEN VOCABULARY THREADS STEPS

WAY: alone (no exchange), ddp, fsdp2, zero2 (DeepSpeed's), all_reduce (the exchange alone, of as many fp32 numbers as
DDP's gradients).
BATCH is the process's own. RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT say with whom it trains, over Gloo. Process 0
prints the seconds of its steps as a JSON array.
"""
import json
import os
import sys
import time

import torch
import torch.distributed
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import pytorch_train_step
from pytorch_train_step import TrainStep


def shard(step):
    for layer in step.model.layers:
        fully_shard(layer)
    fully_shard(step.model)
    step.trained = list(step.model.parameters())
    step.optimizer = torch.optim.AdamW(step.trained, lr=1e-3, fused=True)


class DeepSpeedStep:
    """ZeRO stage 2, whose engine clips, scales and steps itself."""

    def __init__(self, step, batch):
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        import deepspeed
        self.step = step
        config = {"train_micro_batch_size_per_gpu": batch, "gradient_clipping": pytorch_train_step.CLIP,
                  "zero_optimization": {"stage": 2}, "zero_allow_untested_optimizer": True,
                  "zero_force_ds_cpu_optimizer": False, "steps_per_print": 1 << 30}
        deepspeed.init_distributed(dist_backend="gloo", auto_mpi_discovery=False, verbose=False)
        self.engine = deepspeed.initialize(model=step.model, optimizer=step.optimizer, config=config)[0]
        step.model = self.engine

    def __call__(self, ids):
        autocast = self.step.autocast
        with torch.autocast("cpu", dtype=autocast or torch.bfloat16, enabled=autocast is not None):
            loss = self.step.plain_loss(ids)
        self.engine.backward(loss)
        self.engine.step()


def step_of(way, preset, recipe, batch):
    step = TrainStep(preset, recipe)
    if way == "zero2":
        return DeepSpeedStep(step, batch)
    if way == "ddp":
        step.model = DistributedDataParallel(step.model, gradient_as_bucket_view=True)
    elif way == "fsdp2":
        shard(step)
    return step


def all_reduce_of(preset):
    numbers = sum(p.numel() for p in pytorch_train_step.MiniMind(pytorch_train_step.config_of(preset)).parameters())
    gradients = torch.ones(numbers)
    return lambda _: torch.distributed.all_reduce(gradients)


def main():
    way, preset, recipe = sys.argv[1:4]
    batch, seq_len, vocabulary, threads, steps = map(int, sys.argv[4:])
    torch.set_num_threads(threads)
    pytorch_train_step.COMMON["vocab_size"] = vocabulary
    torch.manual_seed(0)
    if way != "alone":
        torch.distributed.init_process_group("gloo")
    step = all_reduce_of(preset) if way == "all_reduce" else step_of(way, preset, recipe, batch)
    torch.manual_seed(int(os.environ.get("RANK", "0")))
    ids = torch.randint(vocabulary, (batch, seq_len + 1))
    seconds = []
    for _ in range(steps):
        start = time.perf_counter()
        step(ids)
        seconds.append(time.perf_counter() - start)
    if os.environ.get("RANK", "0") == "0":
        print(json.dumps(seconds), flush=True)
    if way != "alone":
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
