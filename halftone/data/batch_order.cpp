// SPDX-License-Identifier: Apache-2.0
#include "halftone/data/batch_order.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "halftone/core/error.h"
#include "halftone/core/random.h"
#include "halftone/data/loader_state_impl.h"

namespace halftone {
namespace {

// Streams of the epoch's seed besides that of the order.
constexpr std::uint64_t kOfSamples = 0x53616D706C657321ULL;
constexpr std::uint64_t kOfBatches = 0x4261746368657321ULL;

constexpr const char* kPosition = "position";

Sampler sampler_of(const DataLoaderOptions& options) {
  if (options.sampler) return *options.sampler;
  if (options.shuffle) return ShuffledSampler();
  return SequentialSampler();
}

std::uint64_t epoch_seed(std::uint64_t seed, std::int64_t epoch) {
  return random_word(seed, static_cast<std::uint64_t>(epoch));
}

}  // namespace

BatchOrder::BatchOrder(std::int64_t samples, DataLoaderOptions options)
    : samples_(samples),
      options_(std::move(options)),
      sampler_(sampler_of(options_)),
      places_(sampler_.places(samples)) {
  HALFTONE_CHECK(samples_ >= 1, "[data_loader] expected at least one sample, got ", samples_);
  HALFTONE_CHECK(places_ >= 1, "[data_loader] expected a sampler with at least one place, got ",
                 places_);
  HALFTONE_CHECK(options_.batch_size >= 1, "[data_loader] expected a batch_size from 1 on, got ",
                 options_.batch_size);
  HALFTONE_CHECK(options_.num_workers >= 0, "[data_loader] expected num_workers from 0 on, got ",
                 options_.num_workers);
  HALFTONE_CHECK(options_.batches_ahead >= 1,
                 "[data_loader] expected batches_ahead from 1 on, got ", options_.batches_ahead);
  HALFTONE_CHECK(!options_.drop_last || options_.batch_size <= places_,
                 "[data_loader] expected at least one whole batch with drop_last, got ", places_,
                 " samples for a batch_size of ", options_.batch_size);
}

std::int64_t BatchOrder::batches_per_epoch() const {
  const std::int64_t whole = places_ / options_.batch_size;
  return whole + (!options_.drop_last && places_ % options_.batch_size != 0 ? 1 : 0);
}

std::vector<BatchOrder::Pick> BatchOrder::picks_at(std::int64_t position) const {
  HALFTONE_CHECK(position >= 0, "[data_loader] expected a position from 0 on, got ", position);
  const std::int64_t epoch = position / batches_per_epoch();
  const SampledEpoch sampled{samples_, epoch, epoch_seed(options_.seed, epoch)};
  const std::int64_t first = position % batches_per_epoch() * options_.batch_size;
  const std::int64_t count = std::min(options_.batch_size, places_ - first);
  std::vector<Pick> picks;
  picks.reserve(static_cast<std::size_t>(count));
  for (std::int64_t place = first; place < first + count; ++place) {
    const std::int64_t index = sampler_.index_at(place, sampled);
    HALFTONE_CHECK(index >= 0 && index < samples_, "[data_loader] expected the sampler's indices ",
                   "to be from 0 to ", samples_ - 1, ", got ", index, " at place ", place);
    // The place too: a sample that is drawn twice is not transformed twice in the same way.
    const std::uint64_t of_sample =
        random_word(sampled.seed ^ kOfSamples, static_cast<std::uint64_t>(index));
    picks.push_back({index, {random_word(of_sample, static_cast<std::uint64_t>(place))}});
  }
  return picks;
}

SampleSeed BatchOrder::batch_seed(std::int64_t position) const {
  const std::uint64_t epoch = epoch_seed(options_.seed, position / batches_per_epoch());
  const auto index = static_cast<std::uint64_t>(position % batches_per_epoch());
  return {random_word(epoch ^ kOfBatches, index)};
}

StateDict BatchOrder::state_dict() const {
  StateDict state;
  state.values["samples"] = samples_;
  state.values["batch_size"] = options_.batch_size;
  state.values["sampler"] = sampler_.fingerprint();
  state.values["seed"] = static_cast<std::int64_t>(options_.seed);
  state.values["drop_last"] = options_.drop_last;
  return state;
}

void BatchOrder::check_same(const StateDict& saved, const StateDict& now) {
  for (const auto& [name, current] : now.values)
    if (name != kPosition) check_same_value(saved, now, name);
  for (const auto& [name, value] : saved.values)
    if (name != kPosition && !now.values.contains(name))
      throw UserError(
          fmt::format("cannot resume: the saved run's loader had {} {}, now it has none; put it "
                      "back as it was, or start a new run",
                      name, value_text(value)));
}

std::int64_t BatchOrder::saved_position(const StateDict& saved) {
  return saved_data_position(saved);
}

}  // namespace halftone
