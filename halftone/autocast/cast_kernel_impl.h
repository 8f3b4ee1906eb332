// SPDX-License-Identifier: Apache-2.0
// The common part of kernels under an autocast dispatch key. They are boxed: one body serves
// operations of every signature.
#pragma once

#include <ATen/autocast_mode.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>
#include <c10/util/Exception.h>
#include <torch/types.h>

#include <string>

namespace halftone {

/// The operation called "namespace::name" or "namespace::name.overload"; throws c10::Error where
/// there is none.
c10::OperatorHandle find_op(const std::string& name);

/// Whether an argument of `op`, on top of `stack`, is marked by mark_keep_fp32().
bool takes_kept_tensor(const c10::OperatorHandle& op, const torch::jit::Stack& stack);

/// Whether what `op` has under `key` was put there by mark_keep_fp32() alone: LibTorch itself does
/// nothing to its arguments.
bool only_keeps(const c10::OperatorHandle& op, c10::DispatchKey key);

/// Calls `op` without autocast, its floating arguments cast to `dtype` except double ones and those
/// of other devices, as LibTorch's own policies do it (weights through the region's cache).
void call_in(torch::ScalarType dtype, torch::DeviceType device, const c10::OperatorHandle& op,
             torch::jit::Stack* stack);

}  // namespace halftone
