// SPDX-License-Identifier: Apache-2.0
// A loss scale of its own for a part of a model, within the one backward pass: where gradients of
// two parts lie further apart than fp16 reaches, no single scale serves both.
#pragma once

#include <torch/nn/module.h>
#include <torch/types.h>

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "halftone/core/state_dict.h"

namespace halftone {

/// The tensor itself, whose gradient is multiplied by `factor` on the way back.
torch::Tensor scale_gradient(const torch::Tensor& tensor, double factor);

struct GradientRegionOptions {
  double factor = 1.0;      // times the loss scale; a power of two loses nothing
  std::int64_t margin = 4;  // powers of two that adapt() keeps free below fp16's overflow
};

/// y = region.leave(module->forward(region.enter(x))): gradients inside are `factor` times those
/// outside. What leaves through x is divided again, and so are the gradients of the module's
/// parameters, before they are accumulated: optimizers, clipping and GradScaler see what they would
/// have seen. The parameters must be used within the region only; their gradients are fp32 (mixed
/// precision), since the division in fp16 would flush what the factor saved. Give leave() an output
/// whose gradient comes in fp32: what fp16 has flushed before it stays lost. Not thread-safe.
class GradientRegion {
 public:
  /// Throws c10::Error for fp16 parameters, and for a factor that is not positive and finite.
  explicit GradientRegion(const torch::nn::Module& module, GradientRegionOptions options = {});
  /// The parameters' gradients come undivided from then on.
  ~GradientRegion();
  GradientRegion(const GradientRegion&) = delete;
  GradientRegion& operator=(const GradientRegion&) = delete;

  /// A backward pass through them with create_graph = true (gradient penalty) throws c10::Error
  /// unless the factor is 1: what comes to the parameters then does not carry the factor.
  torch::Tensor enter(const torch::Tensor& input) const;
  torch::Tensor leave(const torch::Tensor& output) const;

  double factor() const;
  /// Between a backward pass and the next forward pass.
  void set_factor(double factor);

  /// Counts the next backward pass's gradients, for adapt().
  void measure();
  /// From the gradients counted since measure(): the largest power of two that leaves them the
  /// margin, within 2^-24..2^24; twice the factor if all of them are zero, half of it (and one more
  /// power of two of margin) if one is inf or nan. Changes nothing when nothing was counted. Waits
  /// for the device; to be called when set_factor() may be.
  void adapt();

  /// factor, margin.
  StateDict state_dict() const;
  void load_state_dict(const StateDict& state);

 private:
  struct Shared;  // with the hooks
  std::shared_ptr<Shared> shared_;
  std::vector<std::pair<torch::Tensor, unsigned>> hooks_;
};

}  // namespace halftone
