# SPDX-License-Identifier: Apache-2.0
"""What the check finds on this machine, and what it misses."""
from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import re
import shutil
import subprocess

TORCH_FACTS = """
import json, pathlib, torch
gpu = torch.cuda.is_available()
print(json.dumps({"torch": torch.__version__, "folder": str(pathlib.Path(torch.__file__).parent), "gpu": gpu,
                  "cuda": torch.version.cuda, "name": torch.cuda.get_device_name() if gpu else None,
                  "capability": "%d.%d" % torch.cuda.get_device_capability() if gpu else None}))
"""
LEAST_TORCH, LEAST_CMAKE = (2, 11), (3, 25)


@dataclasses.dataclass
class Machine:
    device: str
    torch: dict  # as TORCH_FACTS prints it; empty: that Python has none
    nvcc: pathlib.Path | None
    gpus: list[str]

    def facts(self) -> dict:
        return {"processor": processor(), "cores": os.cpu_count(), "gpus": self.gpus, "torch": self.torch,
                "nvcc": str(self.nvcc) if self.nvcc else None}


def text_of(command: list[str]) -> str:
    """What it prints, empty where it fails or is not there."""
    try:
        answer = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, timeout=120, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout if answer.returncode == 0 else ""


def version_in(text: str) -> tuple[int, ...]:
    found = re.search(r"(\d+)\.(\d+)", text)
    return tuple(int(part) for part in found.groups()) if found else (0, 0)


def processor() -> str:
    found = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    return found.group(1) if found else "unknown"


def find_nvcc() -> pathlib.Path | None:
    folders = [os.environ.get(name) for name in ("CUDA_HOME", "CUDA_PATH")] + ["/usr/local/cuda"]
    places = [shutil.which("nvcc"), *(f"{folder}/bin/nvcc" for folder in folders if folder)]
    return next((pathlib.Path(place) for place in places if place and pathlib.Path(place).exists()), None)


def examine(device: str, python: str) -> Machine:
    torch = text_of([python, "-c", TORCH_FACTS])
    gpus = re.findall(r"^GPU \d+: (.*?)(?: \(UUID.*)?$", text_of(["nvidia-smi", "-L"]), re.M)
    return Machine(device, json.loads(torch) if torch else {}, find_nvcc(), gpus)


def missing_for_gpu(machine: Machine, python: str) -> list[str]:
    missing = []
    if not machine.gpus:
        missing.append("an NVIDIA GPU with its driver ('nvidia-smi -L' lists none)")
    if not machine.nvcc:
        missing.append("the CUDA toolkit (no nvcc on the PATH, in CUDA_HOME or in /usr/local/cuda)")
    if not machine.torch:
        missing.append(f"a torch of {python} (name another Python with --python)")
    elif version_in(machine.torch["torch"]) < LEAST_TORCH or not machine.torch["cuda"]:
        missing.append(f"torch 2.11 or newer with CUDA ({python} has {machine.torch['torch']})")
    elif machine.gpus and not machine.torch["gpu"]:
        missing.append(f"a GPU that {python}'s torch {machine.torch['torch']} can use (its driver may be too old)")
    return missing


def missing_for_build(prefix: pathlib.Path | None) -> list[str]:
    missing = []
    cmake = version_in(text_of(["cmake", "--version"]))
    if cmake < LEAST_CMAKE:
        missing.append("CMake 3.25 or newer" + (f" (this is {cmake[0]}.{cmake[1]})" if cmake > (0, 0) else ""))
    if not (shutil.which("ninja") or shutil.which("ninja-build")):
        missing.append("ninja")
    if not any(shutil.which(name) for name in (os.environ.get("CXX", "c++"), "c++", "g++", "clang++")):
        missing.append("a C++ compiler")
    if not (shutil.which("pkg-config") or shutil.which("pkgconf") or prefix):
        missing.append("pkg-config (the folder of --collect has one: name it with --deps)")
    return missing
