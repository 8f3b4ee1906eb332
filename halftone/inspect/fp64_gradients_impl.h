// SPDX-License-Identifier: Apache-2.0
// The backward kernels of this library that have no fp64, by their formulas.
#pragma once

#include <ATen/core/ivalue.h>
#include <torch/types.h>

#include <optional>
#include <string_view>
#include <vector>

namespace halftone {

/// The results of `operation`, "halftone::rms_norm_gradient" or another one that is known here, in
/// fp64; nothing for any other.
std::optional<std::vector<torch::Tensor>> own_gradient_in_fp64(
    std::string_view operation, const std::vector<c10::IValue>& arguments);

}  // namespace halftone
