// SPDX-License-Identifier: Apache-2.0
// Weights in the format of a matmul, converted once for several forward passes.
#pragma once

#include <torch/types.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <tuple>
#include <variant>
#include <vector>

#include "halftone/kernels/gemm/int8_gemm.h"

namespace halftone {

/// While it lives, what halftone's layers of this thread make of their weights (16 bits, or int8)
/// is kept and used again, as long as the weights' version counters stand still: for the
/// micro-batches of one optimizer step. Writing to weights without autograd's knowledge (through
/// data_ptr() or .data()) inside such a region is not noticed. Regions nest; the innermost keeps.
class WeightCache {
 public:
  WeightCache();
  ~WeightCache();
  WeightCache(const WeightCache&) = delete;
  WeightCache& operator=(const WeightCache&) = delete;

 private:
  enum class Format { kBFloat16, kHalf, kInt8, kInt8Transposed };
  using Key = std::tuple<const void*, std::int64_t, std::int64_t, Format>;
  struct Entry {
    std::vector<std::uint32_t> versions;
    std::variant<torch::Tensor, Int8Matrix> value;
  };
  template <class Value>
  static Value once(at::TensorList weights, Format format, const std::function<Value()>& convert);

  std::map<Key, Entry> entries_;
  WeightCache* outer_;

  friend torch::Tensor cached_cast(at::TensorList, torch::ScalarType,
                                   const std::function<torch::Tensor()>&);
  friend Int8Matrix cached_quantize(at::TensorList, bool, const std::function<Int8Matrix()>&);
};

/// Returns convert(), the `weights` in bf16 or fp16, or the result that the innermost region
/// already holds.
torch::Tensor cached_cast(at::TensorList weights, torch::ScalarType dtype,
                          const std::function<torch::Tensor()>& convert);
/// The same of int8 operands, of the weights or of their transpose.
Int8Matrix cached_quantize(at::TensorList weights, bool transposed,
                           const std::function<Int8Matrix()>& convert);

}  // namespace halftone
