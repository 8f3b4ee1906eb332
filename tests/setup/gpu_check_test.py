#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The GPU check without a GPU: its parts on made-up programs, and all of it on the CPU with the built ones.

Usage: gpu_check_test.py BUILD
"""
from __future__ import annotations

import io
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import textwrap
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "gpu_check.sh"
BUILD = pathlib.Path(sys.argv.pop(1)).resolve() if sys.argv[1:2] and pathlib.Path(sys.argv[1]).is_dir() else None
sys.path.insert(0, str(ROOT / "bench" / "gpu"))
import packages  # noqa: E402
import stages  # noqa: E402
from commands import CheckError, Deadline, Log, Runner  # noqa: E402

HELP = "  --precision 32-true|bf16-mixed|fp8-mixed\n"
# Programs that answer as the real ones do, under one name each.
HALFTONE = """
import json, pathlib, sys
if "--help" in sys.argv:
    print(HELP)
    sys.exit()
recipe = sys.argv[sys.argv.index("--precision") + 1]
if recipe == "fp8-mixed":
    sys.exit("halftone: error: this device has no fp8")
run = pathlib.Path(sys.argv[sys.argv.index("--out") + 1])
run.mkdir(parents=True)
slope = {"32-true": 0.1, "bf16-mixed": 0.0}[recipe]
rows = [{"loss": 8 - slope * i, "tokens_per_s": 1000.0, "cuda_mib": None} for i in range(40)]
(run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\\n" for row in rows))
"""
STEPS = """
import sys
if sys.argv[2] == "bf16-mixed":
    sys.exit("train_step_bench: error: out of memory")
print("ready", flush=True)
for line in sys.stdin:
    print([0.002] * int(line), flush=True)
"""


def program(path: pathlib.Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!{sys.executable}\nHELP = {HELP!r}\n{text}", encoding="utf-8")
    path.chmod(0o755)


def make_deb(path: pathlib.Path, files: dict[str, str]) -> None:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:xz") as tar:
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text.encode())
            tar.addfile(entry, io.BytesIO(text.encode()))
    members = [("debian-binary", b"2.0\n"), ("control.tar.xz", b"odd"), ("data.tar.xz", data.getvalue())]
    with open(path, "wb") as file:
        file.write(b"!<arch>\n")
        for name, content in members:
            file.write(f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode() + content + b"\n" * (len(content) % 2))


class WithFolder(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def check(self, *words, environment=None, code=0):
        """The answer of the script and, where there is one, its record."""
        answer = subprocess.run([str(SCRIPT), *map(str, words), "--out", str(self.folder / "out")], stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True, check=False, env={**os.environ, **(environment or {})})
        self.assertEqual(answer.returncode, code, answer.stdout + answer.stderr)
        file = self.folder / "out" / "gpu_check.json"
        return answer, json.loads(file.read_text(encoding="utf-8")) if file.exists() else None


class Packages(WithFolder):
    def test_a_package_is_unpacked_without_dpkg_and_knows_its_place(self):
        make_deb(self.folder / "libx-dev_1.deb", {"./usr/include/x.h": "int x;", "./usr/lib/pkgconfig/x.pc":
                                                  "prefix=/usr\nlibdir=${prefix}/lib\nCflags: -I/usr/include\n"})
        path, os.environ["PATH"] = os.environ["PATH"], "/nowhere"
        try:
            prefix = packages.unpacked(self.folder, self.folder / "prefix")
        finally:
            os.environ["PATH"] = path
        self.assertEqual((prefix / "usr/include/x.h").read_text(), "int x;")
        self.assertEqual((prefix / "usr/lib/pkgconfig/x.pc").read_text(),
                         f"prefix={prefix}/usr\nlibdir=${{prefix}}/lib\nCflags: -I{prefix}/usr/include\n")
        (prefix / "usr/include/x.h").write_text("kept")
        self.assertEqual((packages.unpacked(self.folder, prefix) / "usr/include/x.h").read_text(), "kept")
        make_deb(self.folder / "liby-dev_1.deb", {"./usr/include/y.h": "int y;"})
        self.assertEqual((packages.unpacked(self.folder, prefix) / "usr/include/x.h").read_text(), "int x;")

    def test_what_is_no_package_is_named(self):
        (self.folder / "broken.deb").write_bytes(b"nothing of the kind")
        with self.assertRaisesRegex(CheckError, "cannot unpack .*broken.deb: .*--collect"):
            packages.unpacked(self.folder, self.folder / "prefix")
        (self.folder / "broken.deb").unlink()
        with self.assertRaisesRegex(CheckError, "has no .deb file"):
            packages.unpacked(self.folder, self.folder / "prefix")

    def test_shared_libraries_come_along_and_the_toolchain_does_not(self):
        known = packages.parse_packages(textwrap.dedent("""\
            Package: liba-dev
            Section: libdevel
            Depends: liba1 (= 1), a-tools (>= 1), libc6-dev | libc-dev

            Package: liba1
            Section: libs
            Depends: libb2 (>= 2), libc6 (>= 2.34)

            Package: libb2
            Section: libs

            Package: libc6
            Source: glibc (2.36)
            Section: libs

            Package: a-tools
            Section: libdevel
            """))
        show = lambda names: {name: known[name] for name in names if name in known}  # noqa: E731
        self.assertEqual(packages.with_libraries(["liba-dev"], show), ["liba-dev", "liba1", "libb2"])
        with self.assertRaisesRegex(CheckError, "does not know liba-dev, libz-dev"):
            packages.with_libraries(["liba-dev", "libz-dev"], lambda names: {})


class Comparison(unittest.TestCase):
    ours = {"losses": [8.0 - 0.1 * i for i in range(10)], "grad_norms": [2.0] * 10, "stepped": [True] * 10}

    def within(self, recipe="32-true", **other):
        return stages.compared(recipe, {**self.ours, **other}, self.ours)["within"]

    def test_only_near_finite_and_whole_runs_pass(self):
        self.assertTrue(self.within())
        self.assertTrue(self.within(losses=[x + 2e-5 for x in self.ours["losses"]]))
        self.assertFalse(self.within(losses=[x + 4e-5 for x in self.ours["losses"]]))
        self.assertTrue(self.within("bf16-mixed", losses=[x + 1e-3 for x in self.ours["losses"]]))
        self.assertFalse(self.within(grad_norms=[2.01] * 10))
        self.assertFalse(self.within(losses=[float("nan")] * 10))
        self.assertFalse(self.within(losses=[None] + self.ours["losses"][1:]))
        self.assertFalse(self.within(losses=self.ours["losses"][:9]))
        self.assertFalse(self.within(stepped=[True] * 9 + [False]))


class Programs(WithFolder):
    def test_a_program_is_stopped_at_its_limit_with_what_it_has_started(self):
        runner = Runner(self.folder, {}, Log(self.folder / "log"))
        with self.assertRaisesRegex(CheckError, "bash was stopped at its limit of 1 s") as caught:
            runner.run(["bash", "-c", "echo begun; sleep 60 & wait"], Deadline(1))
        self.assertEqual(caught.exception.tail, ["begun"])
        with self.assertRaisesRegex(CheckError, "bash ended with 3"):
            runner.run(["bash", "-c", "exit 3"], Deadline(9))
        with self.assertRaisesRegex(CheckError, "cannot run nothing-of-that-name"):
            runner.run(["nothing-of-that-name"], Deadline(9))
        self.assertIn("begun", (self.folder / "log").read_text())


class MadeUpPrograms(WithFolder):
    def setUp(self):
        super().setUp()
        self.build = self.folder / "build"
        program(self.build / "halftone", HALFTONE)
        program(self.build / "bench/train_step_bench", STEPS)
        self.words = ["--device", "cpu", "--built", self.build, "--text", self.folder, "--python", "/bin/false", "--models",
                      "dim-64", "--steps", 2, "--turns", 2]

    def test_a_failure_is_recorded_and_the_rest_goes_on(self):
        _, record = self.check(*self.words, code=1)
        states = {name: stage["state"] for name, stage in record["stages"].items()}
        self.assertEqual(states, {"build": "skipped", "CUDA tests": "failed", "losses": "skipped", "step times": "failed",
                                  "trainings": "failed", "compiled PyTorch": "skipped"})
        times = {row["recipe"]: row for row in record["stages"]["step times"]["rows"]}
        self.assertAlmostEqual(times["32-true"]["ms"], 2.0)
        self.assertIn("out of memory", times["bf16-mixed"]["tail"][-1])
        self.assertEqual(list(times), ["32-true", "bf16-mixed", "fp8-mixed"])
        trainings = {row["recipe"]: row for row in record["stages"]["trainings"]["rows"]}
        self.assertAlmostEqual(trainings["32-true"]["last_loss"], 8 - 0.1 * 37)
        self.assertIn("does not learn", trainings["bf16-mixed"]["reason"])
        self.assertIn("has no fp8", trainings["fp8-mixed"]["tail"][-1])
        table = (self.folder / "out/gpu_check.md").read_text(encoding="utf-8")
        self.assertIn("shows that the check works, and nothing about a GPU", table)
        self.assertIn("| trainings | failed |", table)
        self.assertIn("has no torch", table)

    def test_what_the_limit_left_out_is_said(self):
        _, record = self.check(*self.words, "--limit", 0, "--stages", "step times,trainings", code=1)
        self.assertTrue(record["finished"])
        for stage in record["stages"].values():
            self.assertEqual(stage["state"], "not reached")
            self.assertIn("limit of 0 s was used up", stage["reason"])


class Mistakes(WithFolder):
    def one_line(self, *words, **more):
        answer, record = self.check(*words, code=2, **more)
        self.assertIsNone(record)
        self.assertEqual(len(answer.stderr.strip().splitlines()), 1, answer.stderr)
        return answer.stderr

    def test_a_machine_without_a_gpu_is_told_so_in_one_line(self):
        bare = self.folder / "bin"
        bare.mkdir()
        for name in ("bash", "dirname", "python3", "env"):
            (bare / name).symlink_to(sys.executable if name == "python3" else shutil.which(name))
        said = self.one_line(environment={"PATH": str(bare)})
        self.assertRegex(said, "^halftone: error: this machine lacks an NVIDIA GPU")

    def test_a_folder_without_packages_is_named(self):
        (self.folder / "empty").mkdir()
        said = self.one_line("--device", "cpu", "--deps", self.folder / "empty")
        self.assertRegex(said, "has no .deb file; make it with")

    def test_a_stage_of_another_name_is_refused(self):
        answer, _ = self.check("--stages", "lossess", code=2)
        self.assertIn("no stage is called 'lossess'; expected some of: build", answer.stderr)


@unittest.skipUnless(BUILD, "no build folder was named")
class OnTheCpu(WithFolder):
    def test_the_built_programs_pass_on_the_cpu(self):
        (self.folder / "text.txt").write_text("The heron stood in the reeds and did not move.\n\n" * 400, encoding="utf-8")
        words = ["--device", "cpu", "--built", BUILD, "--text", self.folder / "text.txt", "--models", "dim-64", "--shape", 2, 32,
                 "--steps", 1, "--turns", 1, "--loss-shape", 2, 32, "--tiny-seconds", 4, "--recipes", "32-true,bf16-mixed",
                 "--stages", "CUDA tests,losses,step times,trainings", "--cases", "Device.*"]
        _, record = self.check(*words)
        self.assertEqual(record["device"], "cpu")
        found = record["stages"]
        self.assertEqual([found[name]["state"] for name in ("CUDA tests", "trainings")], ["ok", "ok"])
        ours = [row["recipe"] for row in found["step times"]["rows"] if row["who"] == "halftone" and row["ms"] > 0]
        self.assertEqual(ours, ["32-true", "bf16-mixed"])
        if record["machine"]["torch"]:
            self.assertEqual([row["within"] for row in found["losses"]["rows"]], [True, True])
        else:
            self.assertEqual(found["losses"]["state"], "skipped")


if __name__ == "__main__":
    unittest.main()
