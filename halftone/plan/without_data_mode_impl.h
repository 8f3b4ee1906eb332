// SPDX-License-Identifier: Apache-2.0
// Any module on the device meta: what its code makes without naming a device has no data either.
#pragma once

#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/types.h>

namespace halftone {

/// While it lives, in this thread:
/// - a tensor that LibTorch makes on no device in particular (torch::randn(), torch::empty(), the
///   parameters of torch::nn) is on the device meta. Tables that are computed from nothing but
///   numbers (arange, linspace, windows, scalars, torch::tensor()) have data still, so that code
///   may look at them, as that of LibTorch's repeat() does; those of more than 2^20 numbers not;
/// - such a tensor is taken without its data where it meets one that has none;
/// - LibTorch's operations are cast by autocast, and attention goes the way, as on the CPU;
/// - an operation that has no shape function is computed on zeros, for the shapes of its results;
/// - operations are reported to WorkTally::current().
/// Whoever writes to the memory of a tensor that was to have data gets an error.
class WithoutDataMode {
 public:
  WithoutDataMode();
  ~WithoutDataMode();
  WithoutDataMode(const WithoutDataMode&) = delete;
  WithoutDataMode& operator=(const WithoutDataMode&) = delete;

  /// Whether this thread has one.
  static bool is_on();

  /// Takes the data of a tensor of the CPU that was made since, in its place: whoever holds the
  /// tensor holds one of meta. False, and nothing is done, for a tensor that was there before.
  static bool take_data_of(const torch::Tensor& x);

  /// Of the kernel in front of all others.
  static constexpr c10::DispatchKey kKey = c10::DispatchKey::DeferredInit;

 private:
  c10::impl::IncludeDispatchKeyGuard included_;
};

}  // namespace halftone
