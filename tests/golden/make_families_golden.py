# SPDX-License-Identifier: Apache-2.0
"""Small random models of transformers' classes, as references for models/families.

    pip install torch==2.15.0 transformers safetensors
    python make_families_golden.py

writes families/NAME.safetensors beside this file for each class below. Each holds

    weights.NAME    fp32 (exact in bf16), by the names of transformers
    grads.NAME      fp32, gradients of loss + aux_loss
    ids             int64 (2, 13): inputs are [..., :-1], targets [..., 1:]
    logits          fp32 (2, 12, V)
    loss            fp32, mean cross entropy of the targets
    aux_loss        fp32, MiniMind V3's balance loss over all layers; 0 for a dense model

and in its metadata "config", the config.json that transformers writes.
"""
import json
import pathlib

import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import save_file
from transformers import (LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config,
                          Qwen3ForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM)

SIZES = dict(vocab_size=61, hidden_size=24, intermediate_size=40, num_hidden_layers=2,
             num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
             rms_norm_eps=1e-6, rope_theta=10000.0, attn_implementation="eager")
EXPERTS = dict(num_experts=4, moe_intermediate_size=16, norm_topk_prob=True,
               router_aux_loss_coef=0.05, decoder_sparse_step=1, mlp_only_layers=[])
MODELS = {
    "llama": (LlamaForCausalLM, LlamaConfig(**SIZES, tie_word_embeddings=False)),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config(**SIZES, tie_word_embeddings=True)),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config(**SIZES, head_dim=8, tie_word_embeddings=True)),
    "qwen3_moe_1": (Qwen3MoeForCausalLM, Qwen3MoeConfig(**SIZES, **EXPERTS, head_dim=8,
                                                        num_experts_per_tok=1,
                                                        tie_word_embeddings=True)),
    "qwen3_moe_2": (Qwen3MoeForCausalLM, Qwen3MoeConfig(**SIZES, **EXPERTS, head_dim=8,
                                                        num_experts_per_tok=2,
                                                        tie_word_embeddings=False)),
}


def randomise(model):
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            base = 1.0 if "norm" in name else 0.0
            scale = 0.3 if parameter.dim() == 1 else 1.5 * parameter.shape[-1] ** -0.5
            parameter.copy_((base + scale * noise).bfloat16().float())


def aux_loss(router_logits, config):
    """MiniMind V3's: coefficient * E * sum_e (choices of e per token) * (mean score of e)."""
    total = torch.zeros(())
    for logits in router_logits:
        scores = logits.reshape(-1, config.num_experts).softmax(-1)
        chosen = scores.topk(config.num_experts_per_tok, dim=-1).indices
        load = F.one_hot(chosen, config.num_experts).float().sum(1).mean(0)
        total = total + (load * scores.mean(0)).sum() * config.num_experts
    return config.router_aux_loss_coef * total


def split_experts(tensors):
    """transformers 5 stacks the experts; its files, and other versions, hold them one by one."""
    result = {}
    for name, tensor in tensors.items():
        if name.endswith(".experts.gate_up_proj"):
            for e, both in enumerate(tensor):
                gate, up = both.chunk(2)
                stem = name.removesuffix("gate_up_proj") + str(e)
                result[f"{stem}.gate_proj.weight"], result[f"{stem}.up_proj.weight"] = gate, up
        elif name.endswith(".experts.down_proj"):
            for e, down in enumerate(tensor):
                result[name.removesuffix("down_proj") + f"{e}.down_proj.weight"] = down
        else:
            result[name] = tensor
    return {name: tensor.detach().clone().contiguous() for name, tensor in result.items()}


def router_logits_of(model, run):
    """What each router's linear layer gives, caught where it multiplies."""
    found, handles = [], []
    for name, module in model.named_modules():
        if not name.endswith("mlp.gate"):
            continue
        handles.append(module.register_forward_hook(
            lambda m, i, o: found.append(F.linear(i[0].reshape(-1, m.weight.shape[1]), m.weight))))
    result = run()
    for handle in handles:
        handle.remove()
    return result, found


def main():
    folder = pathlib.Path(__file__).parent / "families"
    folder.mkdir(exist_ok=True)
    for name, (cls, config) in MODELS.items():
        torch.manual_seed(1)
        model = cls(config).float().eval()
        randomise(model)
        ids = torch.randint(config.vocab_size, (2, 13))
        output, routers = router_logits_of(model, lambda: model(input_ids=ids[:, :-1]))
        loss = F.cross_entropy(output.logits.flatten(0, 1), ids[:, 1:].flatten())
        aux = aux_loss(routers, config) if routers else torch.zeros(())
        (loss + aux).backward()
        tensors = {"ids": ids, "logits": output.logits.detach().contiguous(),
                   "loss": loss.detach(), "aux_loss": aux.detach()}
        parameters = dict(model.named_parameters())
        weights = split_experts(parameters)
        grads = split_experts({k: p.grad for k, p in parameters.items()})
        tensors |= {f"weights.{k}": v for k, v in weights.items()}
        tensors |= {f"grads.{k}": v for k, v in grads.items()}
        text = json.loads(config.to_json_string(use_diff=False))
        text["architectures"] = [cls.__name__]
        save_file(tensors, folder / f"{name}.safetensors", {"config": json.dumps(text)})
        print(name, "loss", loss.item(), "aux", aux.item(), "transformers", transformers.__version__)


if __name__ == "__main__":
    main()
