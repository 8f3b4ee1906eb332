#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes chats of the poems that `halftone data fetch fortunes-zh` gives: conversations for --task sft, and for --task dpo
pairs of the poem that was asked for and another one.

    python3 scripts/poem_chats.py data/fortunes-zh data/poem-chats

writes chats.jsonl and preferences.jsonl into the second folder, which it makes.
"""

import json
import re
import sys
from pathlib import Path

TITLE = re.compile(r"^(?:题目[:：])?《(.+)》$")
AUTHOR = re.compile(r"^作者[:：]\s*([^（(]+)")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def poems(folder):
    """(title, author, lines) of each poem that names both."""
    for name in ("tang300", "song100"):
        text = COLOUR.sub("", (folder / name).read_text(encoding="utf-8"))
        for piece in re.split(r"^%\n", text, flags=re.MULTILINE):
            lines = [line.strip() for line in piece.splitlines() if line.strip()]
            if len(lines) < 3:
                continue
            title, author = TITLE.match(lines[0]), AUTHOR.match(lines[1])
            if title and author:
                yield title.group(1), author.group(1).strip(), lines[2:]


def conversation(question, answer):
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def chats(title, author, lines):
    poem = "\n".join(lines)
    yield conversation(f"请背诵《{title}》。", poem)
    yield conversation(f"请背诵{author}的《{title}》。", poem)
    yield conversation(f"《{title}》的作者是谁？", f"《{title}》的作者是{author}。")
    if len(lines) > 1:
        yield conversation(f"“{lines[0]}”的下一句是什么？", lines[1])
    yield conversation(f"请背诵《{title}》。", poem) + conversation("作者是谁？", f"{author}。")


def write_lines(path, rows):
    with path.open("w", encoding="utf-8") as file:
        count = 0
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    print(f"{path}: {count} lines")


def preferences(all_poems):
    for i, (title, _, lines) in enumerate(all_poems):
        other = all_poems[(i + 1) % len(all_poems)][2]
        question = f"请背诵《{title}》。"
        yield {"chosen": conversation(question, "\n".join(lines)),
               "rejected": conversation(question, "\n".join(other))}


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__.strip())
    source, target = Path(sys.argv[1]), Path(sys.argv[2])
    try:
        all_poems = list(poems(source))
    except OSError as error:
        sys.exit(f"{error}; `halftone data fetch fortunes-zh` gives this folder")
    target.mkdir(parents=True, exist_ok=True)
    write_lines(target / "chats.jsonl", ({"conversations": chat} for poem in all_poems for chat in chats(*poem)))
    write_lines(target / "preferences.jsonl", preferences(all_poems))


if __name__ == "__main__":
    main()
