#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Generation by llama.cpp, for bench/compare/generate.py.

    llama_cpp_generate.py LLAMA_BENCH GGUF PROMPT NEW THREADS

Each text is one run of llama-bench, which loads the file, reads a prompt and generates; the seconds are its own, of
prompt and generation together, without the loading.
"""
import json
import subprocess
import sys


def seconds_of_text(program, gguf, prompt, new, threads):
    command = [program, "-m", gguf, "-p", "0", "-n", "0", "-pg", f"{prompt},{new}", "-t", threads, "-r", "1", "-o",
               "json"]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    return sum(one["avg_ns"] for one in json.loads(run.stdout)) / 1e9


def main():
    arguments = sys.argv[1:]
    seconds_of_text(*arguments)
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps([seconds_of_text(*arguments) for _ in range(int(line))]), flush=True)


if __name__ == "__main__":
    main()
