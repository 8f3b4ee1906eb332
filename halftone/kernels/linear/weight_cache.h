// SPDX-License-Identifier: Apache-2.0
// Weights in the format of a matmul, converted once for several forward passes.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <map>
#include <mutex>
#include <tuple>
#include <vector>

#include "halftone/kernels/gemm/compute_type.h"
#include "halftone/kernels/gemm/matmul_format.h"
#include "halftone/kernels/linear/compute_context.h"

namespace halftone {

/// What halftone's layers make of their weights is kept here and used again, as long as the
/// weights' version counters stand still: for the micro-batches of one optimizer step. It is in
/// force as a member of a ComputeContext. Writing to weights without autograd's knowledge (through
/// data_ptr() or .data()) meanwhile is not noticed. Thread-safe; the operands are not.
class WeightCache {
 public:
  /// matmul_format(type).weight(weights), or what it gave before.
  OperandPtr weight(ComputeType type, at::TensorList weights);

 private:
  using Key = std::tuple<const void*, std::int64_t, std::int64_t, ComputeType>;
  struct Entry {
    std::vector<std::uint32_t> versions;
    OperandPtr operand;
  };

  std::mutex mutex_;
  std::map<Key, Entry> entries_;
};

/// `weights` as a layer multiplies them under `context`: from its cache, if it has one. `kept`:
/// what Operand::kept() holds of them, if that is at hand.
OperandPtr weight_operand(const ComputeContext& context, ComputeType type, at::TensorList weights,
                          const std::vector<torch::Tensor>& kept = {});

}  // namespace halftone
