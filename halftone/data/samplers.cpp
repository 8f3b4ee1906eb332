// SPDX-License-Identifier: Apache-2.0
#include "halftone/data/samplers.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "halftone/core/error.h"
#include "halftone/core/random.h"
#include "halftone/system/hash.h"

namespace halftone {
namespace {

std::int64_t shuffled_place(std::int64_t place, std::int64_t places, const SampledEpoch& epoch) {
  return static_cast<std::int64_t>(permuted_index(epoch.seed, static_cast<std::uint64_t>(place),
                                                  static_cast<std::uint64_t>(places)));
}

template <class T>
std::string hash_of(const std::vector<T>& values) {
  return fmt::format("{:016x}", hash_bytes({reinterpret_cast<const char*>(values.data()),
                                            values.size() * sizeof(T)}));
}

}  // namespace

std::int64_t ShuffledSampler::index_at(std::int64_t place, const SampledEpoch& epoch) const {
  return shuffled_place(place, epoch.samples, epoch);
}

WeightedSampler::WeightedSampler(const std::vector<double>& weights, std::int64_t samples_per_epoch)
    : samples_per_epoch_(samples_per_epoch) {
  if (samples_per_epoch < 1)
    throw UserError(fmt::format("WeightedSampler: expected samples_per_epoch of at least 1, got {}",
                                samples_per_epoch));
  std::vector<double> cumulative;
  cumulative.reserve(weights.size());
  double sum = 0.0;
  for (const double weight : weights) {
    if (!(weight >= 0.0) || !std::isfinite(sum += weight))
      throw UserError(fmt::format(
          "WeightedSampler: expected weights of 0 or more with a finite sum, got {} for sample {}",
          weight, cumulative.size()));
    cumulative.push_back(sum);
  }
  if (sum == 0.0)
    throw UserError(fmt::format(
        "WeightedSampler: expected a weight above 0, got {} weights without one", weights.size()));
  cumulative_ = std::make_shared<const std::vector<double>>(std::move(cumulative));
}

std::int64_t WeightedSampler::places(std::int64_t samples) const {
  if (samples != std::ssize(*cumulative_))
    throw UserError(
        fmt::format("WeightedSampler: expected a weight for each of the {} samples, got {} weights",
                    samples, cumulative_->size()));
  return samples_per_epoch_;
}

std::int64_t WeightedSampler::index_at(std::int64_t place, const SampledEpoch& epoch) const {
  const std::uint64_t word = random_word(epoch.seed, static_cast<std::uint64_t>(place));
  const double uniform = static_cast<double>(word >> 11U) * 0x1p-53;
  const auto first = cumulative_->begin();
  // The first that is greater: it has a weight above 0. The product may round up to the sum.
  const auto found = std::upper_bound(first, cumulative_->end(), uniform * cumulative_->back());
  if (found != cumulative_->end()) return found - first;
  return std::lower_bound(first, cumulative_->end(), cumulative_->back()) - first;
}

std::string WeightedSampler::fingerprint() const {
  return fmt::format("weighted {} {}", samples_per_epoch_, hash_of(*cumulative_));
}

SubsetSampler::SubsetSampler(std::vector<std::int64_t> indices, bool shuffle) : shuffle_(shuffle) {
  if (indices.empty()) throw UserError("SubsetSampler: expected at least one index, got none");
  if (const auto least = *std::min_element(indices.begin(), indices.end()); least < 0)
    throw UserError(fmt::format("SubsetSampler: expected indices from 0 on, got {}", least));
  indices_ = std::make_shared<const std::vector<std::int64_t>>(std::move(indices));
}

std::int64_t SubsetSampler::places(std::int64_t samples) const {
  const std::int64_t most = *std::max_element(indices_->begin(), indices_->end());
  if (most >= samples)
    throw UserError(fmt::format(
        "SubsetSampler: expected indices below the number of samples, {}, got {}", samples, most));
  return std::ssize(*indices_);
}

std::int64_t SubsetSampler::index_at(std::int64_t place, const SampledEpoch& epoch) const {
  const std::int64_t at = shuffle_ ? shuffled_place(place, std::ssize(*indices_), epoch) : place;
  return indices_->at(static_cast<std::size_t>(at));
}

std::string SubsetSampler::fingerprint() const {
  return fmt::format("subset {} of {} {}", shuffle_ ? "shuffled" : "in order", indices_->size(),
                     hash_of(*indices_));
}

}  // namespace halftone
