# SPDX-License-Identifier: Apache-2.0
"""Adapters to the library PEFT and back: the model of transformers with an adapter of ours beside it gives our logits,
and an adapter that PEFT trained gives PEFT's in our program.

Usage: peft_test.py HALFTONE

Skipped where Python has no peft, transformers and torch; HALFTONE_PYTHON names a Python that has them.
"""
from __future__ import annotations

import importlib.util
import json
import pathlib
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "support"))
import other_python  # noqa: E402

TEXT = "".join(f"spring sleep {n * n}, it's not aware of dawn; 春眠不覺曉，處處聞啼鳥。\n" for n in range(80))
OTHER = "".join(f"the river {n * 7} runs to the sea. 白日依山盡，黃河入海流。\n" for n in range(80))
TARGETS = {"v2": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
           "v3": ["q_proj", "k_proj", "down_proj"]}


class Program:
    def __init__(self, program: str, folder: pathlib.Path):
        self.program, self.folder = program, folder
        (folder / "text.txt").write_text(TEXT, encoding="utf-8")
        (folder / "other.txt").write_text(OTHER, encoding="utf-8")
        self.call("tokenizer", "train", "--data", "text.txt", "--data", "other.txt", "--vocab-size", "300", "--out",
                  "tok")

    def call(self, *words: str) -> str:
        done = subprocess.run([self.program, *words], cwd=self.folder, capture_output=True, check=False)
        if done.returncode != 0:
            raise SystemExit(f"halftone {' '.join(words)}: {done.returncode}\n{done.stderr.decode()}")
        return done.stdout.decode()

    def train(self, out: str, *words: str) -> None:
        self.call("train", "--precision", "32-true", "--seq-len", "32", "--out", out, *words)

    def export(self, run: str, kind: str) -> pathlib.Path:
        report = json.loads(self.call("export", run, "--format", kind, "--json"))
        assert report["verified"], report
        return self.folder / report["folder"]

    def ids(self) -> list[int]:
        return json.loads(self.call("tokenizer", "encode", "--tokenizer", "tok", "--text", OTHER, "--json"))

    def loss(self, model: str) -> float:
        return json.loads(self.call("eval", model, "--data", "other.txt", "--seq-len", "64", "--precision", "32-true",
                                    "--pack", "true", "--json"))["loss"]


def rows(program: Program):
    """The other text as the program packs it into rows of 64 predictions."""
    import torch
    ids = torch.tensor([1, *program.ids(), 2])
    return [ids[begin:begin + 65] for begin in range(0, len(ids) - 1, 64)]


def loss_of(program: Program, model) -> float:
    import torch
    nats, count = 0.0, 0
    with torch.no_grad():
        for row in rows(program):
            logits = model(row[None, :-1]).logits[0].double()
            nats += torch.nn.functional.cross_entropy(logits, row[1:], reduction="sum").item()
            count += len(row) - 1
    return nats / count


def base_model(folder: pathlib.Path):
    import torch
    import transformers
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def largest_difference(program: Program, one, other) -> float:
    import torch
    with torch.no_grad():
        return max((one(row[None, :-1]).logits - other(row[None, :-1]).logits).abs().max().item()
                   for row in rows(program)[:4])


def check_our_adapter(program: Program, generation: str) -> None:
    """Trained here, loaded by PEFT: the logits of the merged model that we exported, and our loss."""
    import peft
    run = f"{generation}-lora"
    program.train(run, "--data", "other.txt", "--init-from", generation, "--lora.rank", "4", "--lora.alpha", "6",
                  *(word for target in TARGETS[generation] for word in ("--lora.targets", target)), "--lr", "1e-2",
                  "--max-steps", "20")
    base = base_model(program.export(generation, "hf"))
    without = loss_of(program, base)
    model = peft.PeftModel.from_pretrained(base, program.export(run, "peft")).eval()
    config = model.peft_config["default"]
    assert config.r == 4 and config.target_modules == set(TARGETS[generation]), config
    theirs, ours = loss_of(program, model), program.loss(run)
    assert abs(theirs - ours) < 1e-5, (generation, theirs, ours)
    assert theirs < without - 0.3, (generation, theirs, without)
    merged = base_model(program.export(run, "hf"))
    difference = largest_difference(program, model, merged)
    assert difference <= 1e-4, (generation, difference)
    print(f"{generation}: loss {without:.4f}, with our adapter {theirs:.4f} in PEFT, {ours:.4f} here; "
          f"logits of the merged model differ by {difference:.1e}")


def check_their_adapter(program: Program, generation: str) -> None:
    """Trained by PEFT, opened here: its loss, as PEFT has it, before a step that changes next to nothing."""
    import peft
    import torch
    base_folder = program.folder / generation / "exports" / "hf-f32"
    torch.manual_seed(1)
    model = peft.get_peft_model(base_model(base_folder), peft.LoraConfig(
        r=3, lora_alpha=5, target_modules=TARGETS[generation], task_type="CAUSAL_LM"))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for row in rows(program)[:8]:
        logits = model(row[None, :-1]).logits[0]
        torch.nn.functional.cross_entropy(logits, row[1:]).backward()
        optimizer.step()
        optimizer.zero_grad()
    folder = program.folder / f"{generation}-peft"
    model.eval().save_pretrained(folder)
    program.train(f"{generation}-more", "--data", "other.txt", "--init-from", str(base_folder), "--tokenizer", "tok",
                  "--lora.adapter", str(folder), "--lr", "1e-9", "--max-steps", "1")
    theirs, ours = loss_of(program, model), program.loss(f"{generation}-more")
    assert abs(theirs - ours) < 1e-5, (generation, theirs, ours)
    difference = largest_difference(program, model, base_model(program.export(f"{generation}-more", "hf")))
    assert difference <= 1e-4, (generation, difference)
    print(f"{generation}: PEFT's adapter gives {theirs:.4f} there, {ours:.4f} here; logits differ by {difference:.1e}")


def main() -> None:
    other_python.run_in_named_python()
    if not all(importlib.util.find_spec(package) for package in ("torch", "transformers", "peft")):
        other_python.skip("needs the Python packages torch, transformers and peft")
    with tempfile.TemporaryDirectory() as folder:
        program = Program(sys.argv[1], pathlib.Path(folder))
        for generation in TARGETS:
            program.train(generation, "--data", "text.txt", "--tokenizer", "tok", "--preset", "tiny",
                          "--model.generation", generation, "--model.dim", "64", "--model.n-layers", "2",
                          "--model.hidden-dim", "96", "--model.n-heads", "4", "--model.n-kv-heads", "2", "--lr", "3e-3",
                          "--max-steps", "60")
            check_our_adapter(program, generation)
            check_their_adapter(program, generation)


if __name__ == "__main__":
    main()
