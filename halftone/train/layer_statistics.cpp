// SPDX-License-Identifier: Apache-2.0
#include "halftone/train/layer_statistics.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <utility>

#include "halftone/core/device.h"
#include "halftone/core/error.h"
#include "halftone/core/log.h"
#include "halftone/core/stopwatch.h"
#include "halftone/run/layer_metrics.h"
#include "halftone/train/layer_advice_impl.h"
#include "halftone/train/layer_sampler_impl.h"
#include "halftone/train/sample_pace_impl.h"
#include "halftone/train/trainer.h"

namespace halftone {
namespace {

/// Adds the time of its scope, with what the device does for it.
class TimedScope {
 public:
  TimedScope(double& seconds, torch::Device device) : seconds_(seconds), device_(device) {
    synchronize(device_);
    watch_ = Stopwatch();
  }
  ~TimedScope() {
    synchronize(device_);
    seconds_ += watch_.seconds();
  }
  TimedScope(const TimedScope&) = delete;
  TimedScope& operator=(const TimedScope&) = delete;

 private:
  double& seconds_;
  torch::Device device_;
  Stopwatch watch_;
};

void add_sample(std::map<std::string, double>& logged, const LayerSample& sample, double scale,
                torch::ScalarType compute) {
  const auto add = [&](LayerStatistic statistic, double value) {
    logged[layer_key(statistic, sample.name)] = value;
  };
  const auto elements = static_cast<double>(std::max<std::int64_t>(sample.elements, 1));
  const double norm = std::sqrt(sample.gradients.norm_squared) / scale;
  add(LayerStatistic::kGradNorm, norm);
  add(LayerStatistic::kGradRms, norm / std::sqrt(elements));
  add(LayerStatistic::kGradMax, sample.gradients.largest / scale);
  add(LayerStatistic::kZeroShare, static_cast<double>(sample.gradients.zeros) / elements);
  add(LayerStatistic::kUnderflowShare, underflow_share_of(sample, compute));
  if (!sample.update) return;
  if (sample.update->weight_squared > 0.0)
    add(LayerStatistic::kUpdateRatio,
        std::sqrt(sample.update->change_squared / sample.update->weight_squared));
  if (const auto unchanged = unchanged_share_of(sample))
    add(sample.rounds_stochastically ? LayerStatistic::kUnchangedWeights
                                     : LayerStatistic::kLostUpdates,
        *unchanged);
}

}  // namespace

class LayerStatistics::Impl {
 public:
  explicit Impl(LayerStatisticsOptions the_options)
      : options(std::move(the_options)), pace(options.every_n_steps) {}

  LayerStatisticsOptions options;
  SamplePace pace;
  LayerAdvice advice;
  std::vector<WatchedParameter> parameters;
  std::optional<LayerSampler> sampler;  // of the present step, if it is sampled
  double sample_s = 0.0;                // of the present step: before its numbers were complete
};

LayerStatistics::LayerStatistics(LayerStatisticsOptions options) {
  if (options.every_n_steps < 0)
    throw UserError(
        fmt::format("layer statistics: expected every_n_steps >= 0 (0: chosen by itself), got {}",
                    options.every_n_steps));
  check_watch_patterns(options.patterns);
  impl_ = std::make_unique<Impl>(std::move(options));
}

LayerStatistics::~LayerStatistics() = default;

std::int64_t LayerStatistics::every_n_steps() const { return impl_->pace.every(); }

void LayerStatistics::on_fit_start(Trainer& trainer) {
  if (!trainer.module().automatic_optimization())
    throw UserError(
        "layer statistics: expected a module whose optimizers the Trainer steps, but its "
        "automatic_optimization() is false; leave the callback out");
  impl_->advice = {};
  impl_->parameters = watched_parameters(trainer.module().network(), trainer.loop().optimizers(),
                                         impl_->options.patterns);
  if (impl_->parameters.empty() && !impl_->options.patterns.empty())
    throw UserError(fmt::format(
        "layer statistics: expected patterns that are found in a parameter's name, got '{}', which "
        "is found in none",
        impl_->options.patterns.front()));
}

void LayerStatistics::on_before_optimizer_step(Trainer& trainer) {
  impl_->sample_s = 0.0;
  if (!impl_->pace.is_due(trainer.loop().counters().step + 1)) return;
  const TimedScope scope(impl_->sample_s, trainer.device());
  impl_->sampler.emplace(impl_->parameters, trainer.policy().compute_dtype());
  impl_->sampler->begin();
}

void LayerStatistics::on_after_backward(Trainer& /*trainer*/) {
  if (impl_->sampler) impl_->sampler->end_backward();
}

void LayerStatistics::add_metrics(Trainer& trainer, StepMetrics& metrics) {
  if (!impl_->sampler) {
    impl_->pace.note_step(metrics.step_ms / 1e3);
    return;
  }
  double seconds = impl_->sample_s + impl_->sampler->seconds_in_backward();
  {
    const TimedScope scope(seconds, trainer.device());
    const torch::ScalarType compute = trainer.policy().compute_dtype();
    const std::vector<LayerSample> samples = impl_->sampler->finish();
    impl_->sampler.reset();
    if (!metrics.skipped) {
      for (const LayerSample& sample : samples)
        add_sample(metrics.logged, sample, metrics.scale.value_or(1.0), compute);
      for (const std::string& sentence : impl_->advice.consider(samples, compute, metrics.scale))
        log_note(fmt::format("step {}: {}", metrics.step, sentence));
    }
  }
  impl_->pace.note_sample(seconds);
}

void LayerStatistics::on_fit_end(Trainer& /*trainer*/) {
  impl_->sampler.reset();
  impl_->parameters.clear();
}

void LayerStatistics::on_exception(Trainer& /*trainer*/, const std::exception& /*error*/) {
  impl_->sampler.reset();
  impl_->parameters.clear();
}

StateDict LayerStatistics::state_dict() const { return impl_->pace.state_dict(); }

void LayerStatistics::load_state_dict(const StateDict& state) {
  impl_->pace.load_state_dict(state);
}

}  // namespace halftone
