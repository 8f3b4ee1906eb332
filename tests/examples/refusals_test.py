#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What emoji_painter and emoji_trio say to what they cannot use: one line that names it and how to mend it, and exit code 2.

Usage: refusals_test.py PAINTER TRIO PAINTER_RUN TRIO_RUN FOLDER SPEECH
"""
import pathlib
import re
import subprocess
import sys
import wave

FAULTS = []


def refuse(expected: str, *command: str) -> None:
    """`expected`: a regular expression of the line behind "error: "."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    lines = done.stderr.splitlines()
    good = done.returncode == 2 and len(lines) == 1 and re.fullmatch("error: " + expected, lines[0])
    print("fine" if good else "WRONG", pathlib.Path(command[0]).name, *command[1:], "->", done.returncode, done.stderr)
    if not good:
        FAULTS.append(command)


def write_files(folder: pathlib.Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with wave.open(str(folder / "whole.wav"), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(16000)
        sound.writeframes(bytes(32000))
    (folder / "cut.wav").write_bytes((folder / "whole.wav").read_bytes()[:1000])
    (folder / "empty.wav").write_bytes(b"")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(50))


def main() -> None:
    painter, trio, painter_run, trio_run, folder, speech = sys.argv[1:]
    files = pathlib.Path(folder)
    write_files(files)
    for program, name in ((painter, "emoji_painter"), (trio, "emoji_trio")):
        refuse(f"expected a command, got ''; see '{name} --help'", program)
        refuse(f"expected a command, got 'frame'; see '{name} --help'", program, "frame")
        for number in ("-3", "many", "2.5"):
            refuse(f"--steps: expected an integer from [01] on, got {number}; see '{name} train --help'", program, "train",
                   "--steps", number)
        refuse(f"The following arguments were not expected: .*--hue.*; see '{name} train --help'", program, "train", "--hue", "3")
        refuse(f"--budget: .*lots; see '{name} plan --help'", program, "plan", "--budget", "lots")
        refuse(f"RUN is required; see '{name} compare --help'", program, "compare")
        refuse(f"--rows: .* from 1 on, got 0; see '{name} compare --help'", program, "compare", "runs/any", "--rows", "0")
        refuse("expected memory to be one of standard, lean, leanest, got 'leen'", program, "plan", "--memory", "leen",
               *(["--speech", speech] if program == trio else []))
    refuse("expected a --side .* multiple of --patch .*, got 60, 8 and 256", painter, "train", "--side", "60")
    refuse(".*'bf17-mixed'.*bf16-mixed.*", painter, "paint", painter_run, "cat", "--precision", "bf17-mixed")
    refuse(".*'/no/run' does not exist; expected a run.*", painter, "paint", "/no/run", "cat")
    refuse(f"'{trio_run}.*' has no hyper-parameter 'side', it has .*decoder_dim.*; is it of this model.*", painter, "paint",
           trio_run, "cat")
    refuse(".*'bf17-mixed'.*bf16-mixed.*", trio, "train", "--speech", speech, "--precision", "bf17-mixed")
    refuse(".*'/no/run' does not exist; expected a run.*", trio, "test", "/no/run")
    refuse(f"'{painter_run}.*' has no hyper-parameter 'decoder_dim', it has .*side.*; is it of this model.*", trio,
           "caption", painter_run, "🐙")
    refuse("expected an emoji, a FILE.png or a FILE.wav, got 'octopus'", trio, "caption", trio_run, "octopus")
    for name in ("broken.png", "cut.wav", "empty.wav"):
        refuse(f"'{re.escape(str(files / name))}' is not a whole (PNG|WAV) file: .*; fetch it again, or name another", trio,
               "caption", trio_run, str(files / name))
    for name in ("missing.png", "missing.wav"):
        refuse(f"cannot read '{re.escape(str(files / name))}': No such file or directory", trio, "caption", trio_run,
               str(files / name))
    if FAULTS:
        sys.exit(f"{len(FAULTS)} of these were answered otherwise than expected")


if __name__ == "__main__":
    main()
