// SPDX-License-Identifier: Apache-2.0
#include "halftone/train/batch_weight.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <optional>

#include "halftone/core/error.h"
#include "halftone/core/text.h"

namespace halftone {
namespace {

/// Each count by their mean. Equal counts give exactly 1, whatever they round to.
std::vector<double> by_their_mean(std::span<const double> counts) {
  std::vector<double> relative(counts.size(), 1.0);
  const double sum = std::accumulate(counts.begin(), counts.end(), 0.0);
  const bool equal =
      std::adjacent_find(counts.begin(), counts.end(), std::not_equal_to<>()) == counts.end();
  if (equal || sum == 0.0) return relative;
  const double mean = sum / static_cast<double>(counts.size());
  for (std::size_t i = 0; i < counts.size(); ++i) relative[i] = counts[i] / mean;
  return relative;
}

void check_counts(std::span<const double> counts) {
  for (const double count : counts)
    HALFTONE_CHECK(count >= 0.0 && std::isfinite(count),
                   "[trainer] expected loss_weight() to be 0 or more and finite, got ", count);
}

}  // namespace

const std::vector<std::string>& loss_average_names() {
  static const std::vector<std::string> names = {"tokens", "micro-batches"};
  return names;
}

LossAverage parse_loss_average(std::string_view name) {
  const std::vector<std::string>& names = loss_average_names();
  const auto found = std::find(names.begin(), names.end(), name);
  if (found != names.end()) return static_cast<LossAverage>(found - names.begin());
  const std::optional<std::string> nearest = nearest_match(name, names);
  throw UserError(fmt::format("expected loss_average to be one of {}, got '{}'{}",
                              fmt::join(names, ", "), name,
                              nearest ? fmt::format("; did you mean '{}'?", *nearest) : ""));
}

std::vector<BatchWeight> relative_weights(std::span<const double> losses,
                                          std::span<const double> samples) {
  check_counts(losses);
  const std::vector<double> by_loss = by_their_mean(losses);
  const std::vector<double> by_samples = by_their_mean(samples);
  std::vector<BatchWeight> weights(losses.size());
  for (std::size_t i = 0; i < weights.size(); ++i) {
    weights[i] = {.loss = by_loss[i], .samples = by_samples[i]};
    if (by_loss[i] > 0.0) weights[i].samples_to_loss = by_samples[i] / by_loss[i];
  }
  return weights;
}

std::vector<BatchWeight> shared_weights(ProcessGroup& group, const std::vector<BatchCount>& own,
                                        std::int64_t turns) {
  std::vector<double> counts;
  for (const BatchCount& count : own) counts.insert(counts.end(), {count.loss, count.samples});
  counts.resize(static_cast<std::size_t>(2 * turns), 0.0);
  std::vector<double> losses, samples;
  for (const std::vector<double>& one : all_gather_numbers(group, counts)) {
    for (std::size_t i = 0; i < one.size(); i += 2) {
      losses.push_back(one[i]);
      samples.push_back(one[i + 1]);
    }
  }
  const std::vector<BatchWeight> all = relative_weights(losses, samples);
  const auto first = all.begin() + group.rank() * turns;
  std::vector<BatchWeight> weights(first, first + turns);
  for (std::size_t i = own.size(); i < weights.size(); ++i) weights[i].loss = 0.0;
  return weights;
}

}  // namespace halftone
