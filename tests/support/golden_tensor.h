// SPDX-License-Identifier: Apache-2.0
// What the scripts that write files of weights (tests/golden/make_{safetensors,pth}_golden.py) put
// into their tensors, and the comparison to the bit.
#pragma once

#include <gtest/gtest.h>
#include <torch/types.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace halftone::test {

/// The scripts' words for dtypes.
inline const std::map<std::string, torch::ScalarType> kGoldenDtypes = {
    {"f64", torch::kDouble},
    {"f32", torch::kFloat},
    {"f16", torch::kHalf},
    {"bf16", torch::kBFloat16},
    {"i64", torch::kLong},
    {"i32", torch::kInt},
    {"i16", torch::kShort},
    {"i8", torch::kChar},
    {"u8", torch::kByte},
    {"u16", torch::kUInt16},
    {"u32", torch::kUInt32},
    {"bool", torch::kBool},
    {"f8_e4m3", torch::kFloat8_e4m3fn},
    {"f8_e5m2", torch::kFloat8_e5m2}};

/// The scripts' rule. `kind` is their word for the dtype: "bool", "u8", "f32".
inline torch::Tensor golden_tensor(const std::string& kind, torch::ScalarType dtype,
                                   const std::vector<std::int64_t>& shape) {
  torch::Tensor result = torch::empty(shape, torch::kFloat);
  for (std::int64_t i = 0; i < result.numel(); ++i) {
    const std::int64_t number = kind == "bool" ? i % 2 : 7 * i % 11 - (kind[0] == 'u' ? 0 : 3);
    result.data_ptr<float>()[i] = static_cast<float>(number);
  }
  return result.to(dtype);
}

inline std::string bytes_of(const torch::Tensor& tensor) {
  const torch::Tensor plain = tensor.contiguous();
  return {static_cast<const char*>(plain.const_data_ptr()), plain.nbytes()};
}

/// As every reader of weights gives them: on the CPU, in one piece.
inline void expect_equal_bits(const torch::Tensor& actual, const torch::Tensor& expected) {
  EXPECT_EQ(actual.scalar_type(), expected.scalar_type());
  EXPECT_EQ(actual.sizes(), expected.sizes());
  EXPECT_TRUE(actual.is_contiguous());
  EXPECT_TRUE(actual.device().is_cpu());
  EXPECT_EQ(bytes_of(actual), bytes_of(expected));
}

}  // namespace halftone::test
