# SPDX-License-Identifier: Apache-2.0
"""Programs that know nothing of the probe, with faults and without, under the probe.

  probe_programs.py LIBRARY BUILT faults|clean|ways python|cpp [--runs N] [--jobs N] [--only REGEX] [--keep FOLDER]

`faults` runs every seeded fault (seeded_faults.py): it must be found and named. `clean` runs programs without one, of
each precision and of many seeds: nothing may be found, and they must print what they print without the probe. `ways` tries
how the probe comes into a program, and what it does not do. The programs in Python need a PyTorch of the release that the
library was built with; exit status 77 where there is none. HALFTONE_PYTHON names another Python. BUILT holds the
programs in C++.
"""

import argparse
import concurrent.futures
import itertools
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "support"))
from other_python import skip  # noqa: E402
from seeded_faults import FAULTS  # noqa: E402

PROGRAMS = ("image_classifier", "gpt", "lstm", "diffusion", "recommender")
ALL = "first-nonfinite,census,underflow,compare"
PYTHON = os.environ.pop("HALFTONE_PYTHON", "") or sys.executable
FLUSHED = 0.5  # the least share of a seeded underflow


class Runner:
    def __init__(self, arguments, folder):
        self.library, self.built = arguments.library.resolve(), arguments.built.resolve()
        self.language, self.folder = arguments.language, folder

    def command(self, program):
        if self.language == "python":
            return [PYTHON, "-B", str(HERE / "programs" / f"{program}.py")]
        return [str(self.built / f"probe_program_{program}")]

    def run(self, command, modes, name, loads=False, **variables):
        """The finished process and its report, or None. The library is loaded by the program, or before it."""
        out = self.folder / name
        environment = {key: value for key, value in os.environ.items() if not key.startswith("HALFTONE_PROBE")}
        environment |= {"OMP_WAIT_POLICY": "PASSIVE", **variables}
        if modes:
            environment |= {"HALFTONE_PROBE": modes, "HALFTONE_PROBE_OUT": str(out)}
            if loads:
                command = [*command, "--load", str(self.library)]
            else:
                environment["LD_PRELOAD"] = str(self.library)
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                              timeout=300)
        report = out / "probe.json"
        return done, json.loads(report.read_text()) if report.exists() else None


def mismatches(fault, report):
    if fault.kind == "underflow":
        flushed = [entry for entry in report["underflow"]
                   if entry["direction"] == fault.direction and entry["flushed_share"] > FLUSHED]
        return [] if flushed else [f"no underflow of more than {FLUSHED}: {report['underflow'][:5]}"]
    find = report["first_nonfinite"]
    if find is None:
        return ["nothing was found"]
    wrong = [f"{key}: expected {pattern}, got {find[key]}"
             for key, pattern in (("operation", fault.operation), ("module", fault.module), ("autograd_node", fault.node))
             if pattern and not re.fullmatch(pattern, find[key] or "")]
    return wrong + [f"{key}: expected {value}, got {find[key]}"
                    for key, value in (("direction", fault.direction), ("kind", fault.kind)) if find[key] != value]


def try_fault(runner, fault):
    if runner.language == "cpp":
        fault = fault.in_cpp()
    name = f"{fault.program}, {fault.name}"
    command = [*runner.command(fault.program), "--precision", fault.precision, "--fault", fault.name]
    done, report = runner.run(command, "first-nonfinite,underflow", fault.name)
    if done.returncode != 0 or report is None:
        return name, [f"ended with {done.returncode}: {done.stderr[-500:]}"]
    return name, mismatches(fault, report)


def try_clean(runner, number, program, precision, seed):
    name = f"{program}, {precision}, seed {seed}"
    command = [*runner.command(program), "--precision", precision, "--seed", str(seed), "--steps", "6"]
    loads = number % 2 == 1
    plain, _ = runner.run(command, None, "")
    done, report = runner.run(command, ALL, f"clean-{number}", loads=loads)
    if done.returncode != 0 or report is None:
        return name, [f"ended with {done.returncode}: {done.stderr[-500:]}"]
    wrong = []
    if report["first_nonfinite"] is not None:
        wrong.append(f"false alarm: {report['first_nonfinite']}")
    if done.stdout != plain.stdout:
        wrong.append(f"prints something else than without the probe:\n{plain.stdout}---\n{done.stdout}")
    if report["run"]["steps"] != 6 or not report["census"]:
        wrong.append(f"watched {report['run']}")
    return name, wrong


def clean_runs(count):
    """Of each program in turn, of each precision, with a new seed each time around."""
    kinds = list(itertools.product(("fp32", "fp16", "bf16"), PROGRAMS))
    for number in range(count):
        precision, program = kinds[number % len(kinds)]
        yield number, program, precision, number // len(kinds)


def try_ways(runner):
    """Each a name, and whether it holds."""
    fault = next(fault for fault in FAULTS if fault.name == "log_of_zero")
    command = [*runner.command(fault.program), "--fault", fault.name, "--steps", "2"]
    loaded, report = runner.run(command, "first-nonfinite", "loaded", loads=True)
    yield "loaded by the program", report and report["first_nonfinite"]["kind"] == fault.kind
    yield "one line on stderr", len(loaded.stderr.splitlines()) == 1 and "log of zero" in loaded.stderr
    _, report = runner.run(command, "first-nonfinite", "before")
    yield "preloaded", report and report["first_nonfinite"]["kind"] == fault.kind
    yield "a page beside it", (runner.folder / "before" / "probe.html").exists()
    done, report = runner.run(command, "nans", "unknown")
    yield "an unknown mode leaves the program alone", (
        done.returncode == 0 and report is None and "got 'nans'" in done.stderr and len(done.stderr.splitlines()) == 1)
    done, report = runner.run(command, "census", "/dev/null/none")
    yield "a folder that cannot be", done.returncode == 0 and report is None and "cannot create" in done.stderr
    clean = [*runner.command("recommender"), "--steps", "12"]
    _, report = runner.run(clean, ALL, "sampled", HALFTONE_PROBE_EVERY="5")
    yield "every fifth step", report and [report["run"][key] for key in ("steps", "searched_steps", "sampled_steps")] == [12, 3, 3]
    _, report = runner.run(clean, ALL, "auto", HALFTONE_PROBE_EVERY="auto")
    ran = report["run"]  # the start of the program counts as time too, and importing torch takes seconds
    yield "few steps", ran["steps"] == 12 and (1 <= ran["sampled_steps"] <= 3
                                               or ran["watched_seconds"] < 0.03 * ran["seconds"])
    _, report = runner.run(clean, "census", "rank", RANK="1")
    yield "a folder for each rank", report is None and (runner.folder / "rank" / "rank-1" / "probe.json").exists()
    done, report = runner.run(["/bin/sh", "-c", "echo fine"], ALL, "shell")
    yield "a program without LibTorch", done.stdout == "fine\n" and done.stderr == "" and report is None
    nested = ["/bin/sh", "-c", " ".join(command) + "; " + " ".join(clean)]
    _, report = runner.run(nested, "first-nonfinite,census", "nested")
    yield "two programs of one shell", report is not None
    if runner.language == "python":
        yield from try_ways_of_python(runner)


def try_ways_of_python(runner):
    script = "import os, torch\nx = torch.rand(4, 4, requires_grad=True)\n"
    fork = (script + "if os.fork() == 0:\n    torch.log(x * 0).sum().backward()\n    os._exit(0)\n"
            "os.wait()\nfor i in range(3): torch.mm(x, x).sum().backward()\n")
    done, report = runner.run([PYTHON, "-c", fork], ALL, "fork")
    yield "a fork goes on without it", (done.returncode == 0 and report and report["first_nonfinite"] is None
                                        and report["census"]["aten::mm"]["fp32"] > 2)
    child = (script + "import subprocess, sys\nx.sum().backward()\n"
             "subprocess.run([sys.executable, '-c', 'import torch; torch.log(torch.zeros(2, requires_grad=True))"
             ".sum().backward()'])\n")
    done, report = runner.run([PYTHON, "-c", child], ALL, "child")
    others = list((runner.folder / "child").glob("process-*/probe.json"))
    yield "a program of the program has its own folder", (
        report and report["first_nonfinite"] is None and len(others) == 1
        and json.loads(others[0].read_text())["first_nonfinite"]["kind"] == "log of zero")
    raises = (script + "class Net(torch.nn.Module):\n    def forward(self, x):\n        torch.log(x * 0).sum().backward()\n"
              "        raise ValueError('no')\ntry:\n    Net()(x)\nexcept ValueError: pass\n"
              "torch.nn.Linear(4, 4)(x).sum().backward()\n")
    done, report = runner.run([PYTHON, "-c", raises], ALL, "raises")
    yield "a module that raises", done.returncode == 0 and report and report["first_nonfinite"]["module"] == "Net"
    modes = (script + "from torch.utils._python_dispatch import TorchDispatchMode\nseen = []\n"
             "class See(TorchDispatchMode):\n    def __torch_dispatch__(self, f, types, args=(), kwargs=None):\n"
             "        seen.append(str(f))\n        return f(*args, **(kwargs or {}))\n"
             "with See():\n    torch.mm(x.bfloat16(), x.bfloat16()).sum().backward()\nprint(len(seen))\n")
    plain = subprocess.run([PYTHON, "-c", modes], stdout=subprocess.PIPE, text=True)
    done, _ = runner.run([PYTHON, "-c", modes], ALL, "modes", HALFTONE_PROBE_EVERY="1")
    yield "no mode of Python sees it", done.stdout == plain.stdout and int(done.stdout) > 3
    fakes = ("import torch\nfrom torch._subclasses.fake_tensor import FakeTensorMode\nwith FakeTensorMode():\n"
             "    x = torch.rand(4, 4, requires_grad=True)\n    torch.mm(x.half(), x.half()).sum().backward()\n"
             "print(torch.func.vmap(torch.sin)(torch.ones(3, 2)).sum().item())\n")
    done, report = runner.run([PYTHON, "-c", fakes], ALL, "fakes")
    yield "tensors without numbers", done.returncode == 0 and report and report["first_nonfinite"] is None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", type=pathlib.Path)
    parser.add_argument("built", type=pathlib.Path)
    parser.add_argument("what", choices=("faults", "clean", "ways"))
    parser.add_argument("language", choices=("python", "cpp"))
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", default="")
    parser.add_argument("--keep", type=pathlib.Path, help="a folder for the reports")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runner = Runner(arguments, (arguments.keep or pathlib.Path(folder)).resolve())
        if arguments.language == "python":
            done, _ = runner.run([PYTHON, "-c", "import torch"], "census", "import")
            if done.returncode != 0 or "expected LibTorch" in done.stderr:
                skip(f"{PYTHON} has no PyTorch of the library's release: {(done.stderr.splitlines() or [''])[-1]}")
        results = outcomes(arguments, runner)
    failures = [(name, wrong) for name, wrong in results if wrong]
    for name, wrong in failures:
        print(f"{name}: {'; '.join(wrong)}")
    print(f"{arguments.what}, {arguments.language}: {len(results) - len(failures)} of {len(results)}")
    return 1 if failures or not results else 0


def outcomes(arguments, runner):
    if arguments.what == "ways":
        return [(name, [] if holds else ["does not hold"]) for name, holds in try_ways(runner)]
    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        if arguments.what == "faults":
            jobs = [pool.submit(try_fault, runner, fault) for fault in FAULTS if re.search(arguments.only, fault.name)]
        else:
            jobs = [pool.submit(try_clean, runner, *run) for run in clean_runs(arguments.runs)]
        return [job.result() for job in jobs]


if __name__ == "__main__":
    sys.exit(main())
