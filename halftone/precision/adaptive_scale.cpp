// SPDX-License-Identifier: Apache-2.0
#include "halftone/precision/adaptive_scale.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "halftone/core/error.h"
#include "halftone/kernels/optimizer/gradient_exponents.h"

namespace halftone {
namespace {

constexpr int kTopExponent = 15;     // fp16's last binade: 2^15 .. 65504
constexpr int kFlushExponent = -25;  // half of fp16's smallest subnormal; what is below is zero
constexpr std::int64_t kUnknown = -1'000'000;  // no gradient has been measured yet

torch::Tensor scalar(std::int64_t value) { return torch::full({}, value, torch::kLong); }

// floor(log2(x)); exact, since fp64 holds the logarithm of every fp32 power of two.
torch::Tensor exponent_of(const torch::Tensor& scale) {
  return scale.to(torch::kDouble).log2().floor().to(torch::kLong);
}

// Share of the values below `bin` among those that are neither zero nor inf or nan.
double share_below(const std::int64_t* counts, std::int64_t bin) {
  const std::int64_t last = std::clamp<std::int64_t>(bin, 1, kExponentBins - 1);
  const std::int64_t below = std::accumulate(counts + 1, counts + last, std::int64_t{0});
  const std::int64_t all = std::accumulate(counts + last, counts + kExponentBins - 1, below);
  return all == 0 ? 0.0 : static_cast<double>(below) / static_cast<double>(all);
}

double head_room(const std::int64_t* counts) {
  for (std::int64_t b = kExponentBins - 2; b > 0; --b)
    if (counts[b] != 0) return static_cast<double>(exponent_bin(kTopExponent) - b);
  return std::numeric_limits<double>::infinity();
}

}  // namespace

AdaptiveScale::AdaptiveScale(const AdaptiveScaleOptions& options)
    : options_(options), margin_(scalar(options.margin)), top_(scalar(kUnknown)) {
  HALFTONE_CHECK(options.interval >= 1, "[adaptive_scale] expected an interval >= 1, got ",
                 options.interval);
  HALFTONE_CHECK(options.margin >= 1 && options.margin <= kWidestMargin,
                 "[adaptive_scale] expected a margin of 1..", kWidestMargin, " powers of two, got ",
                 options.margin);
}

void AdaptiveScale::count(const torch::Tensor& scaled_gradient) {
  const torch::Tensor counts = exponent_histogram(scaled_gradient);
  counts_ = counts_.defined() ? counts_ + counts.to(counts_.device(), true) : counts;
}

void AdaptiveScale::move_margin(const Outcome& outcome) {
  // At the lowered scale, gradients like the last ones measured leave this much room. Not to use
  // more of it is what keeps the next measurement from climbing back.
  const torch::Tensor room = kTopExponent - top_ - exponent_of(outcome.lowered);
  const torch::Tensor widened =
      at::where(top_.ne(kUnknown), at::max(margin_ + 1, room), margin_).clamp_max(kWidestMargin);
  const torch::Tensor narrowed =
      at::min(margin_, at::max(margin_ - 1, at::full_like(margin_, options_.margin)));
  margin_ = at::where(outcome.lower, widened, at::where(outcome.relax, narrowed, margin_));
}

// Takes the counted gradients in; the scale they call for.
torch::Tensor AdaptiveScale::measured_scale(const torch::Tensor& scale, const Outcome& outcome) {
  counts_ = counts_.to(scale.device(), true);
  const torch::Tensor finite = counts_[kExponentBins - 1].eq(0) & outcome.overflow.logical_not();
  const torch::Tensor counted = counts_.narrow(0, 1, kExponentBins - 2);
  const torch::Tensor bins = torch::arange(1, kExponentBins - 1, counted.options());
  const torch::Tensor top_bin = (counted.gt(0) * bins).amax();  // 0: all are zero
  const torch::Tensor known = finite & top_bin.gt(0);
  top_ = at::where(known, top_bin - exponent_bin(0) - exponent_of(scale), top_);
  move_margin(outcome);

  const torch::Tensor wide = scale.to(torch::kDouble);
  const auto within_limits = [&](const torch::Tensor& wanted) {
    return wanted.clamp(options_.min_scale, options_.max_scale);
  };
  const torch::Tensor chosen =
      within_limits(at::exp2((kTopExponent - margin_ - top_).to(torch::kDouble)));
  const torch::Tensor doubled = at::max(wide, within_limits(2 * wide));
  const torch::Tensor wanted = at::where(known, chosen, at::where(finite, doubled, wide));
  last_ = {.update = updates_ + 1,
           .counts = counts_,
           .scale = scale,
           .margin = margin_,
           .chosen = at::where(outcome.lower, outcome.lowered, wanted.to(torch::kFloat)),
           .finite = finite};
  counts_ = torch::Tensor();
  return last_->chosen;
}

torch::Tensor AdaptiveScale::next(const torch::Tensor& scale, const Outcome& outcome) {
  const torch::NoGradGuard no_grad;
  margin_ = margin_.to(scale.device(), /*non_blocking=*/true);
  top_ = top_.to(scale.device(), /*non_blocking=*/true);
  torch::Tensor result;
  if (counts_.defined()) {
    result = measured_scale(scale, outcome);
  } else {
    move_margin(outcome);
    result = at::where(outcome.lower, outcome.lowered, scale);
  }
  ++updates_;
  return result;
}

std::optional<ScaleMeasurement> AdaptiveScale::last_measurement() const {
  if (!last_) return std::nullopt;
  const torch::Tensor counts = last_->counts.cpu();
  const auto* bins = counts.const_data_ptr<std::int64_t>();
  const auto scale = last_->scale.item<double>();
  ScaleMeasurement measurement{.update = last_->update,
                               .scale = scale,
                               .margin = last_->margin.item<std::int64_t>(),
                               .chosen_scale = last_->chosen.item<double>(),
                               .finite = last_->finite.item<bool>()};
  if (!measurement.finite) return measurement;
  const std::int64_t flushed = exponent_bin(kFlushExponent);
  measurement.flushed_share = share_below(bins, flushed);
  measurement.unscaled_share = share_below(bins, flushed + std::ilogb(scale));
  measurement.head_room = head_room(bins);
  return measurement;
}

void AdaptiveScale::set_limits(double min_scale, double max_scale) {
  options_.min_scale = min_scale;
  options_.max_scale = max_scale;
}

StateDict AdaptiveScale::state_dict() const {
  StateDict state;
  state.values = {{"_adaptive_updates", updates_},
                  {"_adaptive_margin", margin_.item<std::int64_t>()}};
  const auto top = top_.item<std::int64_t>();
  if (top != kUnknown) state.values["_adaptive_top"] = top;
  return state;
}

void AdaptiveScale::load_state_dict(const StateDict& state) {
  const auto saved = [&](const char* name, std::int64_t otherwise) {
    return state.values.count(name) != 0 ? state.get<std::int64_t>(name) : otherwise;
  };
  const std::int64_t updates = saved("_adaptive_updates", 0);
  const std::int64_t margin = saved("_adaptive_margin", options_.margin);
  const std::int64_t top = saved("_adaptive_top", kUnknown);
  if (updates < 0 || margin < 1 || margin > kWidestMargin ||
      (top != kUnknown && std::abs(top) > 1000))
    throw UserError(
        fmt::format("saved adaptive scale has {} updates, a margin of {} and a largest exponent of "
                    "{}: expected "
                    "at least 0, 1..{} and -1000..1000; load a state as it was saved",
                    updates, margin, top, kWidestMargin));
  updates_ = updates;
  margin_ = scalar(margin);
  top_ = scalar(top);
  counts_ = torch::Tensor();
  last_.reset();
}

}  // namespace halftone
