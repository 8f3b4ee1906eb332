// SPDX-License-Identifier: Apache-2.0
#include "halftone/optim/optimizer_in_backward.h"

#include <utility>
#include <vector>

#include "halftone/core/error.h"
#include "halftone/optim/clip.h"
#include "halftone/optim/grad_ready_hooks.h"

namespace halftone {
namespace {

using torch::Tensor;

/// Statistics of gradients that come one at a time, in any order.
class StatsCollector {
 public:
  explicit StatsCollector(const ParameterArena& arena) : parts_(arena.size()) {}

  bool has(std::size_t index) const { return parts_[index].norm_squared.defined(); }
  const RangeStats& add(std::size_t index, RangeStats stats) {
    return parts_[index] = std::move(stats);
  }
  /// In the order of the parameters, whatever the order they came in.
  GradientStats total() const {
    std::vector<Tensor> norm_squared, non_finite;
    for (const RangeStats& part : parts_) {
      norm_squared.push_back(part.norm_squared);
      non_finite.push_back(part.non_finite);
    }
    return {at::cat(norm_squared).sum(), at::cat(non_finite)};
  }

 private:
  std::vector<RangeStats> parts_;
};

/// The step of a backward pass that is under way.
class ReleasedStep {
 public:
  ReleasedStep(FusedOptimizer& optimizer, const ReleaseOptions& options)
      : optimizer_(optimizer), clip_norm_(options.clip_norm), collected_(optimizer.arena()) {
    if (options.measured) {
      norm_ = options.measured->norm_squared.sqrt();
      found_inf_ = options.measured->non_finite.sum().ne(0);
    } else {
      previous_norm_ = options.previous_norm;
    }
  }

  void take(std::size_t index) {
    const torch::NoGradGuard no_grad;
    const RangeStats& stats = collected_.add(index, optimizer_.arena().stats(index));
    const Tensor found = stats.non_finite.sum().ne(0);
    found_inf_ = found_inf_.defined() ? found_inf_.logical_or(found) : found;
    if (!norm_.defined())
      so_far_ = so_far_.defined() ? so_far_ + stats.norm_squared.sum() : stats.norm_squared.sum();
    optimizer_.step_parameter(index, factor(), found_inf_.to(torch::kFloat));
  }

  /// Gradients that autograd has not completed, such as that of one of two tied tensors. Parameters
  /// without any take no part.
  GradientStats finish() {
    const torch::NoGradGuard no_grad;
    for (std::size_t i = 0; i < optimizer_.arena().size(); ++i)
      if (!collected_.has(i)) take(i);
    optimizer_.finish_step(found_inf_.to(torch::kFloat));
    return collected_.total();
  }

 private:
  Tensor factor() const {
    const Tensor& reference = norm_.defined() ? norm_ : so_far_;
    if (clip_norm_ == 0.0) return at::ones_like(reference);
    const Tensor norm = norm_.defined() ? norm_ : so_far_.sqrt().clamp_min(previous_norm_);
    return clip_factor(norm, clip_norm_);
  }

  FusedOptimizer& optimizer_;
  double clip_norm_;
  double previous_norm_ = 0.0;
  Tensor norm_;       // fp64 scalar, where it is known beforehand
  Tensor so_far_;     // fp64 scalar, where it is not: the square
  Tensor found_inf_;  // bool scalar: up to now
  StatsCollector collected_;
};

void check(const FusedOptimizer& optimizer, const ReleaseOptions& options) {
  HALFTONE_CHECK(
      optimizer.traits().releases_gradients,
      "[optimizer_in_backward] expected an optimizer whose options have release_gradients");
  HALFTONE_CHECK(optimizer.arena().size() > 0,
                 "[optimizer_in_backward] expected an optimizer with parameters");
  HALFTONE_CHECK(options.clip_norm >= 0.0 && options.previous_norm >= 0.0,
                 "[optimizer_in_backward] expected clip_norm and previous_norm >= 0, got ",
                 options.clip_norm, " and ", options.previous_norm);
}

}  // namespace

GradientStats measure_gradients(FusedOptimizer& optimizer, const std::function<void()>& backward) {
  check(optimizer, {});
  optimizer.zero_grad();
  const ParameterArena& arena = optimizer.arena();
  StatsCollector collected(arena);
  const auto measure = [&](std::size_t index) {
    collected.add(index, arena.stats(index));
    arena.drop_gradient(index);
  };
  {
    const GradReadyHooks hooks(arena, measure);
    backward();
  }
  for (std::size_t i = 0; i < arena.size(); ++i)
    if (!collected.has(i)) measure(i);
  return collected.total();
}

GradientStats release_gradients(FusedOptimizer& optimizer, const std::function<void()>& backward,
                                const ReleaseOptions& options) {
  check(optimizer, options);
  optimizer.zero_grad();
  ReleasedStep step(optimizer, options);
  {
    const GradReadyHooks hooks(optimizer.arena(), [&](std::size_t index) { step.take(index); });
    backward();
  }
  return step.finish();
}

}  // namespace halftone
