// SPDX-License-Identifier: Apache-2.0
// Why an operation made inf or nan, and the numbers that show it.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace halftone {

enum class NonFiniteCause {
  kOverflow,        // the result is beyond the largest number of its format
  kDivisionByZero,  // also a normalisation by zero, and the mean of nothing
  kLogOfZero,
  kInvalid,     // inf - inf, 0 * inf, the root or the logarithm of a negative number
  kBadData,     // it was there before, and no operation that was seen had made it
  kBadWeights,  // it was there before, in a parameter
  kOther,
};

/// "overflow", "division by zero", "log of zero", "invalid operation", "bad data", "bad weights",
/// "other".
std::string to_string(NonFiniteCause cause);

/// What a tensor holds, in numbers.
struct TensorFacts {
  std::string name;       // of the argument: "self", "weights[1]"
  std::string parameter;  // the path of the parameter or buffer that it is, or is a cast copy of
  torch::ScalarType dtype = torch::kFloat;
  std::vector<std::int64_t> shape;
  double max_abs = 0.0;         // of the finite values; 0 where there is none
  std::int64_t non_finite = 0;  // values that are inf or nan
  std::int64_t zeros = 0;
  std::vector<std::int64_t> first_non_finite;  // the index of the first one of them
};

/// Of a tensor of any dtype, strided. Waits for the device.
TensorFacts facts_of(const torch::Tensor& tensor);

/// "self fp16 [64, 512] up to 310, 2 not finite"
std::string to_string(const TensorFacts& facts);

struct NonFiniteDiagnosis {
  NonFiniteCause cause = NonFiniteCause::kOther;
  torch::ScalarType format = torch::kFloat;  // of the result that is not finite
  /// Of an overflow: the largest of the results that are not finite, computed in fp64; inf where
  /// fp64 ends before it; nothing where no fp64 of the operation is known.
  std::optional<double> largest;
  std::string detail;               // of other causes: what about which argument, in words
  std::vector<TensorFacts> inputs;  // the tensors that the operation read, before it
};

/// "it overflows fp16, which ends at 65504: the largest result would be 1.2e+05"; empty where
/// nothing is known.
std::string reason_of(const NonFiniteDiagnosis& diagnosis);

/// 65504 of fp16. Of the floating formats.
double largest_number(torch::ScalarType dtype);

}  // namespace halftone
