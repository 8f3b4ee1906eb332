# SPDX-License-Identifier: Apache-2.0
"""Writes emoji.ttf: a font of colour bitmaps (CBDT, CBLC) with three pictures, packed by hand.

python tests/golden/make_font_golden.py
U+1F600 is 4 x 3 pixels of opaque red, U+2764 of green with an alpha of 128, and both together, a ligature of GSUB, of
blue with an alpha that grows from 0 in steps of 20.
emoji_sbix.ttf is Apple's kind: the same red, and for U+2764 a PNG that says 32767 x 32767 pixels and has none.
"""
from __future__ import annotations

import pathlib
import struct
import zlib

WIDTH, HEIGHT = 4, 3
GLYPHS = 4  # the first is drawn for what is missing


def png_chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(pixel) -> bytes:
    rows = b"".join(b"\0" + b"".join(bytes(pixel(y * WIDTH + x)) for x in range(WIDTH)) for y in range(HEIGHT))
    return (b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 6, 0, 0, 0)) +
            png_chunk(b"IDAT", zlib.compress(rows, 9)) + png_chunk(b"IEND", b""))


def bitmaps() -> tuple[bytes, bytes]:
    """CBDT and CBLC."""
    pictures = [png(lambda i: (255, 0, 0, 255)), png(lambda i: (0, 200, 0, 128)), png(lambda i: (0, 0, 255, 20 * i))]
    glyphs = [struct.pack(">BBbbBI", HEIGHT, WIDTH, 0, HEIGHT, WIDTH, len(picture)) + picture for picture in pictures]
    data = struct.pack(">HH", 3, 0)
    offsets = [0]
    for glyph in glyphs:
        data += glyph
        offsets.append(offsets[-1] + len(glyph))
    index = struct.pack(">HHI", 1, 17, 4) + struct.pack(f">{len(offsets)}I", *offsets)
    array = struct.pack(">HHI", 1, GLYPHS - 1, 8)
    line = struct.pack(">bbBbbbbbbbbb", HEIGHT, 0, WIDTH, *[0] * 9)
    size = struct.pack(">IIII", 8 + 48, len(array + index), 1, 0) + line * 2
    size += struct.pack(">HHBBBb", 1, GLYPHS - 1, WIDTH, HEIGHT, 32, 1)
    return data, struct.pack(">HHI", 3, 0, 1) + size + array + index


def sbix() -> bytes:
    header = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", struct.pack(">IIBBBBB", 32767, 32767, 8, 6, 0, 0, 0))
    huge = header + png_chunk(b"IDAT", zlib.compress(b"", 9)) + png_chunk(b"IEND", b"")
    glyphs = [b"", *(struct.pack(">hh4s", 0, 0, b"png ") + picture for picture in (png(lambda i: (255, 0, 0, 255)), huge)), b""]
    offsets = [4 + 4 * (GLYPHS + 1)]
    for glyph in glyphs:
        offsets.append(offsets[-1] + len(glyph))
    strike = struct.pack(">HH", HEIGHT, 72) + struct.pack(f">{len(offsets)}I", *offsets) + b"".join(glyphs)
    return struct.pack(">HHII", 1, 1, 1, 12) + strike


def ligature() -> bytes:
    """GSUB: glyphs 1 and 2 become 3."""
    script = struct.pack(">H4sHHHHHHH", 1, b"DFLT", 8, 4, 0, 0, 0xFFFF, 1, 0)
    feature = struct.pack(">H4sHHHH", 1, b"ccmp", 8, 0, 1, 0)
    subtable = struct.pack(">12H", 1, 18, 1, 8, 1, 4, 3, 2, 2, 1, 1, 1)
    lookups = struct.pack(">HHHHHH", 1, 4, 4, 0, 1, 8) + subtable
    head = 10
    return (struct.pack(">HHHHH", 1, 0, head, head + len(script), head + len(script) + len(feature)) +
            script + feature + lookups)


def font(tables: dict[str, bytes]) -> bytes:
    count = len(tables)
    power = 1 << (count.bit_length() - 1)
    directory = struct.pack(">IHHHH", 0x00010000, count, power * 16, power.bit_length() - 1, (count - power) * 16)
    offset = len(directory) + 16 * count
    body = b""
    for name, table in sorted(tables.items()):
        padded = table + b"\0" * (-len(table) % 4)
        total = sum(struct.unpack(f">{len(padded) // 4}I", padded)) & 0xFFFFFFFF
        directory += struct.pack(">4sIII", name.encode(), total, offset + len(body), len(table))
        body += padded
    return directory + body


if __name__ == "__main__":
    groups = struct.pack(">III", 0x2764, 0x2764, 2) + struct.pack(">III", 0x1F600, 0x1F600, 1)
    cbdt, cblc = bitmaps()
    tables = {
        "head": struct.pack(">IIIIHHQQhhhhHHhhh", 0x00010000, 0x00010000, 0, 0x5F0F3CF5, 0, 16, 0, 0, 0, 0, 16, 16, 0, 8, 2, 0, 0),
        "hhea": struct.pack(">IhhhHhhhhhhhhhhhH", 0x00010000, 12, 0, 0, 16, 0, 0, 16, 1, 0, 0, 0, 0, 0, 0, 0, 1),
        "hmtx": struct.pack(">Hh", 16, 0) + struct.pack(">h", 0) * (GLYPHS - 1),
        "maxp": struct.pack(">IH", 0x00005000, GLYPHS),
        "cmap": struct.pack(">HHHHI", 0, 1, 3, 10, 12) + struct.pack(">HHIII", 12, 0, 16 + len(groups), 0, 2) + groups,
        "CBDT": cbdt, "CBLC": cblc, "GSUB": ligature(),
    }
    folder = pathlib.Path(__file__).parent
    (folder / "emoji.ttf").write_bytes(font(tables))
    del tables["CBDT"], tables["CBLC"]
    (folder / "emoji_sbix.ttf").write_bytes(font({**tables, "sbix": sbix()}))
