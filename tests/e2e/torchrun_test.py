#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""torchrun of Python's torch starts `halftone train` in two processes: they train what ours do.

    torchrun_test.py HALFTONE

Needs a Python with torch; HALFTONE_PYTHON names one. Without it the test is skipped.
"""
import importlib.util
import pathlib
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
from other_python import run_in_named_python, skip  # noqa: E402
from small_runs import end_well, expect_same_run, train, write_text  # noqa: E402


def main():
    run_in_named_python()
    if importlib.util.find_spec("torch") is None:
        skip("this Python has no torch")
    program = sys.argv[1]
    with tempfile.TemporaryDirectory() as folder:
        text, folder = write_text(folder), pathlib.Path(folder)
        end_well([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python",
                  program, *train(text, folder / "theirs", steps=6)])
        end_well([program, "launch", "--processes", "2", *train(text, folder / "ours", steps=6)])
        expect_same_run(folder / "theirs", folder / "ours", 6)
        end_well([program, *train(text, folder / "alone", steps=6)])
        alone, both = ((folder / run / "checkpoints/step-00000006/model.safetensors").read_bytes()
                       for run in ("alone", "ours"))
        assert alone != both, "one process with half of the batch is something else"


if __name__ == "__main__":
    main()
