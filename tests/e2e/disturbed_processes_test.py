#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Trainings of several processes that something happens to: nothing is lost, and the end is the undisturbed run's.

    disturbed_processes_test.py HALFTONE restart|full_disk|namespaces|kills [NUMBER [PROCESSES ...]]

restart: one of two processes is killed. full_disk: one can't write its part of a checkpoint. namespaces: two network
namespaces joined by a cable, which only root can make; else the test is skipped. kills: NUMBER kills (30) of any of 2,
then of 4 processes at any moment, which takes minutes; by hand.
"""
import os
import pathlib
import random
import resource
import re
import signal
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
from network_cable import Cable, NoNamespaces  # noqa: E402
from other_python import skip  # noqa: E402
from small_runs import (DEADLINE, end_well, expect_same_run, metrics, train, wait_until,  # noqa: E402
                        write_text)

PROGRAM = sys.argv[1]


def begin(command, err, **more):
    with open(err, "w") as said:
        return subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                stderr=said, **more)


def children_of(launcher):
    """Its processes in the order of their ranks."""
    try:
        pids = pathlib.Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
        ranks = {}
        for pid in pids:
            variables = pathlib.Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            ranks.update({int(v[5:]): int(pid) for v in variables if v.startswith(b"RANK=")})
        return [ranks[rank] for rank in sorted(ranks)]
    except OSError:
        return []  # one has just ended


def restart(folder, text):
    launch = [PROGRAM, "launch", "--processes", "2"]
    end_well([*launch, *train(text, folder / "whole", steps=48)])
    launcher = begin([*launch, "--restarts", "1", *train(text, folder / "killed", steps=48)],
                     folder / "err")
    wait_until(lambda: len(metrics(folder / "killed")) >= 9 or launcher.poll() is not None, "step 9")
    os.kill(children_of(launcher)[1], signal.SIGKILL)
    assert launcher.wait(DEADLINE) == 0, (folder / "err").read_text()
    said = (folder / "err").read_text()
    assert "process 1 of 2 was killed by SIGKILL; 2 processes start again (restart 1 of 1)" in said, said
    expect_same_run(folder / "killed", folder / "whole", 48)


def full_disk(folder, text):
    """Process 1 may write files of 4 KiB only once the first checkpoint stands."""
    launcher = begin([PROGRAM, "launch", "--processes", "2", "--", "sh", "-c", "trap '' XFSZ; exec \"$@\"", "sh", PROGRAM,
                      *train(text, folder / "run", "--shard", "optimizer", steps=100000, save_every=20)],
                     folder / "err")
    checkpoints = folder / "run/checkpoints"
    wait_until(lambda: (checkpoints / "step-00000020").exists() or launcher.poll() is not None, "a checkpoint")
    victim = children_of(launcher)[1]
    resource.prlimit(victim, resource.RLIMIT_FSIZE, (4096, 4096))
    code = launcher.wait(DEADLINE)
    said = (folder / "err").read_text()
    assert code == 1, (code, said)
    named = "halftone: error: the checkpoint was not written: process 1 of 2: cannot write"
    assert said.count(named) == 2, said  # by both
    left = sorted(path.name for path in checkpoints.iterdir() if path.name.startswith("step-"))
    assert left, said
    before = int(left[-1][5:])
    end_well([PROGRAM, "train", "--resume", folder / "run", "--max-steps", str(before + 2)])
    assert metrics(folder / "run")[-1]["step"] == before + 2


def both_ends(cable, folder, words):
    place = {**os.environ, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "10.83.61.1",
             "MASTER_PORT": "29511", "OMP_NUM_THREADS": "1"}
    return [begin(["ip", "netns", "exec", name, PROGRAM, *words], folder / f"err{rank}", env={**place, "RANK": str(rank)})
            for rank, name in enumerate(cable.names)]


def namespaces(folder, text):
    with Cable() as cable:
        ends = both_ends(cable, folder, train(text, folder / "cable", steps=6))
        for rank, end in enumerate(ends):
            assert end.wait(DEADLINE) == 0, (folder / f"err{rank}").read_text()
        end_well([PROGRAM, "launch", "--processes", "2", *train(text, folder / "loopback", steps=6)])
        expect_same_run(folder / "cable", folder / "loopback", 6)
        ends = both_ends(cable, folder, train(text, folder / "killed", steps=1000000, save_every=1000000))
        wait_until(lambda: len(metrics(folder / "killed")) >= 3 or ends[0].poll() is not None, "step 3")
        ends[1].kill()  # `ip` has become the program
        ends[1].wait()
        code = ends[0].wait(DEADLINE)
        said = (folder / "err0").read_text()
        assert (code, said.splitlines()[-1]) == (1, "halftone: error: process 1 of 2 has ended"), (code, said)


def kills(folder, text, number=30, *groups):
    chance = random.Random(17)
    for processes in groups or (2, 4):
        words, steps = [PROGRAM, "launch", "--processes", str(processes)], 400
        shard = ["--shard", "parameters"]
        end_well([*words, *train(text, folder / f"whole{processes}", *shard, steps=steps)])
        run, done = folder / f"killed{processes}", 0
        launcher = begin([*words, "--restarts", "1000", *train(text, run, *shard, steps=steps)], folder / "err")
        while done < number and launcher.poll() is None:
            at = len(metrics(run))
            ahead = chance.randint(1, 2 * steps // number)
            wait_until(lambda: not at <= len(metrics(run)) < at + ahead or launcher.poll() is not None, "a step")
            all_of_them = children_of(launcher)
            if len(all_of_them) == processes:
                os.kill(chance.choice(all_of_them), signal.SIGKILL)
                done += 1
                restarted = f"(restart {done} of 1000)"
                wait_until(lambda: restarted in (folder / "err").read_text() or launcher.poll() is not None, restarted)
        assert launcher.wait(DEADLINE) == 0, (folder / "err").read_text()
        expect_same_run(run, folder / f"whole{processes}", steps)
        print(f"{processes} processes: {done} kills, {steps} steps, each once, and the undisturbed run's bits", flush=True)


def main():
    case = {"restart": restart, "full_disk": full_disk, "namespaces": namespaces, "kills": kills}[sys.argv[2]]
    with tempfile.TemporaryDirectory() as folder:
        text, folder = write_text(folder), pathlib.Path(folder)
        try:
            case(folder, text, *map(int, sys.argv[3:]))
        except NoNamespaces as none:
            skip(str(none))


if __name__ == "__main__":
    main()
