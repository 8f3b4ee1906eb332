// SPDX-License-Identifier: Apache-2.0
// Dynamic loss scaling with the semantics of torch.amp.GradScaler, a floor, a ceiling and
// hysteresis (Megatron's), and the names of the tensors that overflowed.
#pragma once

#include <torch/nn/module.h>
#include <torch/optim/optimizer.h>
#include <torch/types.h>

#include <cstdint>
#include <limits>
#include <map>
#include <string>
#include <unordered_map>
#include <vector>

#include "halftone/core/state_dict.h"
#include "halftone/optim/adamw.h"

namespace halftone {

struct GradScalerOptions {
  double init_scale = 65536.0;
  double growth_factor = 2.0;
  double backoff_factor = 0.5;
  std::int64_t growth_interval = 2000;  // steps without overflow after which the scale grows
  std::int64_t hysteresis = 1;  // overflows that lower the scale; counted anew after each growth
  double min_scale = 1.0;
  double max_scale = 16777216.0;
  bool enabled = true;
  bool allow_fp16_gradients = false;  // what 16-true needs; torch refuses them
};

/// What became of one optimizer step.
struct StepResult {
  bool stepped = true;
  /// Gradients with inf or nan: names (name_parameters), else "group 0, parameter 3".
  std::vector<std::string> overflow;
  /// Share of non-finite elements in each gradient of `overflow`, same order.
  std::vector<double> non_finite_shares;
  /// Norm of all gradients, before clipping and without the scale; inf or nan when they overflowed.
  /// Only the fused step computes it; nan otherwise.
  double grad_norm = std::numeric_limits<double>::quiet_NaN();
};

struct FusedStepOptions {
  double clip_norm = 0.0;       // 0: no clipping
  bool skip_non_finite = true;  // with a disabled scaler: skip a step whose gradients overflowed
};

/// scale(loss).backward(); [unscale_(optimizer);] step(optimizer); update(). The scale and its
/// counters stay on the device of the first scaled tensor; get_scale(), growth_tracker(),
/// state_dict() and step() (one read of found_inf) wait for it, nothing else does. Not thread-safe.
class GradScaler {
 public:
  /// Throws c10::Error unless growth_factor > 1, 0 < backoff_factor < 1, growth_interval >= 1,
  /// hysteresis >= 1 and 0 < min_scale <= init_scale <= max_scale. A fixed scale S has
  /// init_scale = min_scale = max_scale = S.
  explicit GradScaler(GradScalerOptions options = {});

  /// Multiplies by the scale; returns the tensor itself when disabled.
  torch::Tensor scale(const torch::Tensor& output);
  std::vector<torch::Tensor> scale(const std::vector<torch::Tensor>& outputs);

  /// Divides the optimizer's gradients by the scale, in place, and notes whether one of them is inf
  /// or nan. At most once per optimizer between two updates.
  void unscale_(torch::optim::Optimizer& optimizer);

  /// Steps unless a gradient overflowed (unscaling first where unscale_ did not). A closure is
  /// refused while the scaler is enabled.
  StepResult step(torch::optim::Optimizer& optimizer,
                  torch::optim::Optimizer::LossClosure closure = nullptr);

  /// The same, with unscaling, clipping and the overflow check folded into the update: gradients
  /// are read twice and are left as they are (scaled). Also when disabled, with a scale of 1.
  StepResult step(AdamW& optimizer, const FusedStepOptions& options = {});

  /// Ends the iteration: backs off or grows, and forgets what the optimizers noted.
  void update();
  /// The same with a scale that the caller chooses; found_inf is ignored.
  void update(double new_scale);
  void update(const torch::Tensor& new_scale);  // one element, floating, no grad

  double get_scale() const;             // 1 when disabled; waits for the device
  std::int64_t growth_tracker() const;  // steps since the last change; waits for the device
  bool is_enabled() const { return options_.enabled; }
  const GradScalerOptions& options() const { return options_; }
  void set_growth_factor(double factor);
  void set_backoff_factor(double factor);
  void set_growth_interval(std::int64_t interval);

  /// Lets `overflow` carry the parameters' paths in `module`.
  void name_parameters(const torch::nn::Module& module);

  /// Torch's keys (scale, growth_factor, backoff_factor, growth_interval, _growth_tracker) and
  /// hysteresis, _hysteresis_tracker, min_scale, max_scale; empty when disabled. Saved between
  /// update() and the next unscale_() or step().
  StateDict state_dict() const;
  /// Accepts torch's own keys alone as well; throws UserError when one of them is missing. Does
  /// nothing when disabled.
  void load_state_dict(const StateDict& state);

 private:
  enum class Stage { kReady, kUnscaled, kStepped };
  struct OptimizerState {
    Stage stage = Stage::kReady;
    std::vector<torch::Tensor> found_inf;  // fp32 scalars, one per device
  };

  void check_scaled(const char* caller) const;
  void initialize(torch::Device device);
  OptimizerState& begin_step(torch::optim::Optimizer& optimizer);
  void unscale_gradients(torch::optim::Optimizer& optimizer, OptimizerState& state);
  StepResult fused_result(const AdamW& optimizer, const torch::Tensor& read) const;
  void add_overflow(torch::optim::Optimizer& optimizer, StepResult& result) const;
  std::string name_of(const torch::Tensor& parameter, const std::string& fallback) const;
  static torch::Tensor total_found_inf(const std::vector<torch::Tensor>& found_infs,
                                       torch::Device device);

  GradScalerOptions options_;
  double initial_scale_;
  std::int64_t initial_growth_tracker_ = 0;
  std::int64_t initial_hysteresis_tracker_;
  torch::Tensor scale_;               // fp32 scalar, undefined until the first scale()
  torch::Tensor growth_tracker_;      // int32 scalar
  torch::Tensor hysteresis_tracker_;  // int32 scalar: overflows left before the scale is lowered
  std::map<const torch::optim::Optimizer*, OptimizerState> states_;
  std::vector<torch::Tensor> named_;  // keeps the keys of names_ alive
  std::unordered_map<const c10::TensorImpl*, std::string> names_;
};

}  // namespace halftone
