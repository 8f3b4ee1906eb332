// SPDX-License-Identifier: Apache-2.0
// Parameters that autocast leaves alone. LibTorch's modules have no hooks, so what marks a layer is
// the parameter it computes with: an operation that takes a marked one runs as if autocast were
// off, with its other operands upcast.
#pragma once

#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/types.h>

#include <optional>

namespace halftone {

/// Marks `parameter` for the whole process, until it is unmarked or freed: under autocast on the
/// CPU or CUDA, a matmul, convolution, recurrence or normalisation that takes it or a view of it
/// widens its 16-bit operands and runs in fp32, forward and backward. module.to() and set_data()
/// keep the mark, clone() does not. Other operations are as before, to the bit. Thread-safe.
void mark_keep_fp32(const torch::Tensor& parameter);
void unmark_keep_fp32(const torch::Tensor& parameter);

/// Whether `tensor`, or what it is a view of, is marked.
bool keeps_fp32(const torch::Tensor& tensor);

/// `x` in fp32 if it is of a 16-bit dtype, else as it is; differentiable.
torch::Tensor upcast(const torch::Tensor& x);

/// Autocast is off in this scope and thread if `parameter` is marked.
class KeepFp32Scope {
 public:
  explicit KeepFp32Scope(const torch::Tensor& parameter);

 private:
  std::optional<c10::impl::ExcludeDispatchKeyGuard> no_autocast_;
};

}  // namespace halftone
