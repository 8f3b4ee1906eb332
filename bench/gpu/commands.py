# SPDX-License-Identifier: Apache-2.0
"""Programs that are run under a time limit, with what they print kept."""
from __future__ import annotations

import os
import pathlib
import re
import signal
import subprocess
import threading
import time

TAIL_LINES, ERROR_LINES = 15, 6
ERROR = re.compile(r"\b(fatal |CMake )?[Ee]rror\b[: ]")


class CheckError(Exception):
    """One sentence for the person who runs the check; `tail` are the last lines that a program printed."""

    def __init__(self, message: str, tail: list[str] | None = None):
        super().__init__(message)
        self.tail = tail or []


def last_lines(text: str) -> list[str]:
    """The last ones, and before them the first that name errors: a build prints much after its first."""
    lines = [line[:400] for line in text.splitlines() if line.strip()]
    return [line for line in lines[:-TAIL_LINES] if ERROR.search(line)][:ERROR_LINES] + lines[-TAIL_LINES:]


class Deadline:
    def __init__(self, seconds: float):
        self.end = time.monotonic() + seconds

    def left(self) -> float:
        return max(self.end - time.monotonic(), 0.0)

    def within(self, seconds: float) -> Deadline:
        """The earlier of this one and one that many seconds from now."""
        return Deadline(min(seconds, self.left()))


class Log:
    """Everything that was run and printed, for who wants to know more than the table says."""

    def __init__(self, path: pathlib.Path):
        self.path = path
        self.lock = threading.Lock()

    def add(self, command: list[str], output: str) -> None:
        with self.lock, open(self.path, "a", encoding="utf-8") as file:
            file.write("$ " + " ".join(command) + "\n" + output.rstrip("\n") + "\n\n")


class Runner:
    """Runs programs in `folder`, with `environment` on top of this process's own."""

    def __init__(self, folder: pathlib.Path, environment: dict[str, str], log: Log):
        self.folder, self.log = folder, log
        self.environment = {**os.environ, **environment}

    def start(self, command: list, **streams) -> subprocess.Popen:
        words = [str(word) for word in command]
        try:
            return subprocess.Popen(words, cwd=self.folder, env=self.environment, text=True, errors="replace",
                                    start_new_session=True, **streams)
        except OSError as error:
            raise CheckError(f"cannot run {words[0]}: {error.strerror}") from None

    def run(self, command: list, deadline: Deadline) -> str:
        """What it printed on stdout; CheckError unless it ended with 0 in time."""
        words = [str(word) for word in command]
        name = pathlib.Path(words[0]).name
        process = self.start(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        limit = deadline.left()
        try:
            out, err = process.communicate(timeout=limit)
            late = False
        except subprocess.TimeoutExpired:
            stop(process)
            out, err = process.communicate()
            late = True
        self.log.add(words, out + err)
        if late:
            raise CheckError(f"{name} was stopped at its limit of {limit:.0f} s", last_lines(out + err))
        if process.returncode != 0:
            raise CheckError(f"{name} ended with {process.returncode}", last_lines(out + err))
        return out


def stop(process: subprocess.Popen) -> None:
    """The program and what it has started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


class Dialogue:
    """A program that answers lines with lines: says "ready", then an answer for each number it is given."""

    def __init__(self, runner: Runner, command: list, deadline: Deadline):
        self.runner, self.command = runner, [str(word) for word in command]
        self.errors: list[str] = []
        self.process = runner.start(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.reader = threading.Thread(target=self._keep_errors, daemon=True)
        self.reader.start()
        self.timer = threading.Timer(deadline.left(), stop, [self.process])
        self.timer.daemon = True
        self.timer.start()

    def _keep_errors(self) -> None:
        for line in self.process.stderr:
            self.errors.append(line)

    def answer(self) -> str:
        """The next line; CheckError where the program has ended, or was stopped at its limit."""
        line = self.process.stdout.readline()
        if line:
            return line.strip()
        code = self.process.wait()
        self.reader.join(timeout=5)
        why = "was stopped at its limit" if code == -signal.SIGKILL else f"ended with {code}"
        raise CheckError(f"{pathlib.Path(self.command[0]).name} {why}", last_lines("".join(self.errors)))

    def ask(self, number: int) -> str:
        try:
            self.process.stdin.write(f"{number}\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # answer() says why
        return self.answer()

    def close(self) -> None:
        self.timer.cancel()
        stop(self.process)
        self.process.wait()
        self.reader.join(timeout=5)
        self.runner.log.add(self.command, "".join(self.errors))
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            try:
                stream.close()
            except BrokenPipeError:
                pass
