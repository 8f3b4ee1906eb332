#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Greedy generation by transformers' LlamaForCausalLM of the same shape, for bench/compare/generate.py.

    transformers_generate.py PRESET RECIPE PROMPT NEW THREADS

RECIPE: fp32 or bf16. A plain loop: one forward pass a token with the library's own cache, the likeliest token, no
generate() around it. Random weights.
"""
import json
import pathlib
import sys
import time

import torch
from transformers import LlamaConfig, LlamaForCausalLM

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from pytorch_train_step import COMMON, SHAPES  # noqa: E402


def main():
    preset, recipe, prompt, new, threads = sys.argv[1:]
    prompt, new = int(prompt), int(new)
    torch.set_num_threads(int(threads))
    torch.manual_seed(0)
    shape = {**COMMON, **SHAPES[preset]}
    config = LlamaConfig(vocab_size=shape["vocab_size"], hidden_size=shape["dim"], intermediate_size=shape["hidden_dim"],
                         num_hidden_layers=shape["n_layers"], num_attention_heads=shape["n_heads"],
                         num_key_value_heads=shape["n_kv_heads"], max_position_embeddings=prompt + new,
                         tie_word_embeddings=True)
    model = LlamaForCausalLM(config).to({"fp32": torch.float32, "bf16": torch.bfloat16}[recipe]).eval()

    @torch.inference_mode()
    def generate():
        ids, cache = torch.randint(config.vocab_size, (1, prompt)), None
        for _ in range(new):
            out = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            ids, cache = out.logits[:, -1].argmax(-1, keepdim=True), out.past_key_values
            ids.item()  # the caller wants it

    generate()
    print("ready", flush=True)
    for line in sys.stdin:
        seconds = []
        for _ in range(int(line)):
            start = time.perf_counter()
            generate()
            seconds.append(time.perf_counter() - start)
        print(json.dumps(seconds), flush=True)


if __name__ == "__main__":
    main()
