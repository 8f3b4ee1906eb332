# SPDX-License-Identifier: Apache-2.0
"""First losses and gradient norms of models on which the rounding of each format shows.

    pip install torch==2.15.0 safetensors==0.8.0 numpy
    python make_precision_golden.py

writes precision_dense.safetensors, precision_moe.safetensors and precision_module.safetensors
beside this file. Each holds

    base.NAME, factor.NAME     bf16 and fp32 scalar: the parameter NAME is their product in fp32
    losses, grad_norms         fp64 (7): of the first step, in the order of RECIPES
    ids, mask                  int64 (B, T + 1), (B, T): of the language models, MiniMind V2
    x, y                       fp32 (B, 64), (B, 16): of the module

The weights are made so that a format loses what another keeps:

    bf16    magnitudes just below the middle between two bf16 numbers: all are rounded towards zero
    fp16    value projections below half of fp16's smallest number, then a large output projection;
            their signs go down the gradient, so that the loss tells whether they are there
    int8    rows with one huge entry, which multiplies zeros: all others are rounded to zero
    -true   a last norm just below the middle between two numbers of fp16, hence far from bf16's,
            which only the -true recipes round

PyTorch computes all recipes but two. int8-mixed is written down here in fp64: both inputs of a
matmul in integers with a scale for each row, gradients rounded stochastically. fp8-mixed is
bf16-mixed whose layers, but for the head and the router, take x and W in PyTorch's e4m3 and the
gradient in its e5m2, where x's gradient is computed.
"""
import contextlib
import json
import pathlib

import torch
import torch.nn.functional as F
from make_minimind_golden import DENSE, MOE, MiniMind, loss_of
from safetensors.torch import save_file
from torch import nn

RECIPES = ["32-true", "bf16-mixed", "bf16-true", "16-mixed", "16-true", "int8-mixed", "fp8-mixed"]
BATCH, LENGTH = 4, 64
BELOW_BF16_MIDDLE = 1 + 2**-8 - 2**-13
BELOW_FP16_MIDDLE = 1 + 3 * 2**-10 + 2**-11 - 2**-15
FLUSHED_BY_FP16 = 0.98  # times 2^-25
HUGE = 128.0
INT8_LARGEST = 127


def quantized(matrix, stochastic=False):
    """Rows in integers up to INT8_LARGEST, times their scales."""
    scale = matrix.abs().amax(-1, keepdim=True).clamp_min(1e-30) / INT8_LARGEST
    integers = matrix / scale
    integers = (integers + torch.rand_like(integers)).floor() if stochastic else integers.round()
    return integers.clamp(-INT8_LARGEST, INT8_LARGEST) * scale


class Int8Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        return quantized(x) @ quantized(weight).T

    @staticmethod
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensors
        g, rows = gradient.flatten(0, -2), x.flatten(0, -2)
        dx = quantized(g, stochastic=True) @ quantized(weight.T).T
        dw = quantized(g.T, stochastic=True) @ quantized(rows.T).T
        return dx.view(x.shape), dw


def in_fp8(matrix, dtype):
    """The matrix in that format, scaled by the largest power of two that fits, in fp32."""
    largest = torch.finfo(dtype).max
    scale = torch.exp2(torch.floor(torch.log2(largest / matrix.float().abs().max())))
    return (matrix.float() * scale).clamp(-largest, largest).to(dtype).float() / scale


class Float8Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight):
        with torch.autocast("cpu", enabled=False):
            rows, w = x.bfloat16(), in_fp8(weight, torch.float8_e4m3fn)
            ctx.save_for_backward(rows, w)
            ctx.dtype = x.dtype
            return (in_fp8(rows, torch.float8_e4m3fn) @ w.T).bfloat16()

    @staticmethod
    def backward(ctx, gradient):
        x, w = ctx.saved_tensors
        dx = (in_fp8(gradient, torch.float8_e5m2) @ w).bfloat16()
        dw = gradient.flatten(0, -2).float().T @ x.flatten(0, -2).float()
        return dx.to(ctx.dtype), dw


@contextlib.contextmanager
def linears_of(layer, left_out):
    """All linear layers go through `layer`, but for those of whose weight left_out() is true."""
    plain = F.linear
    F.linear = lambda x, w, b=None: plain(x, w) if left_out(w) else layer.apply(x, w)
    try:
        yield
    finally:
        F.linear = plain


def first_step(model, loss_of_model, recipe, router_rows=None):
    """Loss and norm of all gradients of `model`, in fp32 weights, at a loss scale of 1."""
    torch.manual_seed(1)
    autocast = {"bf16-mixed": torch.bfloat16, "fp8-mixed": torch.bfloat16,
                "16-mixed": torch.float16}.get(recipe)
    dtype = {"bf16-true": torch.bfloat16, "16-true": torch.float16,
             "int8-mixed": torch.float64}.get(recipe, torch.float32)
    model = model.to(dtype)
    head = dict(model.named_parameters()).get("tok_embeddings.weight")
    with contextlib.ExitStack() as contexts:
        if autocast:
            contexts.enter_context(torch.autocast("cpu", autocast))
        if recipe == "int8-mixed":
            contexts.enter_context(linears_of(Int8Linear, lambda w: w.shape[0] == router_rows))
        if recipe == "fp8-mixed":
            contexts.enter_context(
                linears_of(Float8Linear, lambda w: w.shape[0] == router_rows or w is head))
        loss = loss_of_model(model, dtype)
        if recipe == "int8-mixed":
            loss.backward()
    if recipe != "int8-mixed":
        loss.backward()
    gradients = [p.grad.double().norm() for p in model.parameters()]
    return loss.item(), torch.stack(gradients).norm().item()


class Weights:
    """Parameters as base times factor."""

    def __init__(self, seed):
        self.generator = torch.Generator().manual_seed(seed)
        self.base, self.factor = {}, {}

    def set(self, name, base, factor=1.0):
        self.base[name], self.factor[name] = base.bfloat16(), torch.tensor(factor)
        assert torch.equal(base.bfloat16().float(), base)

    def signs(self, shape):
        return torch.randint(0, 2, shape, generator=self.generator).float() * 2 - 1

    def powers(self, shape, low, high):
        """Plus or minus powers of two from 2^low to below 2^high."""
        exponents = torch.randint(low, high, shape, generator=self.generator).float()
        return self.signs(shape) * torch.exp2(exponents)

    def state_dict(self):
        return {name: base.float() * self.factor[name] for name, base in self.base.items()}

    def tensors(self):
        return ({f"base.{name}": value for name, value in self.base.items()}
                | {f"factor.{name}": value for name, value in self.factor.items()})


def language_model_weights(config, seed):
    weights = Weights(seed)
    for name, like in MiniMind(config).state_dict().items():
        shape, last = like.shape, name.split(".")[-2]
        if name == "norm.weight":
            weights.set(name, torch.ones(shape), BELOW_FP16_MIDDLE)
        elif last.endswith("norm"):
            weights.set(name, torch.ones(shape))
        elif last == "gate":
            weights.set(name, torch.randn(shape, generator=weights.generator)
                        .mul(0.1).bfloat16().float())
        elif last == "wv":
            weights.set(name, weights.signs(shape) * 2.0**-25, FLUSHED_BY_FP16)
        elif last == "wo":
            weights.set(name, weights.powers(shape, 13, 14), BELOW_BF16_MIDDLE)
        elif last == "tok_embeddings":
            weights.set(name, weights.powers(shape, -2, 0), BELOW_BF16_MIDDLE)
        else:
            base = weights.powers(shape, -4, -2)
            if last in ("w1", "w3"):
                base[0] = 0.0  # what the huge entries of w2 multiply
            if last == "w2":
                base[:, 0] = HUGE
            weights.set(name, base, BELOW_BF16_MIDDLE)
    return weights


def make_language_model(config, seed):
    config = dict(config, vocab_size=64)
    weights = language_model_weights(config, seed)
    ids = torch.randint(3, config["vocab_size"], (BATCH, LENGTH + 1), generator=weights.generator)
    mask = torch.ones(BATCH, LENGTH, dtype=torch.int64)

    def model_of():
        model = MiniMind(config)
        model.load_state_dict(weights.state_dict())
        return model

    def loss(model, _dtype):
        _, ce, aux = loss_of(model, ids, mask)
        return ce + aux

    model = model_of()
    loss(model, None).backward()
    for key, parameter in model.named_parameters():
        if key.endswith("wv.weight"):
            weights.set(key, -torch.sign(parameter.grad) * 2.0**-25, FLUSHED_BY_FP16)
    router = config["n_routed_experts"] if config["use_moe"] else None
    steps = [first_step(model_of(), loss, recipe, router) for recipe in RECIPES]
    return steps, weights.tensors() | {"ids": ids, "mask": mask}, config


class Module(nn.Module):
    """Four branches; in each, one format loses something."""

    def __init__(self):
        super().__init__()
        self.middle = nn.Linear(64, 16, bias=False)
        self.small = nn.Linear(64, 32, bias=False)
        self.large = nn.Linear(32, 16, bias=False)
        self.rows = nn.Linear(64, 16, bias=False)
        self.scale = nn.Parameter(torch.ones(16))

    def forward(self, x):
        return (self.middle(x) + self.large(self.small(x)) + self.rows(x)) * self.scale


def make_module(seed):
    weights = Weights(seed)
    weights.set("middle.weight", weights.powers((16, 64), -4, -2).abs(), BELOW_BF16_MIDDLE)
    weights.set("small.weight", torch.full((32, 64), 2.0**-25), FLUSHED_BY_FP16)
    weights.set("large.weight", torch.full((16, 32), 2.0**12))
    rows = weights.powers((16, 64), -4, -2).abs()
    rows[:, 0] = HUGE
    weights.set("rows.weight", rows)
    weights.set("scale", torch.ones(16), BELOW_FP16_MIDDLE)
    x = torch.randint(1, 8, (BATCH, 64), generator=weights.generator).float() / 8
    x[:, 0] = 0.0
    y = torch.zeros(BATCH, 16)

    def model_of():
        model = Module()
        model.load_state_dict(weights.state_dict())
        return model

    def loss(model, dtype):
        return F.mse_loss(model(x.to(dtype)).to(torch.promote_types(dtype, torch.float32)),
                          y.to(torch.promote_types(dtype, torch.float32)))

    steps = [first_step(model_of(), loss, recipe) for recipe in RECIPES]
    return steps, weights.tensors() | {"x": x, "y": y}, {}


def write(name, made):
    steps, tensors, config = made
    losses, norms = torch.tensor(steps, dtype=torch.float64).T
    for i, recipe in enumerate(RECIPES):
        others = [j for j in range(len(RECIPES)) if j != i]
        gap = min(abs(losses[i] - losses[j]).item() for j in others)
        norm_gap = min(abs(norms[i] - norms[j]).item() / norms[i].item() for j in others)
        print(f"{name:7s} {recipe:11s} loss {losses[i]:.6f} (next {gap:.6f}) "
              f"norm {norms[i]:.6g} (next {100 * norm_gap:.3f} %)")
    tensors = tensors | {"losses": losses, "grad_norms": norms}
    metadata = {"torch": torch.__version__, "command": "python make_precision_golden.py",
                "recipes": json.dumps(RECIPES), "config": json.dumps(config)}
    path = pathlib.Path(__file__).parent / f"precision_{name}.safetensors"
    save_file({key: value.contiguous() for key, value in tensors.items()}, path, metadata)


if __name__ == "__main__":
    torch.set_num_threads(1)
    write("dense", make_language_model(DENSE, seed=1))
    write("moe", make_language_model(MOE, seed=4))
    write("module", make_module(seed=1))
