// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/types.h>

#include <cstdint>

namespace halftone {

/// Flat, contiguous, equally long tensors; nothing may overlap. Updated in place, gradients
/// excepted. The dtypes say how each is stored:
/// - weights fp32, bf16 or fp16; gradients of their dtype, or fp32;
/// - moments both fp32, both bf16 (rounded stochastically: a bf16 exp_avg_sq that is rounded to
///   nearest stands still, since 1 - beta2 of it is less than half its last place), or both uint8:
///   codes and scales as in kernels/optimizer/moments.h;
/// - master_low for bf16 weights that are the top of a master (kernels/optimizer/split_master.h).
struct AdamWTensors {
  torch::Tensor weights;           // (n)
  torch::Tensor gradients;         // (n)
  torch::Tensor exp_avg;           // (n)
  torch::Tensor exp_avg_sq;        // (n)
  torch::Tensor exp_avg_scale;     // (moment_scales(n)), with 8-bit moments
  torch::Tensor exp_avg_sq_scale;  // likewise
  torch::Tensor master_low;        // (n), int16 or uint8; undefined: the weights are all there is
};

struct AdamWArguments {
  double lr;
  double beta1;
  double beta2;
  double eps;
  double weight_decay;
  bool stochastic_rounding;       // of bf16 weights without a master, and of 24-bit masters
  std::uint64_t seed;             // the random bits are a function of (seed, step, index)
  std::int64_t first_index;       // of element 0; with 8-bit moments a multiple of 256
  torch::Tensor step;             // int64 scalar: this step's number, from 1
  torch::Tensor gradient_factor;  // floating scalar
  torch::Tensor found_inf;        // floating scalar; not 0: nothing is changed
};

/// One step of AdamW in fp32 arithmetic, in PyTorch's order of operations:
///   g = gradient * factor;  w -= w lr decay;  m += (1 - beta1) (g - m)
///   v = beta2 v + (1 - beta2) g g;  w -= lr / (1 - beta1^t) m / (sqrt(v) / sqrt(1 - beta2^t) +
///   eps)
/// A tensor that is stored in fewer bits is rounded once, after the whole update. With 8-bit
/// moments no update is larger than the largest that fp32 moments can lead to in that step
/// (kernels/optimizer/moments.h). The result depends neither on the number of threads, nor on how a
/// range is cut into calls (8-bit moments are cut between blocks). Reads scalars on the host only
/// where the tensors are on the CPU.
void adamw_(const AdamWTensors& tensors, const AdamWArguments& arguments);

/// The definition, in plain ATen operations.
void adamw_reference_(const AdamWTensors& tensors, const AdamWArguments& arguments);

}  // namespace halftone
