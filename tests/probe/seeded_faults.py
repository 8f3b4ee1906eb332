# SPDX-License-Identifier: Apache-2.0
"""The faults that the programs beside this file can be told to have, and what a probe must say of each.

In C++ no module has a name; what differs there is in `cpp`."""

import dataclasses


@dataclasses.dataclass
class Fault:
    program: str
    name: str
    precision: str
    operation: str  # a regular expression
    direction: str
    kind: str
    module: str = ""  # a regular expression; in Python
    node: str = ""  # a regular expression
    cpp: dict = dataclasses.field(default_factory=dict)

    def in_cpp(self):
        return dataclasses.replace(self, module="", **self.cpp)


FAULTS = [
    Fault("image_classifier", "overflow_layer", "fp16", "aten::.*conv.*", "forward", "overflow",
          r"features\.1\.conv"),
    Fault("image_classifier", "blank_image", "fp32", "aten::div", "forward", "division by zero", "normalize"),
    Fault("image_classifier", "nan_pixel", "bf16", "aten::mean", "forward", "input", "normalize"),
    Fault("image_classifier", "log_of_zero", "bf16", "aten::log", "forward", "log of zero", "OwnLoss"),
    Fault("gpt", "score_overflow", "fp16", "aten::(bmm|baddbmm|matmul)", "forward", "overflow",
          r"blocks\.1\.attention"),
    Fault("gpt", "naive_softmax", "fp32", "aten::exp", "forward", "overflow", r"blocks\.1\.attention"),
    Fault("gpt", "loss_scale", "fp16", "aten::_to_copy", "backward", "overflow", "", "ToCopyBackward0"),
    Fault("gpt", "zero_times_inf", "bf16", "aten::mul", "forward", "other", r"blocks\.1\.attention"),
    Fault("lstm", "nan_weight", "fp32", "aten::(addmm|linear|mm)", "forward", "weights", "head",
          cpp={"operation": "aten::matmul"}),
    Fault("lstm", "root_of_zero", "fp32", "aten::div", "backward", "division by zero", "Smoothness",
          "SqrtBackward0"),
    Fault("lstm", "large_feature", "fp16", "aten::_to_copy", "forward", "overflow", "features"),
    Fault("lstm", "sum_overflow", "fp32", "aten::sum", "forward", "overflow", "Energy"),
    Fault("diffusion", "variance_by_squares", "fp32", "aten::sqrt", "forward", "other", "spread"),
    Fault("diffusion", "last_step", "fp32", "aten::(reciprocal|div|mul)", "forward", "division by zero"),
    Fault("diffusion", "log_snr", "fp32", "aten::log", "forward", "log of zero"),
    Fault("diffusion", "norm_overflow", "fp32", "aten::(sum|mean)", "forward", "overflow", r"norms\.0"),
    Fault("recommender", "infinite_row", "fp32", "aten::embedding", "forward", "weights", "items"),
    Fault("recommender", "tiny_epsilon", "fp32", "aten::div", "forward", "division by zero", "similarity"),
    Fault("recommender", "gradient_underflow", "fp16", "", "backward", "underflow"),
    Fault("recommender", "adam_epsilon", "fp16", "aten::(addcdiv_|div)", "forward", "division by zero"),
]
