// SPDX-License-Identifier: Apache-2.0
#include "halftone/precision/grad_scaler.h"

#include <ATen/ops/_amp_foreach_non_finite_check_and_unscale.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <unordered_set>
#include <utility>

#include "halftone/core/error.h"
#include "halftone/optim/clip.h"

namespace halftone {
namespace {

const torch::TensorOptions kScaleType = torch::TensorOptions().dtype(torch::kFloat);
const torch::TensorOptions kCountType = torch::TensorOptions().dtype(torch::kInt);

void check_growth_factor(double factor) {
  HALFTONE_CHECK(factor > 1.0, "[grad_scaler] The growth factor must be > 1.0, got ", factor);
}

void check_backoff_factor(double factor) {
  HALFTONE_CHECK(factor > 0.0 && factor < 1.0,
                 "[grad_scaler] The backoff factor must be < 1.0 and > 0, got ", factor);
}

void check_growth_interval(std::int64_t interval) {
  HALFTONE_CHECK(interval >= 1, "[grad_scaler] expected a growth interval >= 1, got ", interval);
}

void check_scale_in_range(double scale, const GradScalerOptions& options) {
  HALFTONE_CHECK(
      options.min_scale > 0.0 && options.min_scale <= scale && scale <= options.max_scale,
      "[grad_scaler] the scale ", scale, " lies outside min_scale..max_scale (", options.min_scale,
      "..", options.max_scale, "): choose another, or move the limits");
}

// The numbers of a gradient that are checked and unscaled: of a sparse one its values, of a complex
// one both parts. Duplicates of a sparse fp16 gradient are added up first, since that sum is what
// may overflow.
torch::Tensor elements_of(const torch::Tensor& parameter) {
  torch::Tensor& gradient = parameter.mutable_grad();
  if (gradient.is_sparse() && gradient.scalar_type() == torch::kHalf)
    gradient = gradient.coalesce();
  const torch::Tensor elements = gradient.is_sparse() ? gradient._values() : gradient;
  return elements.is_complex() ? at::view_as_real(elements) : elements;
}

// A scalar on the device of each list of gradients, copied there once.
class PerDevice {
 public:
  explicit PerDevice(torch::Tensor master) : copies_{std::move(master)} {}
  torch::Tensor& on(torch::Device device) {
    for (torch::Tensor& copy : copies_)
      if (copy.device() == device) return copy;
    return copies_.emplace_back(copies_.front().to(device, /*non_blocking=*/true, /*copy=*/true));
  }

 private:
  std::vector<torch::Tensor> copies_;
};

std::string position_name(std::size_t group, std::size_t index) {
  return fmt::format("group {}, parameter {}", group, index);
}

bool scales(const GradScalerOptions& options) {
  return options.enabled && options.max_scale != 1.0;
}

bool is_fixed(const GradScalerOptions& options) { return options.min_scale == options.max_scale; }

std::string floor_text(const GradScalerOptions& options) {
  if (!scales(options)) return "";
  return fmt::format(" {} loss scale {:g}",
                     is_fixed(options) ? "at the fixed" : "even at the smallest",
                     options.min_scale);
}

const char* remedy(const GradScalerOptions& options) {
  if (!scales(options)) return "go back to a checkpoint with a smaller learning rate";
  if (is_fixed(options))
    return "take a smaller loss scale, or a dynamic one, which finds the largest that fits";
  return "no smaller scale helps, so go back to a checkpoint with a smaller learning rate, or "
         "train "
         "in bf16 or fp32";
}

}  // namespace

AdaptiveScaleOptions GradScaler::adaptive_options() const {
  return {.interval = options_.adaptive_interval,
          .margin = options_.adaptive_margin,
          .min_scale = options_.min_scale,
          .max_scale = options_.max_scale};
}

GradScaler::GradScaler(GradScalerOptions options)
    : options_(options),
      initial_scale_(options.init_scale),
      initial_hysteresis_tracker_(options.hysteresis) {
  HALFTONE_CHECK(options_.max_skips_at_floor >= 0,
                 "[grad_scaler] expected max_skips_at_floor >= 0 (0: never give up), got ",
                 options_.max_skips_at_floor);
  if (!options_.enabled) return;
  check_growth_factor(options_.growth_factor);
  check_backoff_factor(options_.backoff_factor);
  check_growth_interval(options_.growth_interval);
  check_scale_in_range(options_.init_scale, options_);
  HALFTONE_CHECK(options_.hysteresis >= 1, "[grad_scaler] expected hysteresis >= 1, got ",
                 options_.hysteresis);
  if (options_.adaptive) adaptive_.emplace(adaptive_options());
}

void GradScaler::initialize(torch::Device device) {
  scale_ = torch::full({}, initial_scale_, kScaleType.device(device));
  growth_tracker_ = torch::full({}, initial_growth_tracker_, kCountType.device(device));
  hysteresis_tracker_ = torch::full({}, initial_hysteresis_tracker_, kCountType.device(device));
  skips_at_floor_ = torch::full({}, initial_skips_at_floor_, kCountType.device(device));
}

torch::Tensor GradScaler::scale(const torch::Tensor& output) {
  if (!options_.enabled) return output;
  if (!scale_.defined()) initialize(output.device());
  return output * scale_.to(output.device(), /*non_blocking=*/true);
}

std::vector<torch::Tensor> GradScaler::scale(const std::vector<torch::Tensor>& outputs) {
  if (!options_.enabled || outputs.empty()) return outputs;
  if (!scale_.defined()) initialize(outputs.front().device());
  PerDevice scales(scale_);
  std::vector<torch::Tensor> scaled;
  for (const torch::Tensor& output : outputs) scaled.push_back(output * scales.on(output.device()));
  return scaled;
}

void GradScaler::check_scaled(const char* caller) const {
  HALFTONE_CHECK(scale_.defined(), "[grad_scaler] Attempted ", caller,
                 " but _scale is None.  This may "
                 "indicate your script did not use scaler.scale(loss or outputs) earlier in the "
                 "iteration: call scaler.scale(loss).backward() first");
}

void GradScaler::unscale_gradients(torch::optim::Optimizer& optimizer, OptimizerState& state) {
  const torch::NoGradGuard no_grad;
  struct Batch {
    torch::Device device;
    torch::ScalarType dtype;
    std::vector<torch::Tensor> gradients;
  };
  std::vector<Batch> batches;
  std::unordered_set<const void*> seen;  // tied parameters may share one gradient
  for (const auto& group : optimizer.param_groups()) {
    for (const torch::Tensor& parameter : group.params()) {
      if (!parameter.grad().defined()) continue;
      const torch::ScalarType dtype = c10::toRealValueType(parameter.grad().scalar_type());
      HALFTONE_CHECK(options_.allow_fp16_gradients || dtype != torch::kHalf,
                     "[grad_scaler] Attempting to unscale FP16 gradients. Keep the parameters in "
                     "fp32 and use autocast, or build the scaler with allow_fp16_gradients = true");
      const torch::Tensor elements = elements_of(parameter);
      if (elements.numel() > 0 && !seen.insert(elements.const_data_ptr()).second) continue;
      const auto same = [&](const Batch& batch) {
        return batch.device == elements.device() && batch.dtype == dtype;
      };
      auto batch = std::find_if(batches.begin(), batches.end(), same);
      if (batch == batches.end())
        batch = batches.insert(batches.end(), {elements.device(), dtype, {}});
      // Not a version of its own: to AdamW, what no backward pass has written to is no gradient.
      batch->gradients.push_back(elements.variable_data());
    }
  }
  // The reciprocal in fp64: in fp32 some compilers' division is not exact.
  PerDevice inverse(scale_.to(torch::kDouble).reciprocal().to(torch::kFloat));
  state.found_inf.clear();
  for (const Batch& batch : batches) {
    const auto same = [&](const torch::Tensor& t) { return t.device() == batch.device; };
    if (std::none_of(state.found_inf.begin(), state.found_inf.end(), same))
      state.found_inf.push_back(torch::zeros({}, kScaleType.device(batch.device)));
    if (adaptive_ && adaptive_->due())
      for (const torch::Tensor& gradient : batch.gradients) adaptive_->count(gradient);
    torch::Tensor& found = *std::find_if(state.found_inf.begin(), state.found_inf.end(), same);
    at::_amp_foreach_non_finite_check_and_unscale_(batch.gradients, found,
                                                   inverse.on(batch.device));
  }
}

void GradScaler::unscale_(torch::optim::Optimizer& optimizer) {
  if (!options_.enabled) return;
  check_scaled("unscale_");
  OptimizerState& state = states_[&optimizer];
  HALFTONE_CHECK(
      state.stage != Stage::kUnscaled,
      "[grad_scaler] unscale_() has already been called on this optimizer since the last "
      "update(). Call it once per step");
  HALFTONE_CHECK(state.stage != Stage::kStepped,
                 "[grad_scaler] unscale_() is being called after step(). Call it before step(), or "
                 "call update() first");
  unscale_gradients(optimizer, state);
  state.stage = Stage::kUnscaled;
}

GradScaler::OptimizerState& GradScaler::begin_step(torch::optim::Optimizer& optimizer) {
  check_scaled("step");
  OptimizerState& state = states_[&optimizer];
  HALFTONE_CHECK(state.stage != Stage::kStepped,
                 "[grad_scaler] step() has already been called since the last update(). Call "
                 "update() at the end of each iteration");
  return state;
}

StepResult GradScaler::step(torch::optim::Optimizer& optimizer,
                            torch::optim::Optimizer::LossClosure closure) {
  StepResult result;
  if (!options_.enabled) {
    optimizer.step(std::move(closure));
    return result;
  }
  HALFTONE_CHECK(!closure,
                 "[grad_scaler] Closure use is not currently supported if GradScaler is "
                 "enabled. Compute the loss and call backward() before step(); LBFGS needs one and "
                 "can't be trained with a loss scale");
  OptimizerState& state = begin_step(optimizer);
  if (state.stage == Stage::kReady) unscale_gradients(optimizer, state);
  HALFTONE_CHECK(!state.found_inf.empty(),
                 "[grad_scaler] No inf checks were recorded for this optimizer. None of its "
                 "parameters has a gradient: call backward() first");
  result.stepped =
      std::none_of(state.found_inf.begin(), state.found_inf.end(),
                   [](const auto& found) { return found.template item<float>() != 0; });
  if (result.stepped) {
    optimizer.step();
  } else {
    add_overflow(optimizer, result);
    result.skips_at_floor = skips_if_skipped(scale_.device()).item<std::int64_t>();
  }
  note(result);
  state.stage = Stage::kStepped;
  return result;
}

StepResult GradScaler::step(FusedOptimizer& optimizer, const FusedStepOptions& options) {
  return step_async(optimizer, options).result();
}

PendingStep GradScaler::step_async(FusedOptimizer& optimizer, const FusedStepOptions& options) {
  HALFTONE_CHECK(options.clip_norm >= 0.0, "[grad_scaler] expected clip_norm >= 0, got ",
                 options.clip_norm);
  const torch::NoGradGuard no_grad;
  OptimizerState* state = options_.enabled ? &begin_step(optimizer) : nullptr;
  const bool unscaled = state == nullptr || state->stage == Stage::kUnscaled;
  const GradientStats stats = optimizer.gradient_stats();
  if (!unscaled && adaptive_ && adaptive_->due()) count_exponents(optimizer);
  const torch::Device device = stats.norm_squared.device();

  torch::Tensor found_inf = stats.non_finite.sum().ne(0).to(torch::kFloat);
  if (state != nullptr && unscaled) found_inf = total_found_inf(state->found_inf, device);
  if (state == nullptr && !options.skip_non_finite) found_inf = torch::zeros_like(found_inf);
  const torch::Tensor inverse =
      unscaled ? torch::ones({}, stats.norm_squared.options())
               : scale_.to(device, torch::kDouble, /*non_blocking=*/true).reciprocal();
  const torch::Tensor norm = stats.norm_squared.sqrt() * inverse;
  torch::Tensor factor = inverse;
  if (options.clip_norm > 0.0) factor = factor * clip_factor(norm, options.clip_norm);
  optimizer.step_scaled(factor, found_inf);
  return stepped(optimizer, {norm, stats.non_finite}, found_inf);
}

PendingStep GradScaler::note_step(FusedOptimizer& optimizer, const GradientStats& stats) {
  HALFTONE_CHECK(!options_.enabled || (options_.min_scale == 1.0 && options_.max_scale == 1.0),
                 "[grad_scaler] expected a scale that is fixed at 1 for a step that has been "
                 "done: whether it is to be skipped is known too late");
  const torch::NoGradGuard no_grad;
  if (options_.enabled) begin_step(optimizer);
  return stepped(optimizer, {stats.norm_squared.sqrt(), stats.non_finite},
                 stats.non_finite.sum().ne(0).to(torch::kFloat));
}

PendingStep GradScaler::stepped(FusedOptimizer& optimizer, const StepStats& stats,
                                const torch::Tensor& found_inf) {
  states_[&optimizer] = {.stage = Stage::kStepped, .found_inf = {found_inf}};
  const FusedOutcome outcome{.norm = stats.norm,
                             .found_inf = found_inf,
                             .skips_at_floor = skips_if_skipped(found_inf.device()),
                             .scale = scale_.defined() ? scale_ : torch::ones_like(found_inf),
                             .non_finite = stats.non_finite};
  return {*this, optimizer, outcome.packed(), scale_};
}

torch::Tensor GradScaler::FusedOutcome::packed() const {
  const auto scalar = [](const torch::Tensor& x) { return x.to(torch::kDouble).reshape({1}); };
  return torch::cat({scalar(norm), scalar(found_inf), scalar(skips_at_floor),
                     scalar(scale).to(norm.device(), /*non_blocking=*/true),
                     non_finite.to(torch::kDouble)});
}

GradScaler::FusedOutcome GradScaler::FusedOutcome::unpacked(const torch::Tensor& packed) {
  constexpr std::int64_t kScalars = 4;
  return {.norm = packed[0],
          .found_inf = packed[1],
          .skips_at_floor = packed[2],
          .scale = packed[3],
          .non_finite = packed.narrow(0, kScalars, packed.numel() - kScalars)};
}

StepResult PendingStep::result() const {
  const auto outcome = GradScaler::FusedOutcome::unpacked(packed_.cpu());
  scaler_->read_scale_ = scale_;
  scaler_->read_scale_value_ = outcome.scale.item<double>();
  return scaler_->fused_result(*optimizer_, outcome);
}

StepResult GradScaler::fused_result(const FusedOptimizer& optimizer, const FusedOutcome& outcome) {
  StepResult result{.stepped = outcome.found_inf.item<double>() == 0.0,
                    .grad_norm = outcome.norm.item<double>()};
  if (!result.stepped) result.skips_at_floor = outcome.skips_at_floor.item<std::int64_t>();
  const std::vector<std::string>& names = optimizer.parameter_names();
  const auto counts = outcome.non_finite.accessor<double, 1>();
  for (std::size_t i = 0; i < names.size(); ++i) {
    const double count = counts[static_cast<std::int64_t>(i)];
    if (count == 0.0) continue;
    const torch::Tensor& parameter = optimizer.parameter(i);
    result.overflow.push_back(name_of(parameter, names[i]));
    result.non_finite_shares.push_back(count / static_cast<double>(parameter.numel()));
  }
  note(result);
  return result;
}

void GradScaler::count_exponents(const FusedOptimizer& optimizer) {
  for (std::size_t i = 0; i < optimizer.parameter_names().size(); ++i)
    if (optimizer.parameter(i).grad().defined()) adaptive_->count(optimizer.parameter(i).grad());
}

// How many skips in a row at the floor there are if this step is one, too; without a scale every
// skip is one.
torch::Tensor GradScaler::skips_if_skipped(torch::Device device) const {
  const torch::Tensor skips = skips_at_floor_.defined()
                                  ? skips_at_floor_.to(device, /*non_blocking=*/true)
                                  : torch::zeros({}, kCountType.device(device));
  if (!options_.enabled) return skips + 1;
  return (skips + 1) * scale_.to(device, /*non_blocking=*/true).le(options_.min_scale);
}

torch::Tensor GradScaler::total_found_inf(const std::vector<torch::Tensor>& found_infs,
                                          torch::Device device) {
  torch::Tensor total = torch::zeros({}, kScaleType.device(device));
  for (const torch::Tensor& found : found_infs) total += found.to(device, true).reshape({});
  return total;
}

ScalerVerdict GradScaler::update() {
  if (options_.enabled) check_scaled("update");
  std::vector<torch::Tensor> found_infs;
  for (const auto& [optimizer, state] : states_)
    found_infs.insert(found_infs.end(), state.found_inf.begin(), state.found_inf.end());
  HALFTONE_CHECK(!options_.enabled || !found_infs.empty(),
                 "[grad_scaler] No inf checks were recorded prior to update. "
                 "Call step() or unscale_() before it");
  if (found_infs.empty()) return {};
  const torch::Device device = options_.enabled ? scale_.device() : found_infs.front().device();
  {
    const torch::NoGradGuard no_grad;
    const torch::Tensor overflow = total_found_inf(found_infs, device).ne(0);
    count_skips(overflow);
    if (options_.enabled) move_scale(overflow);
  }
  states_.clear();
  return take_verdict();
}

void GradScaler::count_skips(const torch::Tensor& overflow) {
  skips_at_floor_ = (skips_if_skipped(overflow.device()) * overflow).to(torch::kInt);
}

// Without a branch on the host.
void GradScaler::move_scale(const torch::Tensor& overflow) {
  const torch::Tensor clean_steps = growth_tracker_ + 1;
  const torch::Tensor grow = overflow.logical_not() & clean_steps.ge(options_.growth_interval);
  const torch::Tensor left = hysteresis_tracker_ - overflow.to(torch::kInt);
  const torch::Tensor lower = overflow & left.le(0);

  // A scale that the caller has put beyond a limit stays there.
  const torch::Tensor scale = scale_.to(torch::kDouble);
  const torch::Tensor lowered =
      torch::min(scale, (scale * options_.backoff_factor).clamp_min(options_.min_scale))
          .to(torch::kFloat);
  if (adaptive_) {
    scale_ = adaptive_->next(
        scale_, {.overflow = overflow, .lower = lower, .lowered = lowered, .relax = grow});
  } else {
    const torch::Tensor grown =
        torch::max(scale, (scale * options_.growth_factor).clamp_max(options_.max_scale))
            .to(torch::kFloat);
    scale_ = at::where(lower, lowered, at::where(grow & grown.isfinite(), grown, scale_));
  }
  growth_tracker_ = clean_steps.masked_fill(overflow | grow, 0);
  hysteresis_tracker_ = left.clamp_min(0).masked_fill(grow, options_.hysteresis);
}

// The host's reads decide; the device is not asked.
void GradScaler::note(const StepResult& result) {
  if (result.skips_at_floor > worst_.skips_at_floor) worst_ = result;
}

ScalerVerdict GradScaler::take_verdict() {
  const StepResult worst = std::exchange(worst_, {});
  ScalerVerdict verdict{.skips_at_floor = worst.skips_at_floor};
  if (options_.max_skips_at_floor == 0 || worst.skips_at_floor < options_.max_skips_at_floor)
    return verdict;
  verdict.hopeless = true;
  verdict.reason = fmt::format(
      "the last {} updates were skipped: gradients are not finite{}, first in {}; {}",
      worst.skips_at_floor, floor_text(options_),
      worst.overflow.empty() ? "an unnamed tensor" : worst.overflow.front(), remedy(options_));
  return verdict;
}

void GradScaler::update(double new_scale) {
  if (!options_.enabled) return;
  check_scaled("update");
  check_scale_in_range(new_scale, options_);
  scale_ = torch::full_like(scale_, new_scale);
  start_anew();
}

void GradScaler::update(const torch::Tensor& new_scale) {
  if (!options_.enabled) return;
  check_scaled("update");
  HALFTONE_CHECK(new_scale.defined() && new_scale.numel() == 1 && !new_scale.requires_grad() &&
                     new_scale.is_floating_point(),
                 "[grad_scaler] new_scale should be a float or a 1-element floating tensor with "
                 "requires_grad=False. Pass new_scale.detach().sum(), or a double");
  scale_ = new_scale.reshape({}).to(scale_.options(), /*non_blocking=*/true, /*copy=*/true);
  start_anew();
}

// The caller's own scale ends what led to it.
void GradScaler::start_anew() {
  states_.clear();
  skips_at_floor_ = torch::zeros_like(skips_at_floor_);
  worst_ = {};
  if (adaptive_) adaptive_->discard();
}

std::optional<ScaleMeasurement> GradScaler::last_measurement() const {
  return adaptive_ ? adaptive_->last_measurement() : std::nullopt;
}

double GradScaler::get_scale() const {
  if (!options_.enabled) return 1.0;
  if (!scale_.defined()) return initial_scale_;
  return scale_.is_same(read_scale_) ? read_scale_value_ : scale_.item<double>();
}

std::int64_t GradScaler::growth_tracker() const {
  if (!options_.enabled) return 0;
  return scale_.defined() ? growth_tracker_.item<std::int64_t>() : initial_growth_tracker_;
}

void GradScaler::set_growth_factor(double factor) {
  check_growth_factor(factor);
  options_.growth_factor = factor;
}

void GradScaler::set_backoff_factor(double factor) {
  check_backoff_factor(factor);
  options_.backoff_factor = factor;
}

void GradScaler::set_growth_interval(std::int64_t interval) {
  check_growth_interval(interval);
  options_.growth_interval = interval;
}

void GradScaler::name_parameters(const torch::nn::Module& module) {
  for (const auto& item : module.named_parameters()) {
    named_.push_back(item.value());
    names_.emplace(item.value().unsafeGetTensorImpl(), item.key());
  }
}

std::string GradScaler::name_of(const torch::Tensor& parameter, const std::string& fallback) const {
  const auto found = names_.find(parameter.unsafeGetTensorImpl());
  return found == names_.end() ? fallback : found->second;
}

// Only after an overflow: one look at each gradient, waiting for it.
void GradScaler::add_overflow(torch::optim::Optimizer& optimizer, StepResult& result) const {
  const auto& groups = optimizer.param_groups();
  for (std::size_t g = 0; g < groups.size(); ++g) {
    for (std::size_t i = 0; i < groups[g].params().size(); ++i) {
      const torch::Tensor& parameter = groups[g].params()[i];
      if (!parameter.grad().defined()) continue;
      const torch::Tensor elements = elements_of(parameter);
      const auto bad = elements.isfinite().logical_not().sum().item<std::int64_t>();
      if (bad == 0) continue;
      result.overflow.push_back(name_of(parameter, position_name(g, i)));
      result.non_finite_shares.push_back(static_cast<double>(bad) /
                                         static_cast<double>(elements.numel()));
    }
  }
}

}  // namespace halftone
