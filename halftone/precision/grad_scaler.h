// SPDX-License-Identifier: Apache-2.0
// Dynamic loss scaling with the semantics of torch.amp.GradScaler, a floor, a ceiling and
// hysteresis (Megatron's), the names of the tensors that overflowed, an end where no scale helps,
// and a scale that is measured instead of guessed (adaptive_scale.h).
#pragma once

#include <torch/nn/module.h>
#include <torch/optim/optimizer.h>
#include <torch/types.h>

#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "halftone/core/state_dict.h"
#include "halftone/optim/fused_optimizer.h"
#include "halftone/precision/adaptive_scale.h"

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
  /// So many skipped updates in a row at min_scale end the training; 0: never.
  std::int64_t max_skips_at_floor = 10;
  bool adaptive = false;                // measures the scale; growth_factor is not used then
  std::int64_t adaptive_interval = 16;  // updates from one measurement to the next
  std::int64_t adaptive_margin = 4;     // powers of two kept free below overflow
};

/// The outcome of one optimizer step.
struct StepResult {
  bool stepped = true;
  /// Gradients with inf or nan: names (name_parameters), else "group 0, parameter 3".
  std::vector<std::string> overflow;
  /// Share of non-finite elements in each gradient of `overflow`, same order.
  std::vector<double> non_finite_shares;
  /// Norm of all gradients, before clipping and without the scale; inf or nan when they overflowed.
  /// Only the fused step computes it; nan otherwise.
  double grad_norm = std::numeric_limits<double>::quiet_NaN();
  /// Skipped updates in a row, this one included, that no lower scale was left for.
  std::int64_t skips_at_floor = 0;
};

/// What the results that were read before an update() amount to.
struct ScalerVerdict {
  /// max_skips_at_floor updates in a row were skipped: no smaller scale is left that would help.
  bool hopeless = false;
  std::int64_t skips_at_floor = 0;  // StepResult::skips_at_floor, the largest
  /// One sentence that names the tensor and says how to mend it; empty unless hopeless.
  std::string reason;
};

struct FusedStepOptions {
  double clip_norm = 0.0;       // 0: no clipping
  bool skip_non_finite = true;  // with a disabled scaler: skip a step whose gradients overflowed
};

class GradScaler;

/// A fused step that has been queued and not been waited for.
class PendingStep {
 public:
  /// Waits for the device and returns the outcome. REQUIRES that the scaler has not moved and that
  /// the optimizer still lives.
  StepResult result() const;

 private:
  friend class GradScaler;
  PendingStep(GradScaler& scaler, const FusedOptimizer& optimizer, torch::Tensor packed,
              torch::Tensor scale)
      : scaler_(&scaler),
        optimizer_(&optimizer),
        packed_(std::move(packed)),
        scale_(std::move(scale)) {}
  GradScaler* scaler_;
  const FusedOptimizer* optimizer_;
  torch::Tensor packed_;  // GradScaler::FusedOutcome
  torch::Tensor scale_;   // that of the scaler which is in there
};

/// scale(loss).backward(); [unscale_(optimizer);] step(optimizer); update(). The scale and its
/// counters stay on the device of the first scaled tensor. get_scale(), growth_tracker(),
/// state_dict(), last_measurement(), PendingStep::result() and step() (one read of found_inf) wait
/// for it, nothing else does; nor does get_scale() between the result of a fused step and update().
/// Not thread-safe.
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
  StepResult step(FusedOptimizer& optimizer, const FusedStepOptions& options = {});
  /// The same without waiting for the device. A scaler that is never asked for results runs
  /// without a host synchronisation, and can't end a hopeless run.
  PendingStep step_async(FusedOptimizer& optimizer, const FusedStepOptions& options = {});
  /// Instead of step(), for one that optim/optimizer_in_backward.h has done; `stats` are what that
  /// returned. Only with a scale that is fixed at 1, or disabled. Nothing waits.
  PendingStep note_step(FusedOptimizer& optimizer, const GradientStats& stats);

  /// Ends the iteration: backs off or grows, and forgets what the optimizers noted. The verdict is
  /// hopeless when the results read since the last update() show max_skips_at_floor skipped updates
  /// in a row at min_scale (or without a scale). Whether training ends then is up to the caller.
  ScalerVerdict update();
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

  /// The latest look at the gradients; nothing before the first, or when not adaptive.
  std::optional<ScaleMeasurement> last_measurement() const;

  /// Lets `overflow` carry the parameters' paths in `module`.
  void name_parameters(const torch::nn::Module& module);

  /// Torch's keys (scale, growth_factor, backoff_factor, growth_interval, _growth_tracker) and
  /// hysteresis, _hysteresis_tracker, min_scale, max_scale, _skips_at_floor, those of
  /// AdaptiveScale; empty when disabled. Throws c10::Error between unscale_() or step() and
  /// update().
  StateDict state_dict() const;
  /// Accepts torch's own keys alone as well: the options keep what they lack. A scale outside
  /// min_scale..max_scale is kept, with a warning, and moves only towards them. Throws UserError
  /// when a key of torch's is missing or no scaler saves such a number, c10::Error in
  /// mid-iteration. Does nothing when disabled.
  void load_state_dict(const StateDict& state);

 private:
  enum class Stage { kReady, kUnscaled, kStepped };
  struct OptimizerState {
    Stage stage = Stage::kReady;
    std::vector<torch::Tensor> found_inf;  // fp32 scalars, one per device
  };

  struct StepStats {
    torch::Tensor norm;        // fp64 scalar, without the scale
    torch::Tensor non_finite;  // as in GradientStats
  };

  /// All that the host may want to know of a fused step, to be read in one go.
  struct FusedOutcome {
    torch::Tensor norm;            // fp64 scalar, without the scale
    torch::Tensor found_inf;       // floating scalar
    torch::Tensor skips_at_floor;  // int32 scalar: if this step is skipped
    torch::Tensor scale;           // floating scalar
    torch::Tensor non_finite;      // as in GradientStats

    torch::Tensor packed() const;                               // one fp64 tensor (parameters + 4)
    static FusedOutcome unpacked(const torch::Tensor& packed);  // views, all fp64
  };

  friend class PendingStep;
  PendingStep stepped(FusedOptimizer& optimizer, const StepStats& stats,
                      const torch::Tensor& found_inf);
  AdaptiveScaleOptions adaptive_options() const;
  void check_scaled(const char* caller) const;
  void check_between_iterations(const char* caller) const;
  void initialize(torch::Device device);
  OptimizerState& begin_step(torch::optim::Optimizer& optimizer);
  void unscale_gradients(torch::optim::Optimizer& optimizer, OptimizerState& state);
  StepResult fused_result(const FusedOptimizer& optimizer, const FusedOutcome& outcome);
  torch::Tensor skips_if_skipped(torch::Device device) const;
  void move_scale(const torch::Tensor& overflow);
  void count_skips(const torch::Tensor& overflow);
  void note(const StepResult& result);
  ScalerVerdict take_verdict();
  void start_anew();
  void count_exponents(const FusedOptimizer& optimizer);
  void add_overflow(torch::optim::Optimizer& optimizer, StepResult& result) const;
  std::string name_of(const torch::Tensor& parameter, const std::string& fallback) const;
  static torch::Tensor total_found_inf(const std::vector<torch::Tensor>& found_infs,
                                       torch::Device device);

  GradScalerOptions options_;
  double initial_scale_;
  std::int64_t initial_growth_tracker_ = 0;
  std::int64_t initial_hysteresis_tracker_;
  std::int64_t initial_skips_at_floor_ = 0;
  torch::Tensor scale_;       // fp32 scalar, undefined until the first scale()
  torch::Tensor read_scale_;  // the scale_ that was read last, and its value
  double read_scale_value_ = 0.0;
  torch::Tensor growth_tracker_;      // int32 scalar
  torch::Tensor hysteresis_tracker_;  // int32 scalar: overflows left before the scale is lowered
  torch::Tensor skips_at_floor_;      // int32 scalar; undefined: none yet
  std::optional<AdaptiveScale> adaptive_;
  StepResult worst_;  // of those read since the last update(): the one with most skips in a row
  std::map<const torch::optim::Optimizer*, OptimizerState> states_;
  std::vector<torch::Tensor> named_;  // keeps the keys of names_ alive
  std::unordered_map<const c10::TensorImpl*, std::string> names_;
};

}  // namespace halftone
