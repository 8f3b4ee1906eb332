#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Greedy generation, ours and PyTorch's, side by side on this machine.

    python3 bench/compare/generate.py [--preset minimind-104m] [--prompt 16] [--new 128] [--rounds 7]
                                      [--python PYTHON_WITH_TORCH]

Build first:  cmake --preset release -DHALFTONE_BUILD_BENCH=ON && cmake --build build
All programs are started at once and take turns, one text each, as in run.py; the first round warms up. Prints a
Markdown table: the median time of a token (the prompt's time is in it), tokens/s, the ratio to PyTorch fp32, and what
share of the memory bandwidth measured in the same rounds the weights alone took. "large pages" is PyTorch with
THP_MEM_ALLOC_ENABLE=1.
"""
import argparse
import os
import pathlib

from run import PARAMETERS, ROOT, Contestant, cpu_model


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="minimind-104m", choices=sorted(PARAMETERS))
    parser.add_argument("--prompt", type=int, default=16)
    parser.add_argument("--new", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build")
    parser.add_argument("--python", help="interpreter that can import torch; without it PyTorch is left out")
    parser.add_argument("--recipes", default="32-true,32-true+bf16,32-true+int8,bf16-true",
                        help="a precision, or one and what the weights are held in")
    parser.add_argument("--pytorch-recipes", default="fp32,fp32 large pages,fp32-compile")
    parser.add_argument("--transformers-recipes", default="", help="fp32, bf16: LlamaForCausalLM of the same shape")
    parser.add_argument("--llama-cpp", type=pathlib.Path, help="llama_cpp_generate, built as it says; with --gguf")
    parser.add_argument("--gguf", type=pathlib.Path, help="the same shape, from halftone export --format gguf")
    return parser.parse_args()


def bytes_of_a_weight(name):
    if "llama.cpp" in name:
        return None
    if "int8" in name:
        return 1
    return 2 if "+bf16" in name or "+fp16" in name or "-true" in name.replace("32-true", "") or " bf16" in name else 4


def start(arguments):
    shape = [arguments.prompt, arguments.new, arguments.threads]
    contestants = []
    for recipe in filter(None, arguments.recipes.split(",")):
        command = [arguments.build / "bench/generate_bench", arguments.preset, recipe, *shape]
        contestants.append(Contestant(f"halftone {recipe}", command, dict(os.environ)))
        contestants[-1].wait_until_ready()
    for recipe in filter(None, arguments.pytorch_recipes.split(",") if arguments.python else []):
        name, _, pages = recipe.partition(" ")
        command = [arguments.python, ROOT / "bench/compare/pytorch_generate.py", arguments.preset, name, *shape]
        environment = {**os.environ, **({"THP_MEM_ALLOC_ENABLE": "1"} if pages else {})}
        contestants.append(Contestant(f"PyTorch {recipe}", command, environment))
        contestants[-1].wait_until_ready()
    for recipe in filter(None, arguments.transformers_recipes.split(",") if arguments.python else []):
        command = [arguments.python, ROOT / "bench/compare/transformers_generate.py", arguments.preset, recipe, *shape]
        contestants.append(Contestant(f"transformers {recipe}", command, dict(os.environ)))
        contestants[-1].wait_until_ready()
    if arguments.llama_cpp and arguments.gguf:
        command = [arguments.llama_cpp, arguments.gguf, *shape]
        contestants.append(Contestant(f"llama.cpp {arguments.gguf.name}", command, dict(os.environ)))
        contestants[-1].wait_until_ready()
    bandwidth = Contestant("bandwidth", [arguments.build / "bench/bandwidth_bench", arguments.threads],
                           dict(os.environ))
    bandwidth.wait_until_ready()
    return contestants, bandwidth


def main():
    arguments = parse_arguments()
    contestants, bandwidth = start(arguments)
    for round_number in range(arguments.rounds + 1):
        for contestant in [*contestants, bandwidth]:
            contestant.run(1, keep=round_number > 0)
    print(f"{arguments.preset}, prompt of {arguments.prompt}, {arguments.new} new tokens, {cpu_model()}, "
          f"{arguments.threads} threads, {arguments.rounds} rounds; memory is read at {bandwidth.median():.1f} GB/s\n")
    print("| | a token, ms (median) | min .. max | tokens/s | speed / PyTorch fp32 | share of the bandwidth |")
    print("|---|---|---|---|---|---|")
    base = next((c.median() for c in contestants if c.name == "PyTorch fp32"), None)
    parameters = PARAMETERS[arguments.preset]
    for contestant in contestants:
        token = contestant.median() / arguments.new
        ratio = f"{base / contestant.median():.2f}" if base else "-"
        width = bytes_of_a_weight(contestant.name)
        share = f"{width * parameters / token / 1e9 / bandwidth.median():.0%}" if parameters and width else "-"
        print(f"| {contestant.name} | {token * 1e3:.1f} | {min(contestant.samples) / arguments.new * 1e3:.1f} .. "
              f"{max(contestant.samples) / arguments.new * 1e3:.1f} | {1 / token:.1f} | {ratio} | {share} |")
        contestant.close()
    bandwidth.close()


if __name__ == "__main__":
    main()
