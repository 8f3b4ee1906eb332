# SPDX-License-Identifier: Apache-2.0
"""What other programs make of exported models: the gguf package, llama.cpp, transformers and compressed-tensors.

Usage: other_programs_test.py HALFTONE

Each part runs where its Python package is at hand; HALFTONE_PYTHON names a Python that has them. Where none is, the
test is skipped. llama.cpp is found as the package llama_cpp.
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
SAMPLES = [
    "It's a fine day, isn't it? We'll see 3.14159 -- I'd  agree.\r\n\n\tdone \n",
    "春眠不覺曉，處處聞啼鳥。２０２４ ½ Ⅷ ٣",
    "Über naïve façade e\u0301 \u00a0x\u3000y \U0001F468\u200d\U0001F469 다람쥐 नमस्ते",
    "spring <s>user</s> <unk>",
    "   ",
]
DENSE = ("v2", "v3")
EXPERTS = "v3-experts"
MODELS = (*DENSE, EXPERTS)
ARCHITECTURES = dict(zip(MODELS, ("llama", "qwen3", "qwen3moe")))
CLASSES = dict(zip(MODELS, ("LlamaForCausalLM", "Qwen3ForCausalLM", "Qwen3MoeForCausalLM")))


def has(*packages: str) -> bool:
    return all(importlib.util.find_spec(package) for package in packages)


class Program:
    """The built program, and a run of each model that it has trained for a few steps."""

    def __init__(self, program: str, folder: pathlib.Path):
        self.program = program
        self.folder = folder
        (folder / "text.txt").write_text(TEXT, encoding="utf-8")
        self.call("tokenizer", "train", "--data", "text.txt", "--vocab-size", "300", "--out", "tok")
        for model in MODELS:
            self.call("train", "--data", "text.txt", "--tokenizer", "tok", "--preset", "tiny", "--model.generation",
                      model[:2], "--model.dim", "64", "--model.n-layers", "2", "--model.hidden-dim", "96",
                      "--model.n-heads", "4", "--model.n-kv-heads", "2", "--precision", "32-true", "--seq-len", "32",
                      "--lr", "3e-3", "--max-steps", "60", "--out", model,
                      *(("--model.use-moe", "--model.num-experts-per-tok", "1", "--model.n-shared-experts", "0")
                        if model == EXPERTS else ()))

    def call(self, *words: str) -> str:
        done = subprocess.run([self.program, *words], cwd=self.folder, capture_output=True, check=False)
        if done.returncode != 0:
            raise SystemExit(f"halftone {' '.join(words)}: {done.returncode}\n{done.stderr.decode()}")
        return done.stdout.decode()

    def export(self, generation: str, kind: str, dtype: str) -> pathlib.Path:
        report = json.loads(self.call("export", generation, "--format", kind, "--dtype", dtype, "--overwrite",
                                      "--json"))
        assert report["verified"] and report["text"]["training_text"], report
        return self.folder / report["folder"]

    def ids(self, text: str) -> list[int]:
        return json.loads(self.call("tokenizer", "encode", "--tokenizer", "tok", "--text", text, "--json"))

    def written(self, generation: str, prompt: str, tokens: int) -> str:
        return self.call("generate", generation, "--prompt", prompt, "--greedy", "--max-new-tokens", str(tokens),
                         "--precision", "32-true")

    def loss(self, model: str, precision: str) -> float:
        return json.loads(self.call("eval", model, "--data", "text.txt", "--seq-len", "64", "--precision", precision,
                                    "--pack", "true", "--json"))["loss"]


def packed_loss(program: Program, logits_of) -> float:
    """Of the text as the program packs it into rows of 64 predictions."""
    import torch
    ids = torch.tensor([1, *program.ids(TEXT), 2])
    nats, count = 0.0, 0
    for begin in range(0, len(ids) - 1, 64):
        row = ids[begin:begin + 65]
        logits = logits_of(row[None, :-1])[0].double()
        nats += torch.nn.functional.cross_entropy(logits, row[1:], reduction="sum").item()
        count += len(row) - 1
    return nats / count


def check_gguf_package(program: Program) -> None:
    import gguf
    import numpy as np
    for model, architecture in ARCHITECTURES.items():
        exact = {t.name: t for t in gguf.GGUFReader(program.export(model, "gguf", "f32") / "model.gguf").tensors}
        for dtype, name, bound in (("f16", "F16", 1e-3), ("bf16", "BF16", 1e-2), ("int8", "Q8_0", 1e-2)):
            reader = gguf.GGUFReader(program.export(model, "gguf", dtype) / "model.gguf")
            assert reader.get_field("general.architecture").contents() == architecture
            for tensor in reader.tensors:
                values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
                want = gguf.quants.dequantize(exact[tensor.name].data, exact[tensor.name].tensor_type)
                is_exact = len(tensor.shape) < 2 or "ffn_gate_inp" in tensor.name
                assert tensor.tensor_type.name == ("F32" if is_exact else name), tensor
                assert np.abs(values - want).max() <= bound * np.abs(want).max(), tensor.name
                if dtype == "int8" and not is_exact:
                    blocks = gguf.quants.quantize(want, gguf.GGMLQuantizationType.Q8_0)
                    assert np.array_equal(blocks, tensor.data), tensor.name


def check_llama_cpp(program: Program) -> None:
    import llama_cpp
    for model in MODELS:
        path = program.export(model, "gguf", "f32") / "model.gguf"
        llama = llama_cpp.Llama(str(path), n_ctx=128, verbose=False, n_threads=1)
        for text in [*SAMPLES, TEXT]:
            ids = llama.tokenize(text.encode(), add_bos=False, special=True)
            assert ids == program.ids(text), (model, text, ids)
        for prompt in ("spring", "春眠", "it's"):
            ids = llama.tokenize(prompt.encode(), add_bos=True, special=False)
            assert ids[0] == 1, ids
            llama.reset()
            made = []
            for token in llama.generate(ids, temp=0.0, repeat_penalty=1.0):
                if token == llama.token_eos() or len(made) == 64:
                    break
                made.append(token)
            theirs = prompt + llama.detokenize(made).decode("utf-8", "replace")
            ours = program.written(model, prompt, 64)
            assert theirs == ours.removesuffix("\n"), (model, theirs, ours)


def check_transformers(program: Program) -> None:
    import torch
    import transformers
    for name, expected in CLASSES.items():
        for dtype in ("f32", "f16", "bf16"):
            folder = program.export(name, "hf", dtype)
            model, info = transformers.AutoModelForCausalLM.from_pretrained(
                folder, output_loading_info=True, dtype=torch.float32)
            assert type(model).__name__ == expected, type(model)
            assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
            with torch.no_grad():
                theirs = packed_loss(program, lambda ids: model(ids).logits)
            ours = program.loss(str(folder), "32-true")
            assert abs(theirs - ours) < 1e-5, (name, dtype, theirs, ours)
        assert abs(program.loss(str(program.folder / name / "exports" / "hf-f32"), "32-true") -
                   program.loss(name, "32-true")) < 1e-6
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        for text in [*SAMPLES, TEXT]:
            assert tokenizer.encode(text, add_special_tokens=False) == program.ids(text), (name, text)
        chat = tokenizer.apply_chat_template([{"role": "user", "content": "春"}], tokenize=False)
        assert "春" in chat, chat


def check_compressed_tensors(program: Program) -> None:
    import torch
    import transformers
    for generation in DENSE:
        folder = program.export(generation, "w8a8", "int8")
        model, info = transformers.AutoModelForCausalLM.from_pretrained(
            folder, output_loading_info=True, dtype=torch.float32)
        assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
        with torch.no_grad():
            theirs = packed_loss(program, lambda ids: model(ids).logits)
        ours = program.loss(str(folder), "int8-mixed")
        trained = program.loss(generation, "int8-mixed")
        # The head is int8 here and fp32 there, and inputs of 7 bits stand in where a CPU lacks VNNI.
        assert abs(ours - trained) < 1e-5, (generation, ours, trained)
        assert abs(theirs - ours) < 1e-3, (generation, theirs, ours)
        print(f"w8a8 {generation}: loss {theirs:.5f} in compressed-tensors, {ours:.5f} here")


PARTS = ((("gguf",), check_gguf_package), (("llama_cpp",), check_llama_cpp),
         (("torch", "transformers"), check_transformers),
         (("torch", "transformers", "compressed_tensors", "accelerate"), check_compressed_tensors))


def main() -> None:
    other_python.run_in_named_python()
    parts = [(packages, check) for packages, check in PARTS if has(*packages)]
    if not parts:
        other_python.skip("needs one of the Python packages gguf, llama_cpp, transformers, compressed_tensors")
    with tempfile.TemporaryDirectory() as folder:
        program = Program(sys.argv[1], pathlib.Path(folder))
        for packages, check in parts:
            check(program)
            print(f"passed: {packages[-1]}")


if __name__ == "__main__":
    main()
