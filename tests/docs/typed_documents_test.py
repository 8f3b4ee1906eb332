#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Types what README.md and DOCUMENTS of docs/ tell a reader to type, in the order in which it stands. README_zh.md and
docs/tutorial_zh.md aren't typed again: they must show the same blocks.

Usage: typed_documents_test.py SOURCE BUILD SCRATCH LIBTORCH

    sh      run by bash in SCRATCH, where `halftone` and `scripts/` are the built ones. Only the lengths of runs and of
            their rows are cut short, `data fetch` gives a text that is there, and cmake configures and builds nothing.
    toml    written to the file that a mark names, and a model is trained from it
    cmake   is part of a project that finds the installed package
    cpp     stands, line by line, in a source that the suite compiles: COMPILED
    (none)  is output

A mark, an HTML comment on the line before a block, says what is different about it:

    <!-- untested: WHY -->   is not typed; UNTESTED counts them
    <!-- may fail: WHY -->   is typed, and may end with any exit code
    <!-- file: NAME -->      of a toml block

Commands and flags in running text (`halftone eval RUN --data PATH`) must be those of the program.
"""
from __future__ import annotations

import functools
import os
import pathlib
import re
import subprocess
import sys

DOCUMENTS = ["README.md", "docs/guide.md", "docs/trainer.md", "docs/tutorial.md", "docs/many_processes.md"]
TRANSLATIONS = {"README.md": "README_zh.md", "docs/tutorial.md": "docs/tutorial_zh.md"}
COMPILED = ["tests/find_package/main.cpp", "tests/docs/snippets_test.cpp", "examples/*.cpp"]
UNTESTED = {"README.md": 3, "docs/guide.md": 7, "docs/trainer.md": 0,
            "docs/tutorial.md": 0, "docs/many_processes.md": 8}
BLOCK = re.compile(r"(?:^<!-- ([^\n]*?) -->\n)?^```(\w*)\n(.*?)^```$", re.S | re.M)
NO_COMMANDS = ["halftone was built without CUDA"]  # what the program says
INLINE = re.compile(r"(?<!`)`(halftone [^`\n]+)`(?!`)")

HALFTONE = """#!/usr/bin/env bash
# The built program, with runs cut short and without a network.
steps=2
words=()
while (($# > 0)); do
  case $1 in
    --max-time | --max-steps) shift ;;
    --resume) steps=4 words+=("$1") ;;
    *) words+=("$1") ;;
  esac
  shift
done
case ${words[0]} in
  data) echo "$PWD/poems" && exit ;;
  train) words+=(--max-steps "$steps") ;;
  bench) words+=(--max-steps 1) ;;
  tune) words+=(--max-time 5s) ;;
esac
# Not where a run says how long its rows are.
case ${words[*]} in
  "plan "* | *--resume* | *--seq-len*) ;;
  "train "* | "bench "* | *" --preset "* | "compare "*.toml*) words+=(--seq-len 64) ;;
esac
exec "$BUILD/halftone" "${words[@]}"
"""

CMAKE = """#!/usr/bin/env bash
# cmake, for which all is configured and built; the targets that it is to build must be there.
case $1 in
  --preset) exit ;;
  --build) for ((i = 1; i < $#; ++i)); do [[ ${!i} != --target ]] || { next=$((i + 1)); target=${!next}; }; done
    exec ninja -C "$BUILD" -t query "${target:-all}" >/dev/null ;;
  --install) exec "$CMAKE" --install "$BUILD" "${@:3}" ;;
esac
exec "$CMAKE" "$@"
"""

CONSUMER = """cmake_minimum_required(VERSION 3.25)
project(consumer LANGUAGES CXX)
file(WRITE "${{CMAKE_BINARY_DIR}}/main.cpp" "int main() {{}}")
add_executable(my_program "${{CMAKE_BINARY_DIR}}/main.cpp")
{block}"""


class Block:
    def __init__(self, document: str, text: str, match: re.Match[str]):
        self.mark, self.language, self.body = match.group(1) or "", match.group(2), match.group(3)
        self.place = f"{document}:{text.count(chr(10), 0, match.start(2)) + 1}"

    def marked(self, word: str) -> str | None:
        return self.mark.removeprefix(word + ":").strip() if self.mark.startswith(word + ":") else None


def blocks_of(source: pathlib.Path, document: str) -> list[Block]:
    text = (source / document).read_text(encoding="utf-8")
    return [Block(document, text, match) for match in BLOCK.finditer(text)]


def code_lines(text: str) -> list[str]:
    """Lines of C++ as they are compared: no comments, no indentation, none that is empty."""
    lines = (re.sub(r"//.*", "", line).strip() for line in text.splitlines())
    return [line for line in lines if line]


def stands_in(part: list[str], lines: list[str]) -> bool:
    return any(lines[i:i + len(part)] == part for i in range(len(lines) - len(part) + 1))


class Reader:
    """Somebody who goes through the documents and types what they say."""

    def __init__(self, source: pathlib.Path, build: pathlib.Path, scratch: pathlib.Path,
                 libtorch: pathlib.Path):
        self.source, self.build, self.scratch = source, build, scratch
        self.problems: list[str] = []
        self.typed = self.untested = self.shown = 0
        self.compiled = [code_lines(path.read_text(encoding="utf-8"))
                         for pattern in COMPILED for path in sorted(source.glob(pattern))]
        cmake = subprocess.run(["which", "cmake"], stdout=subprocess.PIPE, check=True).stdout.decode().strip()
        self.environment = dict(os.environ, BUILD=str(build), CMAKE=cmake, HOME=str(scratch / "home"),
                                HALFTONE_LIBTORCH=str(libtorch),  # else set-up would unpack one into the empty cache
                                XDG_CACHE_HOME=str(scratch / "cache"), OMP_WAIT_POLICY="PASSIVE",
                                PATH=f"{scratch / 'bin'}:{os.environ['PATH']}")
        for name in ("HALFTONE_MATMUL", "HALFTONE_REFERENCE_KERNELS", "HALFTONE_COMPOSED", "HALFTONE_CPU_GEMM"):
            self.environment.pop(name, None)

    def prepare(self) -> None:
        for name in ("bin", "home", "poems"):
            (self.scratch / name).mkdir(parents=True)
        for name, text in (("halftone", HALFTONE), ("cmake", CMAKE)):
            path = self.scratch / "bin" / name
            path.write_text(text)
            path.chmod(0o755)
        for entry in self.source.iterdir():
            if entry.name not in ("build", "runs") and not entry.name.startswith((".git", "build")):
                (self.scratch / entry.name).symlink_to(entry)
        (self.scratch / "build").symlink_to(self.build)
        verses = "".join(f"春眠不覺曉，處處聞啼鳥。 {i * i} birds sing at dawn\n" for i in range(400))
        for name in ("poems/tang", "poems.txt", "more.txt"):
            (self.scratch / name).write_text(verses, encoding="utf-8")

    def run(self, command: list[str]) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(command, cwd=self.scratch, env=self.environment, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)

    def must_succeed(self, block: Block, command: list[str]) -> None:
        done = self.run(command)
        if done.returncode != 0 and block.marked("may fail") is None:
            self.problems.append(f"{block.place}: ended with {done.returncode}:\n{done.stdout.decode()[-2000:]}")

    def type_cpp(self, block: Block) -> None:
        for part in re.split(r"\n\s*(?:\.\.\.)?\s*\n|\n\s*\.\.\.", block.body):
            lines = code_lines(part)
            if lines and not any(stands_in(lines, known) for known in self.compiled):
                self.problems.append(f"{block.place}: this stands in no source that is compiled "
                                     f"({', '.join(COMPILED)}):\n{part}")

    def type_toml(self, block: Block) -> None:
        name = block.marked("file")
        if name is None:
            self.problems.append(f"{block.place}: expected a mark that names the file: <!-- file: NAME -->")
            return
        (self.scratch / name).write_text(block.body, encoding="utf-8")
        self.must_succeed(block, ["halftone", "train", name, "--out", f"runs/{name}"])

    def type_cmake(self, block: Block) -> None:
        folder = self.scratch / "consumer"
        folder.mkdir(exist_ok=True)
        (folder / "CMakeLists.txt").write_text(CONSUMER.format(block=block.body), encoding="utf-8")
        self.must_succeed(block, ["cmake", "-S", "consumer", "-B", "consumer/build", "-G", "Ninja",
                                  f"-DCMAKE_PREFIX_PATH={self.environment['HOME']}/halftone"])

    def type_block(self, block: Block) -> None:
        if not block.language:
            self.shown += 1
        elif (reason := block.marked("untested")) is not None:
            self.untested += 1
            print(f"{block.place}: untested: {reason}")
        else:
            self.typed += 1
            kind = {"sh": lambda: self.must_succeed(block, ["bash", "-euo", "pipefail", "-c", block.body]),
                    "cpp": lambda: self.type_cpp(block), "toml": lambda: self.type_toml(block),
                    "cmake": lambda: self.type_cmake(block)}.get(block.language)
            if kind is None:
                self.problems.append(f"{block.place}: a block of {block.language} can't be typed; mark it")
            else:
                kind()

    @functools.cache
    def flags_of(self, command: tuple[str, ...]) -> set[str]:
        """Those that the help of a command names, --help among them; none where there is no such command."""
        done = self.run([str(self.build / "halftone"), *command, "--help"])
        return set(re.findall(r"--[a-z][a-z0-9.-]*", done.stdout.decode())) if done.returncode == 0 else set()

    def check_inline(self, document: str) -> None:
        """Commands in running text: the program knows them, and each of their flags."""
        for span in INLINE.findall((self.source / document).read_text(encoding="utf-8")):
            words = span.split()
            command = [word for word in words[1:3] if re.fullmatch(r"[a-z]+", word)]
            if words[1].isupper() or span in NO_COMMANDS:
                continue  # halftone COMMAND
            known = self.flags_of(tuple(command)) or self.flags_of(tuple(command[:1]))
            wrong = [flag for flag in re.findall(r"--[a-z][a-z0-9.-]*", span) if flag not in known]
            if not known or wrong:
                self.problems.append(f"{document}: `{span}`: the program knows no {' '.join(wrong) or words[1]}")

    def read(self, document: str) -> None:
        before = self.untested
        for block in blocks_of(self.source, document):
            self.type_block(block)
        if self.untested - before != UNTESTED[document]:
            self.problems.append(f"{document}: {self.untested - before} blocks are untested, UNTESTED says "
                                 f"{UNTESTED[document]}")
        self.check_inline(document)


def untranslated(source: pathlib.Path, document: str) -> list[list[str]]:
    """The code of a document without comments, which alone may differ in its translation."""
    return [[block.mark, re.sub(r"\s*(#|//) .*", "", block.body)]
            for block in blocks_of(source, document) if block.language]


def main(source: pathlib.Path, build: pathlib.Path, scratch: pathlib.Path, libtorch: pathlib.Path) -> int:
    reader = Reader(source, build, scratch, libtorch)
    reader.prepare()
    for document in DOCUMENTS:
        reader.read(document)
    for english, chinese in TRANSLATIONS.items():
        if untranslated(source, english) != untranslated(source, chinese):
            reader.problems.append(f"{english} and {chinese} show different code")
        reader.check_inline(chinese)
    print(f"{reader.typed} blocks typed, {reader.untested} untested, {reader.shown} of output")
    print("\n".join(reader.problems) or "documents: all as they say")
    return 1 if reader.problems else 0


if __name__ == "__main__":
    sys.exit(main(*(pathlib.Path(argument).resolve() for argument in sys.argv[1:5])))
