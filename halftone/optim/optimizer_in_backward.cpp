// SPDX-License-Identifier: Apache-2.0
#include "halftone/optim/optimizer_in_backward.h"

#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "halftone/core/error.h"
#include "halftone/optim/arrival_hook_impl.h"
#include "halftone/optim/clip.h"

namespace halftone {
namespace {

using torch::Tensor;
/// While it lives, calls `whole` for each parameter whose gradient autograd has completed: it runs
/// these hooks when the last node that adds to a leaf has. One call at a time.
class GradReadyHooks {
 public:
  using Whole = std::function<void(std::size_t index)>;

  GradReadyHooks(const AdamW& optimizer, Whole whole)
      : optimizer_(optimizer),
        whole_(std::move(whole)),
        awaited_(optimizer.parameter_names().size()) {
    for (std::size_t i = 0; i < awaited_.size(); ++i) {
      for (const Tensor& variable : optimizer_.variables(i)) {
        if (!variable.requires_grad()) continue;
        ++awaited_[i];
        ArrivalHook::Hook& hook = arrival_hook_of(variable);
        hook = std::make_unique<ArrivalHook>(std::move(hook), [this, i] { arrived(i); });
      }
    }
  }
  ~GradReadyHooks() {
    for (std::size_t i = 0; i < awaited_.size(); ++i) {
      for (const Tensor& variable : optimizer_.variables(i)) {
        if (!variable.requires_grad()) continue;
        ArrivalHook::Hook& hook = arrival_hook_of(variable);
        hook = static_cast<ArrivalHook&>(*hook).take_before();
      }
    }
  }
  GradReadyHooks(const GradReadyHooks&) = delete;
  GradReadyHooks& operator=(const GradReadyHooks&) = delete;

 private:
  // The engine has a thread for each device.
  void arrived(std::size_t index) {
    const std::lock_guard<std::mutex> lock(mutex_);
    HALFTONE_CHECK(awaited_[index] > 0,
                   "[optimizer_in_backward] expected one backward pass, but the gradient of '",
                   optimizer_.parameter_names()[index],
                   "' came twice: add the losses up and call backward() once");
    if (--awaited_[index] == 0) whole_(index);
  }

  const AdamW& optimizer_;
  Whole whole_;
  std::mutex mutex_;
  std::vector<std::size_t> awaited_;  // variables of each parameter whose gradient has not come
};

/// Statistics of gradients that come one at a time, in any order.
class StatsCollector {
 public:
  explicit StatsCollector(const AdamW& optimizer) : parts_(optimizer.parameter_names().size()) {}

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
  ReleasedStep(AdamW& optimizer, const ReleaseOptions& options)
      : optimizer_(optimizer), clip_norm_(options.clip_norm), collected_(optimizer) {
    if (options.measured) {
      norm_ = options.measured->norm_squared.sqrt();
      found_inf_ = options.measured->non_finite.sum().ne(0);
    } else {
      previous_norm_ = options.previous_norm;
    }
  }

  void take(std::size_t index) {
    const torch::NoGradGuard no_grad;
    const RangeStats& stats = collected_.add(index, optimizer_.parameter_stats(index));
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
    for (std::size_t i = 0; i < optimizer_.parameter_names().size(); ++i)
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

  AdamW& optimizer_;
  double clip_norm_;
  double previous_norm_ = 0.0;
  Tensor norm_;       // fp64 scalar, where it is known beforehand
  Tensor so_far_;     // fp64 scalar, where it is not: the square
  Tensor found_inf_;  // bool scalar: up to now
  StatsCollector collected_;
};

void check(const AdamW& optimizer, const ReleaseOptions& options) {
  HALFTONE_CHECK(
      optimizer.options().release_gradients,
      "[optimizer_in_backward] expected an optimizer whose options have release_gradients");
  HALFTONE_CHECK(!optimizer.parameter_names().empty(),
                 "[optimizer_in_backward] expected an optimizer with parameters");
  HALFTONE_CHECK(options.clip_norm >= 0.0 && options.previous_norm >= 0.0,
                 "[optimizer_in_backward] expected clip_norm and previous_norm >= 0, got ",
                 options.clip_norm, " and ", options.previous_norm);
}

}  // namespace

GradientStats measure_gradients(AdamW& optimizer, const std::function<void()>& backward) {
  check(optimizer, {});
  optimizer.zero_grad();
  StatsCollector collected(optimizer);
  const auto measure = [&](std::size_t index) {
    collected.add(index, optimizer.parameter_stats(index));
    for (Tensor variable : optimizer.variables(index)) variable.mutable_grad() = Tensor();
  };
  {
    const GradReadyHooks arrivals(optimizer, measure);
    backward();
  }
  for (std::size_t i = 0; i < optimizer.parameter_names().size(); ++i)
    if (!collected.has(i)) measure(i);
  return collected.total();
}

GradientStats release_gradients(AdamW& optimizer, const std::function<void()>& backward,
                                const ReleaseOptions& options) {
  check(optimizer, options);
  optimizer.zero_grad();
  ReleasedStep step(optimizer, options);
  {
    const GradReadyHooks arrivals(optimizer, [&](std::size_t index) { step.take(index); });
    backward();
  }
  return step.finish();
}

}  // namespace halftone
