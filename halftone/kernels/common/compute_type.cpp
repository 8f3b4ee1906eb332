// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/common/compute_type.h"

#include "halftone/core/error.h"

namespace halftone {
namespace {

struct Facts {
  ComputeType type;
  std::string_view name;
  std::string_view precision;  // of fp32 weights
  torch::ScalarType tensor_dtype;
  bool quantized = false;
  bool needs_loss_scaling = false;
};

/// A new format is a line here.
const std::vector<Facts>& table() {
  static const std::vector<Facts> facts = {
      {ComputeType::kFloat32, "fp32", "32-true", torch::kFloat},
      {ComputeType::kBFloat16, "bf16", "bf16-mixed", torch::kBFloat16},
      {ComputeType::kFloat16, "fp16", "16-mixed", torch::kHalf, false, true},
      {ComputeType::kInt8, "int8", "int8-mixed", torch::kFloat, true, false}};
  return facts;
}

const Facts& facts_of(ComputeType type) {
  for (const Facts& facts : table())
    if (facts.type == type) return facts;
  HALFTONE_CHECK(false, "[compute_type] expected a known format, got ", static_cast<int>(type));
}

}  // namespace

const std::vector<ComputeType>& compute_types() {
  static const std::vector<ComputeType> types = [] {
    std::vector<ComputeType> list;
    for (const Facts& facts : table()) list.push_back(facts.type);
    return list;
  }();
  return types;
}

std::string_view to_string(ComputeType type) { return facts_of(type).name; }
torch::ScalarType tensor_dtype(ComputeType type) { return facts_of(type).tensor_dtype; }
bool is_quantized(ComputeType type) { return facts_of(type).quantized; }
bool needs_loss_scaling(ComputeType type) { return facts_of(type).needs_loss_scaling; }
std::string fp32_weights_precision(ComputeType type) {
  return std::string(facts_of(type).precision);
}

}  // namespace halftone
