// SPDX-License-Identifier: Apache-2.0
// Arguments and results of LibTorch's operations, of which some tensors have no data.
#pragma once

#include <ATen/core/ivalue.h>
#include <torch/types.h>

namespace halftone {

using OperationValues = c10::ArrayRef<c10::IValue>;

/// Calls `visit(tensor)` for each of an argument's tensors, those of lists as well.
template <class Visit>
void for_each_tensor(const c10::IValue& value, const Visit& visit) {
  if (value.isTensor()) {
    if (value.toTensor().defined()) visit(value.toTensor());
  } else if (value.isList()) {
    for (const c10::IValue& item : value.toListRef())
      if (item.isTensor() && item.toTensor().defined()) visit(item.toTensor());
  }
}

inline bool is_without_data(const c10::IValue& item) {
  return item.isTensor() && item.toTensor().defined() && item.toTensor().is_meta();
}

/// One like `x` on the device meta.
torch::Tensor without_data(const torch::Tensor& x);

/// `value` with its tensors of the CPU taken without their data, but those that learn. A scalar may
/// have data among tensors without, except where an operation wants all on one device.
c10::IValue without_data(const c10::IValue& value, bool scalars_too);

}  // namespace halftone
