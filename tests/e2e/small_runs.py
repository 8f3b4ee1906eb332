# SPDX-License-Identifier: Apache-2.0
"""Small trainings by the program, for the tests here that are scripts."""

import json
import pathlib
import subprocess
import time

DEADLINE = 240  # seconds; that it never comes is the failure
TIMINGS = ("tokens_per_s", "step_ms", "rss_mib", "cuda_mib", "tensors_mib")


def write_text(folder):
    path = pathlib.Path(folder) / "text.txt"
    path.write_text("".join(f"Line {i}: {i * i % 97} geese over the river, 春江花月夜 {i % 7}.\n" for i in range(400)))
    return path


def train(text, out, *more, steps=24, save_every=4):
    return ["train", "--preset", "tiny", "--model.dim", "32", "--model.n-layers", "2", "--model.dropout", "0.1",
            "--data", str(text), "--tokenizer-vocab-size", "300", "--batch-size", "2", "--seq-len", "64", "--threads", "1",
            "--max-steps", str(steps), "--save-every", str(save_every), "--tensorboard", "false", "--out", str(out), *more]


def metrics(run):
    """What does not depend on the time, of each step that is logged whole."""
    path = pathlib.Path(run) / "metrics.jsonl"
    lines = []
    for line in path.read_text().splitlines(keepends=True) if path.exists() else []:
        if not line.endswith("\n"):
            break  # being written
        lines.append({key: value for key, value in json.loads(line).items() if key not in TIMINGS})
    return lines


def last_weights(run):
    return (sorted(pathlib.Path(run).glob("checkpoints/step-*"))[-1] / "model.safetensors").read_bytes()


def wait_until(condition, awaited):
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {awaited}"
        time.sleep(0.005)


def end_well(command, **more):
    ended = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=DEADLINE, **more)
    assert ended.returncode == 0, f"{command} ended with exit code {ended.returncode}:\n{ended.stderr}"
    return ended


def expect_same_run(run, undisturbed, steps):
    assert [line["step"] for line in metrics(run)] == list(range(1, steps + 1)), metrics(run)
    assert metrics(run) == metrics(undisturbed)
    assert last_weights(run) == last_weights(undisturbed), "the weights differ"
