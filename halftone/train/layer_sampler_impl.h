// SPDX-License-Identifier: Apache-2.0
// The measuring of LayerStatistics: gradients before an update, weights around it.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "halftone/kernels/optimizer/layer_summary.h"
#include "halftone/optim/fused_optimizer.h"
#include "halftone/train/training_module.h"

namespace halftone {

/// A parameter that is watched, and the optimizer that updates it.
struct WatchedParameter {
  std::string name;
  torch::Tensor variable;
  std::shared_ptr<torch::optim::Optimizer> optimizer;
  std::size_t group = 0;
  const FusedOptimizer* fused = nullptr;  // the optimizer, where it is one
  std::size_t index = 0;                  // in it
  torch::Tensor master;  // view of the lower bits beside it; undefined: there are none
  bool rounds_stochastically = false;

  double learning_rate() const;
};

/// What was measured of one parameter in one step.
struct LayerSample {
  std::string name;
  std::int64_t elements = 0;
  torch::ScalarType weight = torch::kFloat;    // that it is stored in; fp32 with a master
  torch::ScalarType gradient = torch::kFloat;  // that its gradient is stored in
  bool rounds_stochastically = false;
  GradientSummary gradients;
  std::optional<UpdateSummary> update;  // nothing at a learning rate of 0
};

/// The parameters of `network` that `optimizers` update and whose names one of `patterns` is found
/// in (all without any), in the network's order; tied ones once. They refer to the optimizers'
/// buffers.
std::vector<WatchedParameter> watched_parameters(const torch::nn::Module& network,
                                                 const std::vector<OptimizerSetup>& optimizers,
                                                 const std::vector<std::string>& patterns);

/// Throws UserError for a pattern that is no regular expression.
void check_watch_patterns(const std::vector<std::string>& patterns);

/// One sampled step.
class LayerSampler {
 public:
  /// `parameters` must outlive it. `compute`: the dtype whose underflow counts.
  LayerSampler(const std::vector<WatchedParameter>& parameters, torch::ScalarType compute);
  ~LayerSampler();
  LayerSampler(const LayerSampler&) = delete;
  LayerSampler& operator=(const LayerSampler&) = delete;

  /// Before the update: measures the gradients that are there and keeps the weights. Where the
  /// optimizer releases gradients, it measures each when it has come, in the backward pass that is
  /// about to run.
  void begin();
  /// Measures no further gradient: that pass is over.
  void end_backward();
  /// After the update: what all of it came to. Waits for the device.
  std::vector<LayerSample> finish();
  /// Seconds that measuring took within the backward pass.
  double seconds_in_backward() const { return seconds_in_backward_; }

 private:
  struct Kept {
    torch::Tensor gradient;  // as the optimizer sees it
    torch::Tensor weight;    // before the update; undefined: it is not measured
    torch::Tensor master;    // likewise, of its lower bits
  };
  struct Measured {
    torch::Tensor gradient, update;  // packed summaries
    torch::ScalarType stored = torch::kFloat;
  };

  void keep(std::size_t index, const torch::Tensor& gradient);
  void settle(std::size_t index);
  void settle_pending();
  void on_ready(std::size_t index);
  void watch_backward(std::size_t index);

  const std::vector<WatchedParameter>& parameters_;
  FormatFloor floor_;
  std::map<std::size_t, Kept> kept_;
  std::map<std::size_t, Measured> measured_;
  std::vector<std::size_t> hooked_;
  std::optional<std::size_t> pending_;  // it will be updated when its hook has returned
  double seconds_in_backward_ = 0.0;
};

}  // namespace halftone
