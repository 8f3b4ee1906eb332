# SPDX-License-Identifier: Apache-2.0
"""LoRA as the library PEFT trains it, beside the small models of make_families_golden.py.

    pip install torch==2.15.0 transformers safetensors peft
    python make_lora_golden.py

reads families/NAME.safetensors and writes, for each name in ADAPTERS, lora/NAME/adapter_config.json
and adapter_model.safetensors as PeftModel.save_pretrained() does after ten steps, and
lora/NAME.safetensors with

    start.NAME        fp32, the adapter before the first step: A random, B zero; by PEFT's names
    ids               int64 (2, 2, 13), the batches of odd and even steps: inputs are [..., :-1], targets [..., 1:]
    RECIPE.losses     fp64 (10), mean cross entropy of the targets
    RECIPE.grad_norms fp64 (10), of all gradients together, before they are clipped to 1
    logits            fp32 (2, 12, V), by the trained adapter, of the first batch
    grads.NAME        fp32, gradients of that batch's loss by the trained adapter

Its metadata has "config", the config.json of the model. RECIPE is 32-true, or bf16-mixed for torch.autocast. What is saved is the adapter of 32-true.
"""
import json
import pathlib

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoConfig, LlamaForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM

FOLDER = pathlib.Path(__file__).parent
CLASSES = {"llama": LlamaForCausalLM, "qwen2": Qwen2ForCausalLM, "qwen3": Qwen3ForCausalLM}
ADAPTERS = {
    "llama": dict(r=4, lora_alpha=6, target_modules="all-linear"),
    "qwen2": dict(r=2, lora_alpha=3, target_modules=["q_proj", "k_proj", "v_proj"], use_rslora=True),
    "qwen3": dict(r=3, lora_alpha=6, target_modules=["q_proj", "k_proj", "down_proj"]),
}
STEPS, LR = 10, 1e-2


def base_config(name):
    with safe_open(FOLDER / "families" / f"{name}.safetensors", "pt") as file:
        return json.loads(file.metadata()["config"])


def base_model(name):
    with safe_open(FOLDER / "families" / f"{name}.safetensors", "pt") as file:
        weights = {key.removeprefix("weights."): file.get_tensor(key) for key in file.keys()
                   if key.startswith("weights.")}
    config = AutoConfig.for_model(**base_config(name))
    config._attn_implementation = "eager"
    model = CLASSES[name](config)
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}, (missing, unexpected)
    model.tie_weights()
    return model


def loss_of(model, ids):
    logits = model(input_ids=ids[:, :-1]).logits
    return torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten()), logits


def trained(name, start, ids, mixed):
    model = get_peft_model(base_model(name), LoraConfig(**ADAPTERS[name], task_type="CAUSAL_LM"))
    if start:
        set_peft_model_state_dict(model, start)
    start = {key: value.clone() for key, value in get_peft_model_state_dict(model).items()}
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=LR, weight_decay=0.01)
    losses, norms = [], []
    for step in range(STEPS):
        batch = ids[step % 2]
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            loss, _ = loss_of(model, batch)
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(parameters, 1.0).item())
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return model, start, torch.tensor(losses, dtype=torch.float64), torch.tensor(norms, dtype=torch.float64)


def main():
    for name in ADAPTERS:
        torch.manual_seed(11)
        ids = torch.randint(1, 61, (2, 2, 13))
        model, start, losses, norms = trained(name, None, ids, mixed=False)
        tensors = {f"start.{key}": value for key, value in start.items()}
        tensors |= {"ids": ids, "32-true.losses": losses, "32-true.grad_norms": norms}
        _, _, tensors["bf16-mixed.losses"], tensors["bf16-mixed.grad_norms"] = trained(name, start, ids, mixed=True)
        loss, logits = loss_of(model, ids[0])
        loss.backward()
        tensors["logits"] = logits.detach()
        for key, parameter in model.named_parameters():
            if parameter.requires_grad:
                tensors["grads." + key.replace(".default", "")] = parameter.grad
        folder = FOLDER / "lora" / name
        model.save_pretrained(folder)
        (folder / "README.md").unlink(missing_ok=True)
        save_file({key: value.contiguous() for key, value in tensors.items()},
                  FOLDER / "lora" / f"{name}.safetensors",
                  {"config": json.dumps(base_config(name))})
        print(name, losses[0].item(), losses[-1].item(), norms.tolist()[:3])


if __name__ == "__main__":
    main()
