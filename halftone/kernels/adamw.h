// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/types.h>

#include <cstdint>

namespace halftone {

/// Flat, contiguous, equally long tensors. Weights are fp32, bf16 or fp16; gradients have their
/// dtype; moments are fp32. Weights and moments are updated in place; nothing may overlap.
struct AdamWTensors {
  torch::Tensor weights;     // (n)
  torch::Tensor gradients;   // (n)
  torch::Tensor exp_avg;     // (n)
  torch::Tensor exp_avg_sq;  // (n)
};

struct AdamWArguments {
  double lr;
  double beta1;
  double beta2;
  double eps;
  double weight_decay;
  bool stochastic_rounding;       // of bf16 weights
  std::uint64_t seed;             // the random bits are a function of (seed, step, index)
  std::int64_t first_index;       // the index of element 0
  torch::Tensor step;             // int64 scalar: this step's number, from 1
  torch::Tensor gradient_factor;  // floating scalar
  torch::Tensor found_inf;        // floating scalar; not 0: nothing is changed
};

/// One step of AdamW in fp32 arithmetic, in PyTorch's order of operations:
///   g = gradient * factor;  w -= w lr decay;  m += (1 - beta1) (g - m)
///   v = beta2 v + (1 - beta2) g g;  w -= lr / (1 - beta1^t) m / (sqrt(v) / sqrt(1 - beta2^t) +
///   eps)
/// The result does not depend on the number of threads, nor on how a range is cut into calls.
/// Reads scalars on the host only where the tensors are on the CPU.
void adamw_(const AdamWTensors& tensors, const AdamWArguments& arguments);

/// The definition, in plain ATen operations.
void adamw_reference_(const AdamWTensors& tensors, const AdamWArguments& arguments);

}  // namespace halftone
