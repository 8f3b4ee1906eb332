# SPDX-License-Identifier: Apache-2.0
"""Writes safetensors_python.safetensors with the reference implementation, for tests/io.

pip install torch==2.15.0 numpy safetensors && python tests/golden/make_safetensors_golden.py

The values follow the rule that tests/io/safetensors_test.cpp rebuilds: element i of every tensor is
(7 * i) % 11 - 3 (unsigned types: (7 * i) % 11; bool: odd i).
"""
import pathlib

import torch
from safetensors.torch import save_file

SHAPES = {"scalar": (), "empty": (0, 3), "row": (5,), "matrix": (3, 5), "诗/cube": (2, 3, 4)}
DTYPES = {
    "f64": torch.float64, "f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16,
    "i64": torch.int64, "i32": torch.int32, "i16": torch.int16, "i8": torch.int8,
    "u8": torch.uint8, "u16": torch.uint16, "u32": torch.uint32, "bool": torch.bool,
    "f8_e4m3": torch.float8_e4m3fn, "f8_e5m2": torch.float8_e5m2,
}


def values(shape, name, dtype):
    count = torch.Size(shape).numel()
    if name == "bool":
        numbers = [i % 2 for i in range(count)]
    else:
        numbers = [(7 * i) % 11 - (0 if name.startswith("u") else 3) for i in range(count)]
    return torch.tensor(numbers, dtype=torch.float32).reshape(shape).to(dtype)


tensors = {f"{name}.{place}": values(shape, name, dtype)
           for name, dtype in DTYPES.items() for place, shape in SHAPES.items()}
path = pathlib.Path(__file__).with_name("safetensors_python.safetensors")
save_file(tensors, path, metadata={"format": "pt", "poem": "床前明月光\n\"quoted\""})
