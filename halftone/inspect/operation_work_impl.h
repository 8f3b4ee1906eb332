// SPDX-License-Identifier: Apache-2.0
// The multiply-adds of one operation, from its shapes.
#pragma once

#include <string_view>
#include <vector>

#include "halftone/inspect/matmul_shape.h"
#include "halftone/inspect/operation_observer_impl.h"

namespace halftone {

struct OperationWork {
  double flops = 0;  // two for each multiply-add; elementwise work does not count
  std::vector<MatmulShape> matmuls;
};

/// Of an operation that has ended: matmuls, convolutions, attention, LSTM layers and their
/// gradients, LibTorch's and ours; 0 for all others. Formulas are those of
/// torch.utils.flop_counter, but that causal attention counts the triangle that it needs. What
/// calls other operations has the flops of the whole, which those it calls may have as well. int8
/// matmuls count whole groups of four terms.
OperationWork operation_work(const OperationCall& call);

/// Whether operations of this name ("aten::mm") have any.
bool multiplies(std::string_view operation);

}  // namespace halftone
