// SPDX-License-Identifier: Apache-2.0
// Which sample of a data set stands at which place of an epoch. A sampler is a value without a
// position: each index is a function of the epoch's seed and the place, so that nothing has to be
// replayed to resume, and any thread may ask. Processes that share an epoch take every W-th place.
#pragma once

#include <concepts>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace halftone {

/// What an order may depend on besides the place.
struct SampledEpoch {
  std::int64_t samples = 0;  ///< of the data set
  std::int64_t epoch = 0;    ///< from 0
  std::uint64_t seed = 0;    ///< of this epoch: random_word(seed of the loader, epoch)
};

/// A class that may serve as a Sampler:
///   places(samples)       how many places an epoch has; throws UserError for a data set of a size
///                         that it does not fit
///   index_at(place, epoch) the sample at `place` (from 0), of 0..samples-1
///   fingerprint()         differs where the order would; a run is resumed only where it is equal
template <class T>
concept SampleOrder = requires(const T& order, std::int64_t count, const SampledEpoch& epoch) {
  { order.places(count) } -> std::convertible_to<std::int64_t>;
  { order.index_at(count, epoch) } -> std::convertible_to<std::int64_t>;
  { order.fingerprint() } -> std::convertible_to<std::string>;
};

/// Every sample once, as they stand.
struct SequentialSampler {
  std::int64_t places(std::int64_t samples) const { return samples; }
  std::int64_t index_at(std::int64_t place, const SampledEpoch&) const { return place; }
  std::string fingerprint() const { return "sequential"; }
};

/// Every sample once, in another order in each epoch: permuted_index() of core/random.h.
struct ShuffledSampler {
  std::int64_t places(std::int64_t samples) const { return samples; }
  std::int64_t index_at(std::int64_t place, const SampledEpoch& epoch) const;
  std::string fingerprint() const { return "shuffled"; }
};

/// Draws with replacement: sample i with probability weights[i] / sum of the weights, each place
/// independently of the others. By inversion of the cumulative weights (Devroye, Non-Uniform Random
/// Variate Generation, 1986, III.2): O(log samples) for each.
class WeightedSampler {
 public:
  /// One weight per sample, finite and not negative, not all 0. Throws UserError otherwise, and
  /// when samples_per_epoch is below 1.
  WeightedSampler(const std::vector<double>& weights, std::int64_t samples_per_epoch);

  std::int64_t places(std::int64_t samples) const;
  std::int64_t index_at(std::int64_t place, const SampledEpoch& epoch) const;
  std::string fingerprint() const;

 private:
  std::shared_ptr<const std::vector<double>> cumulative_;
  std::int64_t samples_per_epoch_;
};

/// The samples that `indices` name, in another order in each epoch unless `shuffle` is false. One
/// that is named twice is taken twice.
class SubsetSampler {
 public:
  /// Throws UserError for no indices, or negative ones.
  explicit SubsetSampler(std::vector<std::int64_t> indices, bool shuffle = true);

  std::int64_t places(std::int64_t samples) const;
  std::int64_t index_at(std::int64_t place, const SampledEpoch& epoch) const;
  std::string fingerprint() const;

 private:
  std::shared_ptr<const std::vector<std::int64_t>> indices_;
  bool shuffle_;
};

/// Any of these, or a SampleOrder of your own. Copies share it.
class Sampler {
 public:
  template <SampleOrder Order>
  requires(!std::same_as<Order, Sampler>)  //
      Sampler(Order order)                 // NOLINT(google-explicit-constructor)
      : order_(std::make_shared<const Holder<Order>>(std::move(order))) {}

  std::int64_t places(std::int64_t samples) const { return order_->places(samples); }
  std::int64_t index_at(std::int64_t place, const SampledEpoch& epoch) const {
    return order_->index_at(place, epoch);
  }
  std::string fingerprint() const { return order_->fingerprint(); }

 private:
  struct Interface {
    virtual ~Interface() = default;
    virtual std::int64_t places(std::int64_t samples) const = 0;
    virtual std::int64_t index_at(std::int64_t place, const SampledEpoch& epoch) const = 0;
    virtual std::string fingerprint() const = 0;
  };
  template <class Order>
  struct Holder final : Interface {
    explicit Holder(Order the_order) : order(std::move(the_order)) {}
    std::int64_t places(std::int64_t samples) const override { return order.places(samples); }
    std::int64_t index_at(std::int64_t place, const SampledEpoch& epoch) const override {
      return order.index_at(place, epoch);
    }
    std::string fingerprint() const override { return order.fingerprint(); }
    Order order;
  };

  std::shared_ptr<const Interface> order_;
};

}  // namespace halftone
