# SPDX-License-Identifier: Apache-2.0
"""Ten optimizer steps of a small MiniMind (generations V2 and V3) in plain PyTorch, as a reference.

    pip install torch==2.15.0 safetensors==0.8.0 numpy
    python make_minimind_golden.py

writes minimind_{dense,moe,v3_dense,v3_moe}.safetensors beside this file. Each holds

    weights.NAME               bf16, the initial parameters (their fp32 values are exact in bf16)
    batches.ids                int64 (20, 2, 33): inputs are [..., :-1], targets [..., 1:]
    batches.mask               int64 (20, 2, 32), of the targets
    logits                     fp32 (2, 32, V), of the first micro-batch, 32-true
    grads.NAME                 fp32, gradient of loss + aux of the first micro-batch, layer 0
    grad_norms                 fp32, norms of all of its gradients, in the order of sorted names
    first_loss, first_aux      fp32 scalars of the first micro-batch, 32-true
    RECIPE.losses, .lrs, .grad_norms, .scales   fp64 (10), for 32-true, bf16-mixed, 16-mixed

and in its metadata the model's configuration and the recipe of the training. The recipe is
MiniMind's: the learning rate follows every micro-step, gradients of two micro-batches are summed,
the loss is divided by two, clipping at norm 1, AdamW with weight decay 0.01. The precision is the
one that is meant there: autocast in the asked dtype, router, softmax and loss in fp32, a gradient
scaler for fp16 only.
"""
import contextlib
import functools
import json
import math
import pathlib

import torch
import torch.nn.functional as F
from torch import nn

LR, STEPS, ACCUMULATE, CLIP = 2e-3, 10, 2, 1.0
BATCH, LENGTH = 2, 32
DENSE = dict(dim=64, n_layers=2, n_heads=4, n_kv_heads=2, hidden_dim=96, vocab_size=200,
             max_seq_len=64, norm_eps=1e-5, rope_theta=1e6, use_moe=False)
MOE = dict(DENSE, hidden_dim=32, use_moe=True, n_routed_experts=4, num_experts_per_tok=2,
           n_shared_experts=1, aux_loss_alpha=0.1)
V3 = dict(DENSE, generation="v3", head_dim=24, norm_eps=1e-6)
V3_MOE = dict(V3, hidden_dim=32, use_moe=True, n_routed_experts=4, num_experts_per_tok=1,
              n_shared_experts=0, aux_loss_alpha=0.05)


def is_v3(c):
    return c.get("generation") == "v3"


class Norm(nn.Module):
    def __init__(self, dim, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(dim)), eps

    def forward(self, x):
        wide = x.float()
        scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return (wide * scale).to(x.dtype) * self.weight


class HeadNorm(Norm):
    """V3's, of queries and keys: rounded behind the weight."""
    def forward(self, x):
        wide = x.float()
        scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return (wide * scale * self.weight.float()).to(x.dtype)


def rotate(x, angles):
    """x (B, T, H, d), angles (T, d / 2): turns the pairs (2i, 2i + 1)."""
    even, odd = x.float()[..., 0::2], x.float()[..., 1::2]
    cos, sin = angles.cos()[:, None, :], angles.sin()[:, None, :]
    turned = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1)
    return turned.flatten(-2).to(x.dtype)


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.hd = c.get("head_dim") or c["dim"] // c["n_heads"]
        self.repeat = c["n_heads"] // c["n_kv_heads"]
        self.wq = nn.Linear(c["dim"], c["n_heads"] * self.hd, bias=False)
        self.wk = nn.Linear(c["dim"], c["n_kv_heads"] * self.hd, bias=False)
        self.wv = nn.Linear(c["dim"], c["n_kv_heads"] * self.hd, bias=False)
        self.wo = nn.Linear(c["n_heads"] * self.hd, c["dim"], bias=False)
        if is_v3(c):
            self.q_norm, self.k_norm = (HeadNorm(self.hd, c["norm_eps"]) for _ in range(2))
            with torch.no_grad():  # ones would hide an exchange of the two
                self.q_norm.weight.uniform_(0.5, 1.5)
                self.k_norm.weight.uniform_(0.5, 1.5)

    def forward(self, x, angles):
        q, k, v = (w(x).unflatten(-1, (-1, self.hd)) for w in (self.wq, self.wk, self.wv))
        if hasattr(self, "q_norm"):
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = rotate(q, angles), rotate(k, angles)
        k, v = (t.repeat_interleave(self.repeat, dim=2) for t in (k, v))
        out = F.scaled_dot_product_attention(*(t.transpose(1, 2) for t in (q, k, v)), is_causal=True)
        return self.wo(out.transpose(1, 2).flatten(2))


class Dense(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.w1 = nn.Linear(c["dim"], c["hidden_dim"], bias=False)
        self.w2 = nn.Linear(c["hidden_dim"], c["dim"], bias=False)
        self.w3 = nn.Linear(c["dim"], c["hidden_dim"], bias=False)

    def forward(self, x):
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class Experts(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        self.experts = nn.ModuleList(Dense(c) for _ in range(c["n_routed_experts"]))
        self.gate = nn.Linear(c["dim"], c["n_routed_experts"], bias=False)
        if c["n_shared_experts"]:
            self.shared_experts = Dense(c)

    def forward(self, x):
        c, (batch, length, dim) = self.c, x.shape
        n, k = c["n_routed_experts"], c["num_experts_per_tok"]
        with torch.autocast(x.device.type, enabled=False):
            scores = F.linear(x.float(), self.gate.weight.float()).softmax(-1)
        weights, chosen = scores.topk(k, dim=-1)
        weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
        # Every expert sees every token here; what was not chosen is weighted with 0.
        y = self.shared_experts(x).float() if c["n_shared_experts"] else torch.zeros_like(x)
        for e, expert in enumerate(self.experts):
            weight = (weights * (chosen == e)).sum(-1, keepdim=True)
            y = y + weight * expert(x).float()
        if is_v3(c):  # over all tokens of the batch, not divided by k
            load = F.one_hot(chosen, n).sum(-2).float().mean((0, 1))
            self.aux = c["aux_loss_alpha"] * n * (load * scores.mean((0, 1))).sum()
        else:
            load = F.one_hot(chosen.flatten(1), n).sum(1).float() * (n / (length * k))
            self.aux = c["aux_loss_alpha"] * (load * scores.mean(1)).sum(-1).mean()
        return y.to(x.dtype)


class Layer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.attention = Attention(c)
        self.attention_norm = Norm(c["dim"], c["norm_eps"])
        self.ffn_norm = Norm(c["dim"], c["norm_eps"])
        self.feed_forward = Experts(c) if c["use_moe"] else Dense(c)

    def forward(self, x, angles):
        h = x + self.attention(self.attention_norm(x), angles)
        return h + self.feed_forward(self.ffn_norm(h))


class MiniMind(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        self.tok_embeddings = nn.Embedding(c["vocab_size"], c["dim"])
        self.layers = nn.ModuleList(Layer(c) for _ in range(c["n_layers"]))
        self.norm = Norm(c["dim"], c["norm_eps"])
        bound = c["dim"] ** -0.5
        nn.init.uniform_(self.tok_embeddings.weight, -bound, bound)

    def forward(self, ids):
        c = self.c
        hd = c.get("head_dim") or c["dim"] // c["n_heads"]
        numbers = functools.partial(torch.arange, device=ids.device)
        frequencies = 1.0 / c["rope_theta"] ** (numbers(0, hd, 2).float() / hd)
        angles = torch.outer(numbers(ids.shape[1]).float(), frequencies)
        x = self.tok_embeddings(ids)
        for layer in self.layers:
            x = layer(x, angles)
        aux = sum(layer.feed_forward.aux for layer in self.layers) if c["use_moe"] else x.new_zeros(())
        return F.linear(self.norm(x), self.tok_embeddings.weight), aux


def loss_of(model, ids, mask):
    logits, aux = model(ids[:, :-1])
    each = F.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    mask = mask.flatten().float()
    return logits, (each * mask).sum() / mask.sum(), aux


def make_batches(vocab):
    """Sequences with something to learn: each id follows from the one before, with some noise."""
    shape = (STEPS * ACCUMULATE, BATCH, LENGTH + 1)
    ids = torch.randint(3, vocab, shape)
    follows = torch.randperm(vocab - 3) + 3
    for t in range(1, LENGTH + 1):
        guess = follows[ids[..., t - 1] - 3]
        ids[..., t] = torch.where(torch.rand(shape[:2]) < 0.9, guess, ids[..., t])
    lengths = torch.randint(LENGTH // 2, LENGTH + 1, shape[:2])
    mask = (torch.arange(LENGTH) < lengths[..., None]).long()
    ids[..., 1:] *= mask
    return ids, mask


def train(config, weights, ids, mask, dtype):
    model = MiniMind(config)
    model.load_state_dict(weights)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.01)
    scaler = torch.amp.GradScaler("cpu", enabled=dtype == torch.float16)
    mixed = dtype != torch.float32
    record = {key: [] for key in ("losses", "lrs", "grad_norms", "scales")}
    micro_steps, total = STEPS * ACCUMULATE, 0.0
    for s in range(micro_steps):
        lr = LR / 10 + LR / 2 * (1 + math.cos(math.pi * s / micro_steps))
        optimizer.param_groups[0]["lr"] = lr
        with torch.autocast("cpu", dtype) if mixed else contextlib.nullcontext():
            _, ce, aux = loss_of(model, ids[s], mask[s])
        loss = ce + aux
        total += loss.item() / ACCUMULATE
        scaler.scale(loss / ACCUMULATE).backward()
        if (s + 1) % ACCUMULATE == 0:
            scaler.unscale_(optimizer)
            record["grad_norms"].append(nn.utils.clip_grad_norm_(model.parameters(), CLIP).item())
            record["scales"].append(scaler.get_scale())
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad(set_to_none=True)
            record["losses"].append(total)
            record["lrs"].append(lr)
            total = 0.0
    return {key: torch.tensor(values, dtype=torch.float64) for key, values in record.items()}


def make(name, config):
    from safetensors.torch import save_file  # only the goldens need it: the benchmarks use the model
    torch.manual_seed(20250223)
    model = MiniMind(config)
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16().float()
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    ids, mask = make_batches(config["vocab_size"])
    logits, ce, aux = loss_of(model, ids[0], mask[0])
    (ce + aux).backward()
    grads = {key: p.grad for key, p in sorted(model.named_parameters())}
    tensors = {f"weights.{key}": value.bfloat16() for key, value in weights.items()}
    tensors |= {f"grads.{key}": value for key, value in grads.items() if key.startswith("layers.0.")}
    tensors |= {"batches.ids": ids, "batches.mask": mask, "logits": logits.detach(),
                "first_loss": ce.detach(), "first_aux": aux.detach(),
                "grad_norms": torch.stack([value.norm() for value in grads.values()])}
    recipes = {"32-true": torch.float32, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
    for recipe, dtype in recipes.items():
        record = train(config, weights, ids, mask, dtype)
        tensors |= {f"{recipe}.{key}": value for key, value in record.items()}
        print(name, recipe, [f"{x:.4f}" for x in record["losses"].tolist()])
    metadata = {"torch": torch.__version__, "command": "python make_minimind_golden.py",
                "config": json.dumps(config),
                "training": json.dumps(dict(lr=LR, steps=STEPS, accumulate=ACCUMULATE, clip=CLIP,
                                            weight_decay=0.01, schedule="minimind"))}
    path = pathlib.Path(__file__).parent / f"minimind_{name}.safetensors"
    save_file({key: value.contiguous() for key, value in tensors.items()}, path, metadata)


if __name__ == "__main__":
    torch.set_num_threads(1)
    make("dense", DENSE)
    make("moe", MOE)
    make("v3_dense", V3)
    make("v3_moe", V3_MOE)
