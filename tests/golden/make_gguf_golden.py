# SPDX-License-Identifier: Apache-2.0
"""Writes gguf_python.gguf and q8_0.gguf with llama.cpp's own Python package, for tests/io.

pip install numpy gguf && python tests/golden/make_gguf_golden.py

gguf_python.gguf: metadata of every type, and the numbers of rule() as F32, F16, BF16 and Q8_0.
q8_0.gguf: numbers that round in every way ("values", F32) and their blocks ("blocks", Q8_0).
"""
import pathlib

import gguf
import numpy as np

TYPE = gguf.GGMLQuantizationType
HERE = pathlib.Path(__file__).parent


def rule(*shape):
    """Element i is (7 i mod 101 - 50) / 16: tests/io/gguf_test.cpp rebuilds it."""
    count = int(np.prod(shape))
    return (((7 * np.arange(count)) % 101 - 50) / 16).astype(np.float32).reshape(shape)


def add(writer, name, values, kind):
    data = values if kind == TYPE.F32 else gguf.quants.quantize(values, kind)
    writer.add_tensor(name, data, raw_dtype=kind)


def write(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


writer = gguf.GGUFWriter(HERE / "gguf_python.gguf", "halftone-test")
writer.add_uint8("a.u8", 200)
writer.add_int8("a.i8", -100)
writer.add_uint16("a.u16", 60000)
writer.add_int16("a.i16", -30000)
writer.add_uint32("a.u32", 4000000000)
writer.add_int32("a.i32", -2000000000)
writer.add_uint64("a.u64", 1 << 40)
writer.add_int64("a.i64", -(1 << 40))
writer.add_float32("a.f32", 0.1)
writer.add_float64("a.f64", 0.1)
writer.add_bool("a.bool", True)
writer.add_string("a.string", "床前明月光\n\"quoted\"")
writer.add_array("a.strings", ["one", "", "诗"])
writer.add_array("a.integers", [3, -1, 4])
writer.add_array("a.numbers", [0.5, -2.0])
add(writer, "vector", rule(5), TYPE.F32)
add(writer, "cube", rule(2, 3, 4), TYPE.F32)
add(writer, "half", rule(3, 5), TYPE.F16)
add(writer, "bfloat", rule(3, 5), TYPE.BF16)
add(writer, "blocks", rule(3, 64), TYPE.Q8_0)
write(writer)

generator = np.random.default_rng(7)
values = generator.standard_normal((12, 64)).astype(np.float32)
values[0] = 0  # no scale
values[1, :32] = np.arange(32) - 12.5  # the largest is 19.5
values[2, :32] = (np.arange(32) - 16) * 0.5  # with the next line: halves, rounded away from zero
values[2, 0] = 127
values[3] *= 1e-9  # a scale that fp16 has as 0
values[4] *= 1e-5  # one that fp16 has as a subnormal
values[5] *= 1e4
writer = gguf.GGUFWriter(HERE / "q8_0.gguf", "halftone-test")
add(writer, "values", values, TYPE.F32)
add(writer, "blocks", values, TYPE.Q8_0)
add(writer, "read", gguf.quants.dequantize(gguf.quants.quantize(values, TYPE.Q8_0), TYPE.Q8_0), TYPE.F32)
write(writer)
