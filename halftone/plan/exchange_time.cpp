// SPDX-License-Identifier: Apache-2.0
#include "halftone/plan/exchange_time.h"

#include <algorithm>

#include "halftone/core/error.h"

namespace halftone {
namespace {

/// The collective operations of one group over one network.
class Collectives {
 public:
  Collectives(std::int64_t processes, const NetworkSpeed& network)
      : others_(static_cast<double>(processes - 1)),
        share_(others_ / static_cast<double>(processes)),
        network_(network) {}

  /// `count` of them, of `bytes` together.
  double seconds(double count, double bytes = 0) const {
    return count * others_ * network_.latency_s + share_ * bytes / network_.bytes_per_s;
  }

 private:
  double others_;
  double share_;  // of all bytes: what a process sends, and what it receives
  NetworkSpeed network_;
};

/// Numbers by which processes agree are gathered by two operations: their lengths go first. A step
/// has those of the batches' weights and of its loss, and the statistics of shared gradients.
double agreements(const AdamWShare& share) { return share.states ? 6 : 4; }

/// And after each reduction, which parameters have a gradient anywhere.
constexpr double kAgreementsOfReduction = 2;

}  // namespace

ExchangeSeconds exchange_seconds(const AdamWShare& share, const AdamWShareBytes& bytes,
                                 const ExchangeSpeed& speed, const BackwardPasses& passes) {
  if (share.processes == 1) return {};
  HALFTONE_CHECK(speed.network.bytes_per_s > 0 && speed.network.latency_s >= 0 &&
                     passes.micro_batches >= 1 && bytes.buckets >= 1,
                 "[exchange_seconds] expected a network's speed, a micro-batch and a bucket");
  const Collectives collectives(share.processes, speed.network);
  const double ways = share.gradients ? 1 : 2;
  const auto sum = [&](double buckets, std::int64_t size) {
    const auto travelling = static_cast<double>(size);
    return ways * collectives.seconds(buckets, travelling) + speed.sum_s * travelling;
  };
  const auto buckets = static_cast<double>(bytes.buckets);
  const auto weights = static_cast<double>(bytes.weights_in_transit);
  const auto kept = static_cast<double>(bytes.weights_behind);
  const auto gather = [&](double size) {
    const double count = size > 0 ? buckets * size / (weights + kept) : 0;
    return collectives.seconds(count, size) + speed.gather_s * size;
  };
  const double gathered = gather(weights);
  const double brought = share.weights ? 2 * gathered : 0;  // for a forward and a backward pass
  const double gradients = sum(buckets, bytes.gradients_in_transit) + brought;
  const double window = speed.is_hidden ? (1 - 1 / buckets) * passes.seconds : 0;
  const double waited = std::max(sum(1, bytes.last_bucket) + brought / buckets, gradients - window);

  const double times = share.gradients ? static_cast<double>(passes.micro_batches) : 1;
  double behind =
      collectives.seconds(agreements(share)) + times * collectives.seconds(kAgreementsOfReduction);
  if (share.states) behind += share.weights ? gather(kept) : gathered;
  return {.all = times * gradients + behind, .exposed = times * waited + behind};
}

}  // namespace halftone
