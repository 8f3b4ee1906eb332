#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Measures what the exchange of two processes costs on this machine, over the loopback and between network namespaces.

    python3 bench/exchange.py [MODEL ...]

The alpha-beta model of the messages, and one exchange of each model's gradients and weights beside what `halftone plan`
predicts from it. Needs build/bench/exchange_bench (-DHALFTONE_BUILD_BENCH=ON); namespaces need root and `ip`. For
docs/scaling.md.
"""
import json
import os
import pathlib
import socket
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests/support"))
from network_cable import Cable, NoNamespaces  # noqa: E402

BENCH = ROOT / "build/bench/exchange_bench"


def free_port():
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        return str(door.getsockname()[1])


def measure(model, address, local_size, before=((), ())):
    """What process 0 of two prints; `before`: the words before each one's command."""
    place = {**os.environ, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": str(local_size), "MASTER_ADDR": address,
             "MASTER_PORT": free_port(), "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    ends = [subprocess.Popen([*words, str(BENCH), model], stdout=subprocess.PIPE, text=True,
                             env={**place, "RANK": str(rank), "LOCAL_RANK": str(rank % local_size)})
            for rank, words in enumerate(before)]
    said = [end.communicate()[0] for end in ends]
    if any(end.returncode for end in ends):
        sys.exit(f"exchange_bench ended with {[end.returncode for end in ends]}")
    return json.loads(said[0])


def print_rows(network, found):
    print(f"{network}: alpha {1e6 * found['latency_s']:.0f} us, 1 / beta {found['bytes_per_s'] / 1e9:.2f} GB/s")
    for one in found["exchanges"]:
        measured, predicted = one["gradients_s"] + one["weights_s"], one["predicted_s"]
        print(f"| {found['model']} | {network} | {one['shard']} | {1e3 * one['gradients_s']:.1f} | "
              f"{1e3 * one['weights_s']:.1f} | {1e3 * predicted:.1f} | {100 * (predicted / measured - 1):+.0f} % |", flush=True)


def main():
    print("| model | network | shard | gradients, ms | weights, ms | predicted, ms | error |\n|---|---|---|---|---|---|---|")
    for model in sys.argv[1:] or ("tiny", "minimind-26m"):
        print_rows("loopback", measure(model, "127.0.0.1", 2))
        try:
            with Cable() as cable:
                print_rows("namespaces", measure(model, "10.83.61.1", 1, [("ip", "netns", "exec", name) for name in cable.names]))
        except NoNamespaces as none:
            print(f"skipped: {none}")


if __name__ == "__main__":
    main()
