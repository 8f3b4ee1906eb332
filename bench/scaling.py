#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Computes, on paper, how data parallel training would scale to many H100s: nothing here is measured on one.

    python3 bench/scaling.py
    python3 bench/scaling.py --latency-us 60 --gbyte-per-s 1.9 --gflops 200 --tokens 1024

Prints the tables of docs/scaling.md. The second is of machines of one process each, of so many 1e9 flops per second that
are reached, on a network of these alpha and 1 / beta: bench/exchange.py measures them.
"""
import argparse
import math

RANKS = (1, 8, 64, 1024)
NODE = 8  # GPUs with NVLink to each other, and with a network adapter each

# Published: https://glennklockwood.com/garden/processors/h100 (989.4e12 dense bf16 flop/s, 900e9 bytes/s of NVLink both ways
# together, 80 GB) and https://alpha-one-index.github.io/ai-infra-index/specs/networking-interconnects.html (18 links of
# 50e9 bytes/s both ways together; NDR: 400e9 bit/s each way).
PEAK_FLOPS = 989.4e12
NVLINK = 450e9
INFINIBAND = 50e9
MEMORY = 80e9
# Assumed: the share of them that is reached, and the cost of a message.
FLOPS_SHARE = 0.4
LINK_SHARE = 0.8
NVLINK_ALPHA = 1e-6
INFINIBAND_ALPHA = 2e-6
TOKENS = 8 * 2048  # of a rank's step: 8 rows of 2,048
SEQ_LEN = 2048
BUCKET = 8 << 20

# name: parameters, layers, width, vocabulary
MODELS = {
    "minimind-26m": (25_829_888, 8, 512, 6400),
    "minimind-104m": (104_030_976, 16, 768, 6400),
    "minimind-1b": (1_017_202_688, 20, 2048, 6400),
    "7b": (6_738_415_616, 32, 4096, 32000),
}


class H100s:
    flops, tokens, seq_len = FLOPS_SHARE * PEAK_FLOPS, TOKENS, SEQ_LEN

    @staticmethod
    def flat(ranks, size):
        """One all_to_all, or one all_gather, over all ranks: both networks at once, each message by itself."""
        near, far = min(NODE, ranks) - 1, max(0, ranks - NODE)
        return max(near * NVLINK_ALPHA + size * near / ranks / (LINK_SHARE * NVLINK),
                   far * INFINIBAND_ALPHA + size * far / ranks / (LINK_SHARE * INFINIBAND))

    @classmethod
    def hierarchical(cls, ranks, size):
        """The same within nodes first, then between ranks of the same number in their nodes."""
        if ranks <= NODE:
            return cls.flat(ranks, size)
        nodes = ranks // NODE
        within = (NODE - 1) * NVLINK_ALPHA + size * (NODE - 1) / NODE / (LINK_SHARE * NVLINK)
        between = (nodes - 1) * INFINIBAND_ALPHA + size / NODE * (nodes - 1) / nodes / (LINK_SHARE * INFINIBAND)
        return within + between

    def collectives(self, ranks):
        return [self.flat, self.hierarchical] if ranks > NODE else [self.flat]


class MeasuredMachines:
    """One rank each, with a link each."""

    def __init__(self, arguments):
        self.alpha, self.bytes_per_s = 1e-6 * arguments.latency_us, 1e9 * arguments.gbyte_per_s
        self.flops, self.tokens = 1e9 * arguments.gflops, arguments.tokens
        self.seq_len = min(SEQ_LEN, arguments.tokens)

    def flat(self, ranks, size):
        return (ranks - 1) * self.alpha + size * (ranks - 1) / ranks / self.bytes_per_s

    def collectives(self, ranks):
        return [self.flat]


def compute_seconds(machines, parameters, layers, width):
    """Of a step without exchange: a multiply-add counts two, the backward pass twice the forward pass."""
    per_token = 6 * parameters + 12 * layers * width * machines.seq_len
    return per_token * machines.tokens / machines.flops


def step_seconds(compute, model, ranks, shard, width_of_gradient, collective):
    parameters, layers, width, vocabulary = MODELS[model]
    if ranks == 1:
        return compute
    # A bucket is 8 MiB of fp32 gradients or a larger matrix; the embedding, complete last, is one by itself or more.
    buckets = min(math.ceil(4 * parameters / BUCKET), 7 * layers + 1)
    last = max(BUCKET / 4, vocabulary * width) * width_of_gradient
    ways = 1 if shard in ("gradients", "parameters") else 2  # all_to_all of pieces; all_gather of their sums
    gradients = ways * buckets * collective(ranks, parameters * width_of_gradient / buckets)
    weights = 0 if shard == "none" else buckets * collective(ranks, 4 * parameters / buckets)
    if shard == "parameters":  # all weights twice, one block ahead, beside blocks that are computed again
        again = 4 / 3 * compute
        exposed = ways * collective(ranks, last) + 2 * weights / buckets
        return again + max(exposed, gradients + 2 * weights - (1 - 1 / buckets) * again)
    hidden_by = 2 / 3 * compute
    # The first bucket is complete when its part of the backward pass is over.
    return compute + max(ways * collective(ranks, last), gradients - (1 - 1 / buckets) * hidden_by) + weights


def state_bytes(model, ranks, shard):
    """fp32 weights, gradients and two moments; activations are not counted."""
    parameters, layers, width, vocabulary = MODELS[model]
    outside = vocabulary * width
    in_use = outside + 2 * (parameters - outside) / layers  # the embedding and two blocks
    own = {"none": (1, 1, 1), "optimizer": (1, 1, ranks), "gradients": (1, ranks, ranks),
           "parameters": (ranks, ranks, ranks)}[shard]
    brought = in_use if shard == "parameters" and ranks > 1 else 0
    return parameters * (4 / own[0] + 4 / own[1] + 8 / own[2]) + 4 * brought


def cell(machines, model, ranks, shard, gradient):
    parameters, layers, width, _ = MODELS[model]
    if state_bytes(model, ranks, shard) > MEMORY:
        return "too large"
    alone = compute_seconds(machines, parameters, layers, width)
    return " / ".join(f"{100 * alone / step_seconds(alone, model, ranks, shard, gradient, how):.0f}"
                      for how in machines.collectives(ranks)) + " %"


def print_table(machines):
    print("| model | step of one, ms | shard | gradients travel in | " + " | ".join(f"{r:,}" for r in RANKS) + " |")
    print("|---" * (4 + len(RANKS)) + "|")
    for model, (parameters, layers, width, _) in MODELS.items():
        alone = 1e3 * compute_seconds(machines, parameters, layers, width)
        for shard in ("none", "optimizer", "gradients", "parameters"):
            for name, gradient in (("fp32", 4), ("bf16", 2)):
                cells = " | ".join(cell(machines, model, ranks, shard, gradient) for ranks in RANKS)
                print(f"| {model} | {alone:.1f} | {shard} | {name} | {cells} |")


def main():
    parser = argparse.ArgumentParser()
    for name in ("--latency-us", "--gbyte-per-s", "--gflops"):
        parser.add_argument(name, type=float)
    parser.add_argument("--tokens", type=int, default=TOKENS)
    arguments = parser.parse_args()
    measured = [arguments.latency_us, arguments.gbyte_per_s, arguments.gflops]
    if any(measured) and not all(measured):
        parser.error("--latency-us, --gbyte-per-s and --gflops go together")
    print_table(MeasuredMachines(arguments) if all(measured) else H100s())


if __name__ == "__main__":
    main()
