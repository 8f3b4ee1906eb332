# SPDX-License-Identifier: Apache-2.0
"""What torch.utils.flop_counter counts, for tests/inspect/operation_work_test.cpp.

    pip install torch==2.15.0 numpy
    python make_flop_golden.py

writes flops.json beside this file: a list of cases, one a line. A case names an operation of torch.nn.functional or
torch, the sizes of its tensors and its options; `forward` are the flops of a call, `backward` those of the gradients of
all its tensors, where it has them. All in fp32 on the CPU.
"""
import json
import pathlib

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

CASES = [
    {"op": "mm", "sizes": [[7, 5], [5, 3]]},
    {"op": "addmm", "sizes": [[7, 3], [7, 5], [5, 3]]},
    {"op": "bmm", "sizes": [[4, 7, 5], [4, 5, 3]]},
    {"op": "baddbmm", "sizes": [[4, 7, 3], [4, 7, 5], [4, 5, 3]]},
    {"op": "linear", "sizes": [[2, 6, 12], [7, 12], [7]]},
    {"op": "conv1d", "sizes": [[2, 4, 20], [6, 4, 5], [6]], "stride": 2, "padding": 1},
    {"op": "conv2d", "sizes": [[2, 4, 9, 8], [6, 4, 3, 3], [6]], "stride": 1, "padding": 1},
    {"op": "conv2d", "sizes": [[2, 4, 9, 9], [8, 4, 5, 3], [8]], "stride": 2, "padding": 0},
    {"op": "conv2d", "sizes": [[2, 8, 9, 9], [8, 8, 1, 1], [8]], "stride": 1, "padding": 0},
    {"op": "conv3d", "sizes": [[1, 2, 6, 6, 6], [3, 2, 3, 3, 3], [3]], "stride": 1, "padding": 1},
    {"op": "conv_transpose2d", "sizes": [[2, 4, 5, 5], [4, 6, 3, 3], [6]], "stride": 2, "padding": 1},
    {"op": "conv_transpose2d", "sizes": [[2, 4, 5, 5], [4, 4, 3, 3], [4]], "stride": 2, "padding": 0},
    {"op": "attention", "sizes": [[2, 3, 16, 8], [2, 3, 16, 8], [2, 3, 16, 8]]},
    {"op": "attention", "sizes": [[1, 4, 10, 8], [1, 4, 30, 8], [1, 4, 30, 8]]},
]


def call(case: dict, tensors: list[torch.Tensor]) -> torch.Tensor:
    if case["op"] == "attention":
        return F.scaled_dot_product_attention(*tensors)
    options = {name: case[name] for name in ("stride", "padding") if name in case}
    function = getattr(torch, case["op"]) if hasattr(torch, case["op"]) else getattr(F, case["op"])
    return function(*tensors, **options)


def main() -> None:
    torch.manual_seed(1)
    for case in CASES:
        tensors = [torch.randn(sizes, requires_grad=True) for sizes in case["sizes"]]
        with FlopCounterMode(display=False) as counter:
            result = call(case, tensors)
        case["forward"] = counter.get_total_flops()
        with FlopCounterMode(display=False) as counter:
            result.sum().backward()
        case["backward"] = counter.get_total_flops()
    text = "[\n" + ",\n".join(json.dumps(case) for case in CASES) + "\n]\n"
    (pathlib.Path(__file__).parent / "flops.json").write_text(text)


if __name__ == "__main__":
    main()
