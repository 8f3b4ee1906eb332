// SPDX-License-Identifier: Apache-2.0
// The shapes of operations that LibTorch has no shape functions for.
#pragma once

#include <ATen/core/dispatch/Dispatcher.h>

namespace halftone {

/// Gives an operation of LibTorch's that has no kernel for the device meta one that computes on
/// zeros and takes the data off the results, once. It runs in a WithoutDataMode only. Leaves one
/// alone that has a kernel, and one whose results' sizes depend on numbers. Thread-safe.
void register_by_numbers(const c10::OperatorHandle& op);

}  // namespace halftone
