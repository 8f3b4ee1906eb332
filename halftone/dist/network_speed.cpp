// SPDX-License-Identifier: Apache-2.0
#include "halftone/dist/network_speed.h"

#include <ATen/ops/zeros.h>

#include <algorithm>
#include <limits>
#include <vector>

#include "halftone/core/error.h"
#include "halftone/core/stopwatch.h"
#include "halftone/dist/network_speed_impl.h"

namespace halftone {
namespace {

/// How often a message of `bytes` is sent, and from how many places: those of large ones are more
/// than caches hold, as gradients are. Rounds are short: what else runs disturbs some of them only.
struct Rounds {
  std::int64_t bytes;
  int count;
  int in_round;
  std::int64_t places;
};
constexpr Rounds kSmallRounds{kSmallMessage, 50, 4, 1}, kLargeRounds{kLargeMessage, 24, 1, 8};

/// Of one exchange, the mean of a round: in the best of several, when nothing else runs.
double best_seconds(const TimedExchange& exchange, std::int64_t processes, const Rounds& rounds) {
  const std::vector<std::int64_t> sizes{rounds.places, processes, rounds.bytes};
  const torch::Tensor sent = at::zeros(sizes, torch::kByte);
  const torch::Tensor received = at::zeros(sizes, torch::kByte);
  double best = std::numeric_limits<double>::infinity();
  for (int round = 0; round < rounds.count; ++round) {
    const std::int64_t place = round % rounds.places;
    best = std::min(best, seconds_of_call([&] {
                      for (int i = 0; i < rounds.in_round; ++i)
                        exchange(received[place], sent[place]);
                    }));
  }
  return best / rounds.in_round;
}

}  // namespace

NetworkSpeed fitted_speed(std::int64_t processes, double small_s, double large_s) {
  HALFTONE_CHECK(processes > 1, "[network_speed] expected two processes or more, got ", processes);
  // Where the large one is no slower, its time was noise.
  constexpr double kLeast = 1e-9;
  const auto others = static_cast<double>(processes - 1);  // messages of each
  return {.latency_s = small_s / others,
          .bytes_per_s = others * static_cast<double>(kLargeMessage - kSmallMessage) /
                         std::max(large_s - small_s, kLeast)};
}

NetworkSpeed measured_speed(std::int64_t processes, const TimedExchange& exchange) {
  const double small = best_seconds(exchange, processes, kSmallRounds);
  return fitted_speed(processes, small, best_seconds(exchange, processes, kLargeRounds));
}

NetworkSpeed network_speed(ProcessGroup& group) {
  return measured_speed(group.size(),
                        [&](const torch::Tensor& received, const torch::Tensor& sent) {
                          group.all_to_all(received, sent)->wait();
                        });
}

}  // namespace halftone
