// SPDX-License-Identifier: Apache-2.0
#include "halftone/plan/exchange_speed.h"

#include <ATen/ops/zeros.h>
#include <c10/util/ParallelGuard.h>

#include <algorithm>
#include <deque>
#include <future>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "halftone/core/error.h"
#include "halftone/core/stopwatch.h"
#include "halftone/optim/gradient_buckets.h"
#include "halftone/optim/gradient_sum.h"
#include "halftone/optim/piece_rows.h"

namespace halftone {
namespace {

using torch::Tensor;

/// Process 0 of a group whose messages bring zeros and take no time that is counted.
class SilentGroup : public ProcessGroup {
 public:
  explicit SilentGroup(std::int64_t size) : size_(size) {}

  std::int64_t rank() const override { return 0; }
  std::int64_t size() const override { return size_; }
  // Whatever lay there could be slow to add: denormal numbers are.
  Pending all_to_all(Tensor received, Tensor /*sent*/) override {
    not_counted_ += seconds_of_call([&] { received.zero_(); });
    return std::make_unique<Done>();
  }
  Pending all_gather(Tensor /*all*/, Tensor /*own*/) override { return std::make_unique<Done>(); }
  Pending broadcast(Tensor /*tensor*/, std::int64_t /*root*/) override {
    return std::make_unique<Done>();
  }
  std::shared_ptr<ProcessGroup> twin() override { return std::make_shared<SilentGroup>(size_); }
  std::vector<std::string> all_gather(const std::string& own) override {
    return std::vector<std::string>(static_cast<std::size_t>(size_), own);
  }

  double not_counted() const { return not_counted_; }

 private:
  struct Done : Work {
    void wait() override {}
  };
  std::int64_t size_;
  double not_counted_ = 0;
};

/// Times what is done with a bucket, on one thread.
class BucketTimer {
 public:
  explicit BucketTimer(const AdamWShare& share) : share_(share), group_(share.processes) {}

  double sum(const Tensor& gradients) {
    const double before = group_.not_counted();
    const double all = seconds_of_call([&] {
      const auto sum = std::make_shared<GradientSum>(
          group_, gradients, even_pieces(gradients.numel(), share_.processes), share_.transport);
      keep(sum);
      if (share_.gradients) return sum->finish_own();
      sum->add_up();
      sum->finish();
    });
    return all - (group_.not_counted() - before);
  }

  /// As ArenaShards::gather_weights() copies.
  double gather(const Tensor& weights) {
    return seconds_of_call([&] {
      const auto rows = std::make_shared<PieceRows>(
          weights, even_pieces(weights.numel(), share_.processes), weights.scalar_type());
      keep(rows);
      rows->put(weights, 0);
      for (std::int64_t r = 1; r < share_.processes; ++r) rows->take(rows->row(r), weights, r);
    });
  }

 private:
  /// The next copies lie elsewhere: in a run messages drive copies out of the caches.
  void keep(std::shared_ptr<void> copies) {
    constexpr std::size_t kKept = 4;
    kept_.push_back(std::move(copies));
    if (kept_.size() > kKept) kept_.pop_front();
  }

  const AdamWShare& share_;
  SilentGroup group_;
  std::deque<std::shared_ptr<void>> kept_;
};

using TimedBucket = double (BucketTimer::*)(const Tensor& bucket);

/// Of the best of several rounds over `buckets` (count, numbers), a row of which travels at a time.
double best_of_rounds(const Tensor& buckets, const AdamWShare& share, TimedBucket timed) {
  constexpr int kRounds = 5;
  const torch::NoGradGuard no_grad;
  const c10::ParallelGuard on_this_thread(true);
  BucketTimer timer(share);
  double best = std::numeric_limits<double>::infinity();
  for (int round = 0; round < kRounds; ++round) {
    double seconds = 0;
    for (std::int64_t i = 0; i < buckets.size(0); ++i) seconds += (timer.*timed)(buckets[i]);
    best = std::min(best, seconds);
  }
  return best;
}

/// Seconds of a byte, while as many threads do the same as cores of the host will: over more
/// gradients than caches hold, as those of a model are.
double seconds_of_byte(const HostShare& host, const AdamWShare& share, std::int64_t bucket_bytes,
                       TimedBucket timed) {
  constexpr std::int64_t kBuckets = 16;
  const std::int64_t at_once = std::min(host.processes, host.cores);
  const std::int64_t of_each = (kBuckets + at_once - 1) / at_once;
  const Tensor buckets = at::zeros(
      {at_once, of_each, kBucketBytes / static_cast<std::int64_t>(sizeof(float))}, torch::kFloat);
  std::vector<std::future<double>> all;
  for (std::int64_t i = 0; i < at_once; ++i)
    all.push_back(std::async(std::launch::async,
                             [&, i] { return best_of_rounds(buckets[i], share, timed); }));
  double mean = 0;
  for (std::future<double>& one : all) mean += one.get() / static_cast<double>(at_once);
  // Of more processes than cores each has its turn.
  const double turns = static_cast<double>(host.processes) / static_cast<double>(at_once);
  return turns * mean / static_cast<double>(of_each * bucket_bytes);
}

/// What each of the host's processes reaches of what two of them did.
NetworkSpeed shared_loopback(const HostShare& host) {
  NetworkSpeed speed = loopback_speed();
  const double ends = static_cast<double>(std::max<std::int64_t>(2, host.cores));
  speed.bytes_per_s *= std::min(1.0, ends / static_cast<double>(host.processes));
  return speed;
}

}  // namespace

std::int64_t HostShare::busy_cores() const {
  return processes == 1 ? threads : std::min(cores, processes * threads);
}

ExchangeSpeed measure_exchange_speed(const AdamWShare& share, const HostShare& host,
                                     const std::optional<NetworkSpeed>& network) {
  HALFTONE_CHECK(share.processes > 1 && host.processes >= 1 && host.threads >= 1 && host.cores >= 1,
                 "[exchange_speed] expected several processes on a host with cores");
  const std::int64_t travelling =
      kBucketBytes / static_cast<std::int64_t>(sizeof(float)) *
      static_cast<std::int64_t>(c10::elementSize(dtype_under_way(torch::kFloat, share.transport)));
  ExchangeSpeed speed{.network = network ? *network : shared_loopback(host)};
  speed.sum_s = seconds_of_byte(host, share, travelling, &BucketTimer::sum);
  if (share.states)
    speed.gather_s = seconds_of_byte(host, share, kBucketBytes, &BucketTimer::gather);
  speed.is_hidden = network || host.has_spare_cores();
  return speed;
}

}  // namespace halftone
