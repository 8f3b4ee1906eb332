// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/gemm/compute_type.h"

#include <utility>

#include "halftone/core/error.h"
#include "halftone/kernels/gemm/matmul_format_scope.h"

namespace halftone {

// Each is defined in the file that is called like it.
const MatmulFormat& float32_format();
const MatmulFormat& bfloat16_format();
const MatmulFormat& float16_format();
const MatmulFormat& int8_format();
const MatmulFormat& float8_format();
const MatmulFormat& float8_rows_format();  // float8_format.cpp

namespace {

struct Facts {
  ComputeType type;
  std::string_view name;
  std::string_view precision;  // of fp32 weights
  const MatmulFormat& (*format)();
  torch::ScalarType tensor_dtype;
  bool quantized = false;
  bool needs_loss_scaling = false;
  ComputeType lm_head = type;
};

/// A new format is a line here, a word in ComputeType, and a file.
const std::vector<Facts>& table() {
  using enum ComputeType;
  static const std::vector<Facts> facts = {{.type = kFloat32,
                                            .name = "fp32",
                                            .precision = "32-true",
                                            .format = float32_format,
                                            .tensor_dtype = torch::kFloat},
                                           {.type = kBFloat16,
                                            .name = "bf16",
                                            .precision = "bf16-mixed",
                                            .format = bfloat16_format,
                                            .tensor_dtype = torch::kBFloat16},
                                           {.type = kFloat16,
                                            .name = "fp16",
                                            .precision = "16-mixed",
                                            .format = float16_format,
                                            .tensor_dtype = torch::kHalf,
                                            .needs_loss_scaling = true},
                                           {.type = kInt8,
                                            .name = "int8",
                                            .precision = "int8-mixed",
                                            .format = int8_format,
                                            .tensor_dtype = torch::kFloat,
                                            .quantized = true},
                                           {.type = kFloat8Rows,
                                            .name = "fp8-row",
                                            .precision = "fp8-row-mixed",
                                            .format = float8_rows_format,
                                            .tensor_dtype = torch::kBFloat16,
                                            .quantized = true,
                                            .lm_head = kBFloat16},
                                           {.type = kFloat8,
                                            .name = "fp8",
                                            .precision = "fp8-mixed",
                                            .format = float8_format,
                                            .tensor_dtype = torch::kBFloat16,
                                            .quantized = true,
                                            .lm_head = kBFloat16}};
  return facts;
}

const Facts& facts_of(ComputeType type) {
  for (const Facts& facts : table())
    if (facts.type == type) return facts;
  HALFTONE_CHECK(false, "[compute_type] expected a known format, got ", static_cast<int>(type));
}

thread_local MatmulFormatScope::StandIn stand_in_format = nullptr;

}  // namespace

MatmulFormatScope::MatmulFormatScope(StandIn stand_in)
    : before_(std::exchange(stand_in_format, stand_in)) {}

MatmulFormatScope::~MatmulFormatScope() { stand_in_format = before_; }

const std::vector<ComputeType>& compute_types() {
  static const std::vector<ComputeType> types = [] {
    std::vector<ComputeType> list;
    for (const Facts& facts : table()) list.push_back(facts.type);
    return list;
  }();
  return types;
}

std::optional<ComputeType> compute_type_of(torch::ScalarType dtype) {
  for (const Facts& facts : table())
    if (!facts.quantized && facts.tensor_dtype == dtype) return facts.type;
  return std::nullopt;
}

std::string_view to_string(ComputeType type) { return facts_of(type).name; }
const MatmulFormat& library_format(ComputeType type) { return facts_of(type).format(); }
const MatmulFormat& matmul_format(ComputeType type) {
  return stand_in_format != nullptr ? stand_in_format(type) : library_format(type);
}
torch::ScalarType tensor_dtype(ComputeType type) { return facts_of(type).tensor_dtype; }
bool is_quantized(ComputeType type) { return facts_of(type).quantized; }
ComputeType lm_head_type(ComputeType type) { return facts_of(type).lm_head; }
bool needs_loss_scaling(ComputeType type) { return facts_of(type).needs_loss_scaling; }
std::string fp32_weights_precision(ComputeType type) {
  return std::string(facts_of(type).precision);
}

}  // namespace halftone
