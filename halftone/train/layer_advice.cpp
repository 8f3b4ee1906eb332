// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <utility>

#include "halftone/core/dtype.h"
#include "halftone/train/layer_advice_impl.h"

namespace halftone {
namespace {

/// Zeros of a gradient in fp16 are underflow only beside numbers that nearly were: a layer behind
/// ReLU has true ones.
constexpr double kSubnormalBesideZeros = 0.05;

double share(std::int64_t part, std::int64_t whole) {
  return whole > 0 ? static_cast<double>(part) / static_cast<double>(whole) : 0.0;
}

std::int64_t live_elements(const LayerSample& sample) {
  return sample.elements - sample.gradients.zeros - sample.gradients.non_finite;
}

bool is_credible(const LayerSample& sample) {
  const std::int64_t live = live_elements(sample);
  return sample.gradient != torch::kHalf || live == 0 ||
         share(sample.gradients.subnormal, live) > kSubnormalBesideZeros;
}

const char* underflow_remedy(torch::ScalarType weight, bool has_scale) {
  if (!has_scale) return "compute these modules in fp32 (keep_fp32)";
  return weight == torch::kHalf
             ? "raise the loss scale (loss_scale = adaptive measures it), or train in bf16-mixed"
             : "raise the loss scale (loss_scale = adaptive measures it), or compute these modules "
               "in fp32 (keep_fp32)";
}

const char* lost_remedy(torch::ScalarType weight) {
  if (weight == torch::kBFloat16)
    return "round stochastically (rounding = stochastic), keep more bits beside the weights "
           "(master_weights = split16), or train in bf16-mixed";
  return weight == torch::kHalf ? "train in 16-mixed, which keeps fp32 weights"
                                : "the learning rate is too small for the weights";
}

std::string others_of(std::size_t count) {
  if (count <= 1) return "";
  return fmt::format(" and {} other parameter{}", count - 1, count == 2 ? "" : "s");
}

}  // namespace

double underflow_share_of(const LayerSample& sample, torch::ScalarType compute) {
  const std::int64_t live = live_elements(sample);
  if (live == 0)
    return compute == torch::kHalf && sample.gradients.non_finite == 0 && sample.elements > 0 ? 1.0
                                                                                              : 0.0;
  if (sample.gradient != torch::kHalf) return share(sample.gradients.flushed, live);
  const std::int64_t flushed = sample.gradients.zeros_in_live_rows;
  return share(flushed, flushed + live);
}

std::optional<double> unchanged_share_of(const LayerSample& sample) {
  if (!sample.update || sample.update->with_gradient == 0) return std::nullopt;
  return share(sample.update->unchanged, sample.update->with_gradient);
}

void LayerAdvice::Streaks::note(const LayerSample& sample, bool is_beyond, double share) {
  int& count = counts_[sample.name];
  count = is_beyond ? count + 1 : 0;
  if (count < kSamples) return;
  if (!worst_) worst_.emplace();
  const std::size_t crossings = worst_->count + 1;
  if (share > worst_->share || crossings == 1)
    worst_ = Crossing{sample.name, share, 0, sample.weight};
  worst_->count = crossings;
}

std::optional<LayerAdvice::Crossing> LayerAdvice::Streaks::take() {
  std::optional<Crossing> worst = std::exchange(worst_, std::nullopt);
  if (!worst || std::exchange(said_, true)) return std::nullopt;
  return worst;
}

std::vector<std::string> LayerAdvice::consider(const std::vector<LayerSample>& samples,
                                               torch::ScalarType compute,
                                               std::optional<double> scale) {
  for (const LayerSample& sample : samples) {
    const double flushed = underflow_share_of(sample, compute);
    underflow_.note(sample, flushed > kUnderflow && is_credible(sample), flushed);
    const double unchanged =
        sample.rounds_stochastically ? 0.0 : unchanged_share_of(sample).value_or(0.0);
    lost_.note(sample, unchanged > kLost, unchanged);
  }
  std::vector<std::string> sentences;
  if (const auto worst = underflow_.take())
    sentences.push_back(fmt::format(
        "underflow: {} becomes zero in {}{} ('{}'{}, in {} samples in a row): {}",
        worst->share == 1.0 ? std::string("all of the gradient")
                            : fmt::format("{:.1f} % of the gradient", 100 * worst->share),
        dtype_name(compute), scale ? fmt::format(" at the loss scale {:g}", *scale) : "",
        worst->name, others_of(worst->count), kSamples,
        underflow_remedy(worst->weight, scale.has_value())));
  if (const auto worst = lost_.take())
    sentences.push_back(
        fmt::format("lost updates: rounding to {} keeps {:.0f} % of the weights with a gradient in "
                    "place ('{}'{}, "
                    "in {} samples in a row): {}",
                    dtype_name(worst->weight), 100 * worst->share, worst->name,
                    others_of(worst->count), kSamples, lost_remedy(worst->weight)));
  return sentences;
}

}  // namespace halftone
