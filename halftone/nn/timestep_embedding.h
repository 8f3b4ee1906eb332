// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>
#include <torch/types.h>

#include <cstdint>

#include "halftone/nn/linear.h"

namespace halftone {

/// Sines and cosines of a position at wavelengths from 2 pi to 2 pi max_period (Vaswani et al.
/// 2017; of a step of diffusion: Ho et al. 2020), cosines first: with h = size / 2, column i is
/// cos(t max_period^(-i/h)), column h + i the sine; an odd size ends in a column of 0. t (B) of any
/// real dtype; returns (B, size) fp32, computed in fp32 whatever the recipe.
torch::Tensor sinusoidal_embedding(const torch::Tensor& t, std::int64_t size,
                                   double max_period = 10000.0);

/// The embedding of a step or time of diffusion as DiT has it (Peebles and Xie 2023): w2 silu(w1 s)
/// of the sinusoidal embedding s, with biases. Times in 0..1 are to be multiplied, by 1000 say: the
/// longest wavelengths would not tell them apart. In a true 16-bit precision the Trainer rounds a
/// batch's floating times: give int64 steps, or draw times inside training_step().
class TimestepEmbeddingImpl : public torch::nn::Module {
 public:
  explicit TimestepEmbeddingImpl(std::int64_t dim, std::int64_t sinusoidal_size = 256,
                                 double max_period = 10000.0);

  torch::Tensor forward(const torch::Tensor& t);  // (B) -> (B, dim)

 private:
  std::int64_t sinusoidal_size_;
  double max_period_;
  Linear w1_{nullptr};
  Linear w2_{nullptr};
};
TORCH_MODULE(TimestepEmbedding);

}  // namespace halftone
