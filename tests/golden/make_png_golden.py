# SPDX-License-Identifier: Apache-2.0
"""Writes png/: small PNG files of every kind, and png/pixels.json with what they show.

python tests/golden/make_png_golden.py
They are packed by hand (struct, zlib), so that no library that halftone uses has a part in them. 16-bit samples are
rounded as PNG's specification says: value / 257.
"""
from __future__ import annotations

import json
import pathlib
import struct
import zlib

FOLDER = pathlib.Path(__file__).parent / "png"
WIDTH, HEIGHT = 11, 9
GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
CHANNELS = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGBA: 4}
PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def sample(x: int, y: int, channel: int, depth: int) -> int:
    return (x * 7919 + y * 104729 + channel * 1299709 + x * y * 31) % (1 << depth)


def packed_row(values: list[int], depth: int) -> bytes:
    if depth == 16:
        return b"".join(struct.pack(">H", value) for value in values)
    bits = "".join(format(value, f"0{depth}b") for value in values)
    bits += "0" * (-len(bits) % 8)
    return bytes(int(bits[at:at + 8], 2) for at in range(0, len(bits), 8))


def filtered(row: bytes, above: bytes, step: int, kind: int) -> bytes:
    """A row by filter 0 (none), 1 (left), 2 (above) or 3 (mean)."""
    def guess(at: int) -> int:
        left = row[at - step] if at >= step else 0
        return (0, left, above[at], (left + above[at]) // 2)[kind]
    return bytes([kind]) + bytes((value - guess(at)) % 256 for at, value in enumerate(row))


def packed_picture(pixels, kind: int, depth: int, interlaced: bool) -> bytes:
    step = max(1, CHANNELS[kind] * depth // 8)
    out = b""
    for x0, y0, dx, dy in PASSES if interlaced else ((0, 0, 1, 1),):
        columns = range(x0, WIDTH, dx)
        above = b""
        for number, y in enumerate(range(y0, HEIGHT, dy)):
            if not columns:
                break
            row = packed_row([value for x in columns for value in pixels[y][x]], depth)
            out += filtered(row, above or bytes(len(row)), step, number % 4 if depth >= 8 else 0)
            above = row
    return out


def shown(values: list[int], kind: int, depth: int, palette) -> list[int]:
    if kind == PALETTE:
        return palette[values[0]]
    return [round(value * 255 / ((1 << depth) - 1)) for value in values]


def write(name: str, kind: int, depth: int, interlaced: bool = False, transparent: bool = False) -> dict:
    pixels = [[[sample(x, y, c, min(depth, 4) if kind == PALETTE else depth) for c in range(CHANNELS[kind])]
               for x in range(WIDTH)] for y in range(HEIGHT)]
    palette = [[sample(i, 3, c, 8) for c in range(3)] for i in range(16)]
    alpha = [sample(i, 5, 1, 8) for i in range(16)]
    parts = [chunk(b"IHDR", struct.pack(">IIBBBBB", WIDTH, HEIGHT, depth, kind, 0, 0, int(interlaced)))]
    if kind == PALETTE:
        parts.append(chunk(b"PLTE", bytes(sum(palette, []))))
        if transparent:
            parts.append(chunk(b"tRNS", bytes(alpha)))
            palette = [[*colour, a] for colour, a in zip(palette, alpha)]
    data = zlib.compress(packed_picture(pixels, kind, depth, interlaced), 9)
    parts += [chunk(b"IDAT", data[:len(data) // 2]), chunk(b"IDAT", data[len(data) // 2:]), chunk(b"IEND", b"")]
    (FOLDER / f"{name}.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    rows = [[shown(pixel, kind, depth, palette) for pixel in row] for row in pixels]
    return {"channels": len(rows[0][0]), "pixels": [value for row in rows for pixel in row for value in pixel]}


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    files = {
        "grey1": write("grey1", GREY, 1), "grey4": write("grey4", GREY, 4), "grey8": write("grey8", GREY, 8),
        "grey16": write("grey16", GREY, 16), "grey_alpha8": write("grey_alpha8", GREY_ALPHA, 8),
        "rgb8": write("rgb8", RGB, 8), "rgb8_interlaced": write("rgb8_interlaced", RGB, 8, interlaced=True),
        "rgba8": write("rgba8", RGBA, 8), "rgba16_interlaced": write("rgba16_interlaced", RGBA, 16, interlaced=True),
        "palette4": write("palette4", PALETTE, 4), "palette8_alpha": write("palette8_alpha", PALETTE, 8, transparent=True),
    }
    text = json.dumps({"width": WIDTH, "height": HEIGHT, "files": files}, separators=(",", ":"))
    (FOLDER / "pixels.json").write_text(text + "\n")
