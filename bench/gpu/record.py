# SPDX-License-Identifier: Apache-2.0
"""The results as far as they are known: one JSON file, and one Markdown file made from it, written after each of them."""
from __future__ import annotations

import json
import os
import pathlib
import time

STATES = ("ok", "failed", "skipped", "running", "not reached")


def write_whole(path: pathlib.Path, text: str) -> None:
    """The file is the old one or the new one, whenever this is cut off."""
    fresh = path.with_name(path.name + ".part")
    fresh.write_text(text, encoding="utf-8")
    os.replace(fresh, path)


class Record:
    def __init__(self, folder: pathlib.Path, facts: dict, stages: list[str]):
        self.folder, self.started = folder, time.monotonic()
        self.data = {**facts, "seconds": 0.0, "finished": False,
                     "stages": {name: {"state": "not reached"} for name in stages}}
        self.save()

    def save(self) -> None:
        self.data["seconds"] = round(time.monotonic() - self.started, 1)
        write_whole(self.folder / "gpu_check.json", json.dumps(self.data, indent=1) + "\n")
        write_whole(self.folder / "gpu_check.md", markdown(self.data))

    def stage(self, name: str) -> dict:
        return self.data["stages"][name]

    def add(self, name: str, row: dict) -> None:
        """One result of a stage; it is on the disk when this returns."""
        self.stage(name).setdefault("rows", []).append(row)
        self.save()

    def end(self, name: str, state: str, seconds: float, **more) -> None:
        assert state in STATES
        self.stage(name).update(state=state, seconds=round(seconds, 1), **more)
        self.save()

    def failed(self) -> bool:
        return any(stage["state"] not in ("ok", "skipped") for stage in self.data["stages"].values())


# --- Markdown -------------------------------------------------------------------------------------


def table(head: list[str], rows: list[list]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return lines + ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows]


def number(value, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def cuda_tests_table(rows: list[dict]) -> list[str]:
    return table(["test program", "cases", "failed"],
                 [[row["program"], row.get("cases", "-"), ", ".join(row["failed"]) or row.get("reason", "none")] for row in rows])


def losses_table(rows: list[dict]) -> list[str]:
    head = ["recipe", "PyTorch's", "loss at first, at last", "largest distance of a loss", "allowed",
            "of a gradient norm", "allowed", "within"]
    body = []
    for row in rows:
        if "reason" in row:
            body.append([row["recipe"], *["-"] * 6, row["reason"]])
            continue
        body.append([row["recipe"], row["pytorch_recipe"], f"{row['losses'][0]:.4f}, {row['losses'][-1]:.4f}",
                     f"{row['loss_distance']:.2g}", f"{row['loss_tolerance']:.2g}", f"{row['norm_distance']:.2g}",
                     f"{row['norm_tolerance']:.2g}", "yes" if row["within"] else "**no**"])
    return table(head, body)


def trainings_table(rows: list[dict]) -> list[str]:
    body = [[row["recipe"], row.get("steps", "-"), number(row.get("first_loss"), 3), number(row.get("last_loss"), 3),
             number(row.get("tokens_per_s"), 0), number(row.get("cuda_mib"), 0), row.get("reason", "learns")] for row in rows]
    return table(["recipe", "steps", "loss at first", "loss at last", "tokens/s, all at once", "CUDA MiB", ""], body)


def times_table(rows: list[dict]) -> list[str]:
    """One table for each model; each time beside PyTorch's eager one of the same recipe."""
    lines = []
    for model in dict.fromkeys(row["model"] for row in rows):
        of_model = [row for row in rows if row["model"] == model]
        eager = {row["pytorch_recipe"]: row["ms"] for row in of_model if row["who"] == "PyTorch eager" and "ms" in row}
        body = []
        for row in of_model:
            base = eager.get(row["pytorch_recipe"])
            share = number(base / row["ms"]) if base and "ms" in row else "-"
            times = [number(row.get(key), 2) for key in ("ms", "least_ms", "most_ms")]
            body.append([row["who"], row["recipe"], times[0], f"{times[1]} .. {times[2]}", number(row.get("tokens_per_s"), 0),
                         number(row.get("teraflops"), 1), share, number(row.get("gpu_mib"), 0), row.get("reason", "")])
        shape = of_model[0]
        lines += ["", f"{model}, {shape['batch']} x {shape['seq_len']} tokens:", ""]
        lines += table(["", "recipe", "step, ms", "least .. most", "tokens/s", "TFLOP/s", "speed / PyTorch eager", "GPU MiB", ""], body)
    return lines


TABLES = {"CUDA tests": cuda_tests_table, "losses": losses_table, "trainings": trainings_table, "step times": times_table}


def summary(data: dict) -> list[str]:
    torch = data["machine"]["torch"]
    on = torch.get("name") if data["device"] == "cuda" else data["machine"]["processor"]
    state = "finished" if data["finished"] else "not finished"
    lines = [f"# Check on {on}", "", f"Device: {data['device']}. PyTorch {torch.get('torch', 'none')}, CUDA {torch.get('cuda')}. "
             f"{state} after {data['seconds']:.0f} s, begun {data['begun']}, revision {data['revision']}."]
    if data["device"] != "cuda":
        lines += ["", "**This ran on a CPU: it shows that the check works, and nothing about a GPU.**"]
    rows = [[name, stage["state"], number(stage.get("seconds"), 0), stage.get("reason", "")] for name, stage in data["stages"].items()]
    return lines + ["", *table(["stage", "state", "s", ""], rows)]


def markdown(data: dict) -> str:
    lines = summary(data)
    rows_of = {name: stage.get("rows", []) for name, stage in data["stages"].items()}
    rows_of["step times"] = rows_of.get("step times", []) + rows_of.get("compiled PyTorch", [])
    for name, table_of in TABLES.items():
        if rows_of.get(name):
            lines += ["", f"## {name[0].upper()}{name[1:]}", "", *table_of(rows_of[name])]
    for name, stage in data["stages"].items():
        if stage.get("tail"):
            lines += ["", f"## The last lines of {name}", "", "```", *stage["tail"], "```"]
    return "\n".join(lines) + "\n"
