# SPDX-License-Identifier: Apache-2.0
"""What the check does: each stage is a function of a Check and a deadline that adds its results to the record."""
from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import math
import os
import pathlib
import re
import shutil
import statistics
import sys

from commands import CheckError, Deadline, Dialogue, Runner
from machine import Machine, text_of
from record import Record

ROOT = pathlib.Path(__file__).resolve().parents[2]
COMPARE = ROOT / "bench" / "compare"
sys.path.insert(0, str(COMPARE))
from run import PARAMETERS  # noqa: E402

# PyTorch's recipe that computes the same; the others, which it has none of, are held to its bf16-autocast.
PYTORCH_RECIPES = {"32-true": "fp32", "bf16-mixed": "bf16-autocast", "16-mixed": "fp16-autocast", "bf16-true": "bf16",
                   "16-true": "fp16"}
NEAREST = "bf16-autocast"
TIMED = ["32-true", "bf16-mixed", "16-mixed", "fp8-mixed"]
# Of a loss, and relative, of a gradient norm: about three times the largest distance seen on a CPU over two shapes; of
# fp32 more, for sums that a GPU makes in another order. LOOSEST is for what PyTorch has no recipe of.
TOLERANCES = {"32-true": (3e-5, 5e-4), "bf16-mixed": (4e-3, 1.2e-2), "16-mixed": (1e-3, 2e-3), "bf16-true": (5e-2, 6e-2),
              "16-true": (1.5e-3, 2e-3), "int8-mixed": (3e-2, 8e-2), "fp8-mixed": (4.5e-2, 1.5e-1),
              "fp8-row-mixed": (4e-2, 1e-1)}
LOOSEST = (6e-2, 2e-1)
LOSS_STEPS = 10


@dataclasses.dataclass
class Check:
    options: object  # the program's arguments
    machine: Machine
    runner: Runner
    record: Record
    prefix: pathlib.Path | None  # of unpacked packages
    work: pathlib.Path  # for runs and other files that nobody asks for

    @property
    def build(self) -> pathlib.Path:
        return self.options.build

    def program(self, name: str) -> pathlib.Path:
        path = self.build / name
        if not path.exists():
            raise CheckError(f"{path} is not there: it was not built")
        return path

    def recipes(self) -> list[str]:
        """All that the built program has, or those of --recipes among them."""
        text = text_of([str(self.program("halftone")), "train", "--help"])
        found = re.search(r"--precision\s+([\w|-]+)", text)
        if not found:
            raise CheckError("'halftone train --help' lists no precisions; see whether the program starts at all")
        wanted = self.options.recipes
        return [name for name in found.group(1).split("|") if not wanted or name in wanted]

    def pytorch_missing(self) -> str:
        return "" if self.machine.torch else f"{self.options.python} has no torch; name a Python that has one with --python"


class Skipped(Exception):
    """Why a stage, or what is left of it, was not done."""


def recorded(check: Check, stage: str, rows) -> list[dict]:
    """`rows`, each of them put on the disk as it comes."""
    kept = []
    for row in rows:
        check.record.add(stage, row)
        kept.append(row)
    return kept


# --- build ----------------------------------------------------------------------------------------


def configure_command(check: Check) -> list:
    cache = {"CMAKE_BUILD_TYPE": "Release", "HALFTONE_CUDA": "ON" if check.machine.device == "cuda" else "OFF",
             "HALFTONE_BUILD_TESTS": "ON", "HALFTONE_BUILD_EXAMPLES": "OFF"}
    if check.machine.torch:
        cache["HALFTONE_LIBTORCH"] = check.machine.torch["folder"]
    if check.machine.nvcc:
        cache["CUDAToolkit_ROOT"] = check.machine.nvcc.parent.parent
    if check.prefix:
        cache["CMAKE_PREFIX_PATH"] = check.prefix / "usr"
        # Where Debian keeps libraries and their CMake files, on whatever distribution they are unpacked.
        cache["CMAKE_LIBRARY_ARCHITECTURE"] = "x86_64-linux-gnu"
    return ["cmake", "-S", ROOT, "-B", check.build, "-G", "Ninja", *(f"-D{key}={value}" for key, value in cache.items())]


def build(check: Check, deadline: Deadline) -> None:
    check.runner.run(configure_command(check), deadline)
    targets = ["halftone_installed", "halftone_gpu_bench", "halftone_cuda_tests"]
    # What can't be compiled must not keep the rest from being built.
    check.runner.run(["cmake", "--build", check.build, "--parallel", check.options.jobs, "--target", *targets, "--", "-k", 0],
                     deadline)


# --- the tests that need a GPU --------------------------------------------------------------------


def test_programs(check: Check, deadline: Deadline) -> list[pathlib.Path]:
    """Those with cases for a GPU: ctest has them under the label cuda."""
    text = check.runner.run(["ctest", "--test-dir", check.build, "--show-only=json-v1", "-L", "^cuda$"], deadline)
    commands = [test.get("command", ["not built"]) for test in json.loads(text[text.index("{"):])["tests"]]
    return [pathlib.Path(name) for name in dict.fromkeys(command[0] for command in commands)]


def run_cuda_tests(check: Check, program: pathlib.Path, deadline: Deadline) -> dict:
    report = check.work / f"{program.name}.json"
    report.unlink(missing_ok=True)
    row = {"program": program.name, "failed": []}
    try:
        check.runner.run([program, "--gtest_filter=" + check.options.cases, f"--gtest_output=json:{report}"], deadline)
    except CheckError as error:
        row.update(reason=str(error), tail=error.tail)
    if report.exists():
        suites = json.loads(report.read_text(encoding="utf-8"))["testsuites"]
        cases = [case for suite in suites for case in suite["testsuite"] if case["status"] == "RUN"]
        row["cases"] = len(cases)
        row["skipped"] = [f"{c['classname']}.{c['name']}" for c in cases if c["result"] == "SKIPPED"]
        row["failed"] = [f"{c['classname']}.{c['name']}" for c in cases if c.get("failures")]
    return row


def cuda_tests(check: Check, deadline: Deadline) -> None:
    programs = test_programs(check, deadline)
    with concurrent.futures.ThreadPoolExecutor(max_workers=check.options.parallel) as pool:
        rows = recorded(check, "CUDA tests", pool.map(lambda program: run_cuda_tests(check, program, deadline), programs))
    if not any(row.get("cases") for row in rows):
        raise CheckError(f"no case of {check.options.cases} was run: none of {len(programs)} programs has one")
    bad = [row["program"] for row in rows if row["failed"] or "reason" in row]
    if bad:
        raise CheckError(f"cases failed in {', '.join(bad)}", next((row["tail"] for row in rows if row.get("tail")), []))


# --- the first losses -----------------------------------------------------------------------------


def compared(recipe: str, ours: dict, pytorch: dict) -> dict:
    """One that is not finite, which JSON has no number for, is as far away as can be."""
    loss_tolerance, norm_tolerance = TOLERANCES.get(recipe, LOOSEST)
    curves = {"losses": ours["losses"], "pytorch_losses": pytorch["losses"], "grad_norms": ours["grad_norms"],
              "pytorch_grad_norms": pytorch["grad_norms"]}
    is_number = lambda value: value is not None and math.isfinite(value)  # noqa: E731
    curves = {name: [value if is_number(value) else None for value in values] for name, values in curves.items()}
    if any(len(values) != LOSS_STEPS or None in values for values in curves.values()) or not all(ours["stepped"]):
        return {**curves, "within": False, "reason": f"not {LOSS_STEPS} steps with finite losses and gradients"}
    loss_distance = max(abs(a - b) for a, b in zip(curves["losses"], curves["pytorch_losses"]))
    norm_distance = max(abs(a - b) / b for a, b in zip(curves["grad_norms"], curves["pytorch_grad_norms"]))
    return {**curves, "loss_distance": loss_distance, "loss_tolerance": loss_tolerance, "norm_distance": norm_distance,
            "norm_tolerance": norm_tolerance, "within": loss_distance <= loss_tolerance and norm_distance <= norm_tolerance}


def losses_of(check: Check, recipe: str, file: pathlib.Path, pytorch: dict, deadline: Deadline) -> dict:
    row = {"recipe": recipe, "pytorch_recipe": PYTORCH_RECIPES.get(recipe, NEAREST)}
    try:
        command = [check.program("bench/first_losses_bench"), "tiny", recipe, check.machine.device, file]
        ours = json.loads(check.runner.run(command, deadline))
        return {**row, **compared(recipe, ours, pytorch[row["pytorch_recipe"]])}
    except CheckError as error:
        return {**row, "within": False, "reason": str(error), "tail": error.tail}


def losses(check: Check, deadline: Deadline) -> None:
    if check.pytorch_missing():
        raise Skipped(check.pytorch_missing())
    recipes = check.recipes()
    file = check.work / "first_losses.safetensors"
    needed = dict.fromkeys(PYTORCH_RECIPES.get(recipe, NEAREST) for recipe in recipes)
    command = [check.options.python, COMPARE / "pytorch_first_losses.py", "tiny", LOSS_STEPS, *check.options.loss_shape,
               check.machine.device, file, *needed]
    pytorch = json.loads(check.runner.run(command, deadline))
    rows = recorded(check, "losses", (losses_of(check, recipe, file, pytorch, deadline) for recipe in recipes))
    far = [row for row in rows if not row["within"]]
    if far:
        raise CheckError(f"not PyTorch's: {', '.join(row['recipe'] for row in far)}", far[0].get("tail", []))


# --- short trainings ------------------------------------------------------------------------------


def training_text(check: Check) -> pathlib.Path:
    if check.options.text:
        return check.options.text
    from packages import TEXT_FOLDER
    places = [root / TEXT_FOLDER for root in (check.prefix, pathlib.Path("/")) if root]
    found = next((place for place in places if place.is_dir()), None)
    if not found:
        raise CheckError("there is no text to train on: name some with --text, or the folder of --collect with --deps")
    return found


def read_training(metrics: pathlib.Path) -> dict:
    steps = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    steps = [step for step in steps if step.get("loss") is not None]
    if len(steps) < 10:
        raise CheckError(f"only {len(steps)} steps were made")
    last = statistics.mean(step["loss"] for step in steps[-5:])
    row = {"steps": len(steps), "first_loss": steps[0]["loss"], "last_loss": last, "cuda_mib": steps[-1].get("cuda_mib"),
           "tokens_per_s": statistics.median(step["tokens_per_s"] for step in steps[5:]),
           "losses": [step["loss"] for step in steps[::max(len(steps) // 50, 1)]]}
    if not last < steps[0]["loss"] - 0.3:
        row["reason"] = f"does not learn: the loss went from {steps[0]['loss']:.3f} to {last:.3f}"
    return row


def train(check: Check, recipe: str, text: pathlib.Path, deadline: Deadline) -> dict:
    run = check.work / f"tiny-{recipe}"
    shutil.rmtree(run, ignore_errors=True)
    command = [check.program("halftone"), "train", "--preset", "tiny", "--data", text, "--precision", recipe, "--device",
               check.machine.device, "--seq-len", 128, "--lr", "3e-3", "--schedule", "cosine", "--max-time",
               f"{check.options.tiny_seconds}s", "--out", run, "--log-every", 1000]
    try:
        check.runner.run(command, deadline)
        return {"recipe": recipe, **read_training(run / "metrics.jsonl")}
    except CheckError as error:
        return {"recipe": recipe, "reason": str(error), "tail": error.tail}
    finally:
        shutil.rmtree(run, ignore_errors=True)


def trainings(check: Check, deadline: Deadline) -> None:
    text = training_text(check)
    with concurrent.futures.ThreadPoolExecutor(max_workers=check.options.parallel) as pool:
        rows = recorded(check, "trainings", pool.map(lambda recipe: train(check, recipe, text, deadline), check.recipes()))
    bad = [row for row in rows if "reason" in row]
    if bad:
        raise CheckError(f"failed: {', '.join(row['recipe'] for row in bad)}", bad[0].get("tail", []))


# --- whole steps ----------------------------------------------------------------------------------


@dataclasses.dataclass
class Contestant:
    who: str
    model: str
    recipe: str  # ours
    command: list

    def row(self, check: Check) -> dict:
        batch, seq_len = check.options.shape
        return {"who": self.who, "model": self.model, "recipe": self.recipe, "batch": batch, "seq_len": seq_len,
                "pytorch_recipe": PYTORCH_RECIPES.get(self.recipe, NEAREST)}


def our_contestants(check: Check, model: str) -> list[Contestant]:
    shape = [*check.options.shape, os.cpu_count(), check.machine.device]
    return [Contestant("halftone", model, recipe, [check.program("bench/train_step_bench"), model, recipe, *shape])
            for recipe in TIMED if recipe in check.recipes()]


def pytorch_contestants(check: Check, model: str, flags: list[str]) -> list[Contestant]:
    who = "PyTorch compiled" if "--compile" in flags else "PyTorch eager"
    script = [check.options.python, COMPARE / "pytorch_train_step.py", model]
    shape = [*check.options.shape, os.cpu_count(), "--device", check.machine.device, *flags]
    return [Contestant(who, model, recipe, [*script, PYTORCH_RECIPES[recipe], *shape])
            for recipe in TIMED if recipe in PYTORCH_RECIPES and recipe in check.recipes()]


def gpu_mib(check: Check) -> float | None:
    """Memory in use on the GPU, all programs together."""
    if check.machine.device != "cuda":
        return None
    used = re.findall(r"^\d+", text_of(["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]), re.M)
    return float(used[0]) if used else None


def timed(check: Check, row: dict, dialogue: Dialogue) -> dict:
    """The median of some turns: within a turn no step waits for the one before, as in training."""
    steps = check.options.steps
    dialogue.ask(steps)  # warms up
    turns = sorted(sum(json.loads(dialogue.ask(steps))) / steps for _ in range(check.options.turns))
    tokens, seconds = row["batch"] * row["seq_len"], statistics.median(turns)
    parameters = PARAMETERS.get(row["model"])
    return {**row, "ms": seconds * 1e3, "least_ms": turns[0] * 1e3, "most_ms": turns[-1] * 1e3, "tokens_per_s": tokens / seconds,
            "teraflops": 6 * parameters * tokens / seconds / 1e12 if parameters else None}


def time_each(check: Check, stage: str, contestants: list[Contestant], deadline: Deadline) -> None:
    """One after the other: the next finds the GPU empty."""
    bad = []
    for contestant in contestants:
        row = contestant.row(check)
        dialogue = None
        try:
            dialogue = Dialogue(check.runner, contestant.command, deadline.within(check.options.program_limit))
            dialogue.answer()
            row = timed(check, row, dialogue)
            row["gpu_mib"] = gpu_mib(check)
        except CheckError as error:
            row.update(reason=str(error), tail=error.tail)
            bad.append(row)
        finally:
            if dialogue:
                dialogue.close()
        check.record.add(stage, row)
    raise_if_bad(bad)


def raise_if_bad(rows: list[dict]) -> None:
    if rows:
        names = ", ".join(f"{row['who']} {row['recipe']} of {row['model']}" for row in rows)
        raise CheckError(f"not timed: {names}", rows[0].get("tail", []))


def step_times(check: Check, deadline: Deadline) -> None:
    contestants = []
    for model in check.options.models:
        contestants += our_contestants(check, model)
        if check.machine.torch:
            contestants += pytorch_contestants(check, model, [])
    time_each(check, "step times", contestants, deadline)
    if check.pytorch_missing():
        raise Skipped(f"PyTorch's part: {check.pytorch_missing()}")


def compiled_pytorch(check: Check, deadline: Deadline) -> None:
    """All compile at once, which takes most of the time and no GPU; then they are timed one after the other."""
    if check.pytorch_missing():
        raise Skipped(check.pytorch_missing())
    contestants = [c for model in check.options.models for c in pytorch_contestants(check, model, ["--compile"])]
    started = [(c.row(check), Dialogue(check.runner, c.command, deadline)) for c in contestants]
    bad = []
    try:
        for row, dialogue in started:
            try:
                dialogue.answer()
            except CheckError as error:
                bad.append({**row, "reason": str(error), "tail": error.tail})
                check.record.add("compiled PyTorch", bad[-1])
        for row, dialogue in started:
            if any(row["model"] == b["model"] and row["recipe"] == b["recipe"] for b in bad):
                continue
            try:
                check.record.add("compiled PyTorch", timed(check, row, dialogue))
            except CheckError as error:
                bad.append({**row, "reason": str(error), "tail": error.tail})
                check.record.add("compiled PyTorch", bad[-1])
            dialogue.close()
    finally:
        for _, dialogue in started:
            dialogue.close()
    raise_if_bad(bad)


# Name -> function and its limit in seconds. What says most comes first.
STAGES = {"build": (build, 330), "CUDA tests": (cuda_tests, 120), "losses": (losses, 120), "step times": (step_times, 240),
          "trainings": (trainings, 120), "compiled PyTorch": (compiled_pytorch, 240)}
