// SPDX-License-Identifier: Apache-2.0
#include "halftone/diagnostics/profile/tensor_cores.h"

#include <fmt/format.h>

#include <array>
#include <utility>

#include "halftone/core/dtype.h"

namespace halftone {
namespace {

constexpr std::int64_t kOperandBytes = 16;

std::int64_t next_multiple(std::int64_t size, std::int64_t multiple) {
  return (size + multiple - 1) / multiple * multiple;
}

/// The sizes that must be multiples, with the names that a reader knows them by.
std::array<std::pair<const char*, std::int64_t>, 3> sizes_of(const MatmulShape& shape) {
  if (shape.filter > 0)
    return {{{"output channels", shape.n}, {"input channels", shape.k / shape.filter}, {"", 0}}};
  return {{{"m", shape.m}, {"n", shape.n}, {"k", shape.k}}};
}

}  // namespace

std::string to_string(const MatmulShape& shape) {
  const std::string sizes = fmt::format("{} x {} x {}", shape.m, shape.n, shape.k);
  const std::string dtype = dtype_name(shape.dtype);
  return shape.batch == 1 ? fmt::format("{} {}", sizes, dtype)
                          : fmt::format("{} x ({}) {}", shape.batch, sizes, dtype);
}

std::int64_t tensor_core_multiple(torch::ScalarType dtype) {
  switch (dtype) {
    case torch::kHalf:
    case torch::kBFloat16:
    case torch::kChar:
    case torch::kFloat8_e4m3fn:
    case torch::kFloat8_e5m2:
    case torch::kFloat:
    case torch::kDouble:
      return kOperandBytes / static_cast<std::int64_t>(c10::elementSize(dtype));
    default:
      return 0;
  }
}

std::string tensor_core_remedy(const MatmulShape& shape) {
  const std::int64_t multiple = tensor_core_multiple(shape.dtype);
  if (multiple == 0) return fmt::format("{}: compute in bf16 or fp16", c10::toString(shape.dtype));
  std::string remedy;
  if (shape.dtype == torch::kFloat) remedy = "fp32: compute in bf16 or fp16";
  // fp32 has to become 16 bits first: its sizes are judged as those.
  const std::int64_t needed = shape.dtype == torch::kFloat ? kOperandBytes / 2 : multiple;
  for (const auto& [name, size] : sizes_of(shape)) {
    if (size % needed == 0) continue;
    if (!remedy.empty()) remedy += ", ";
    remedy += fmt::format("{} {} -> {}", name, size, next_multiple(size, needed));
  }
  return remedy;
}

}  // namespace halftone
