// SPDX-License-Identifier: Apache-2.0
// What the two exchanges of a training step cost between processes: one JSON object from process 0.
//
//   halftone launch --processes 2 -- build/bench/exchange_bench
//
// "processes", and "all_to_all" and "all_gather": [bytes, seconds] pairs, where bytes are those of
// the whole tensor, of which each process sends (W - 1) / W, and seconds the median of several.
#include <ATen/ops/zeros.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <iostream>
#include <string>
#include <vector>

#include "halftone/core/median.h"
#include "halftone/core/stopwatch.h"
#include "halftone/dist/joined_processes.h"

namespace {

using halftone::ProcessGroup;

constexpr std::int64_t kLeast = std::int64_t{1} << 10U, kMost = std::int64_t{64} << 20U;

double median_seconds(ProcessGroup& group, std::int64_t bytes, const std::function<void()>& act) {
  const std::int64_t times = std::clamp<std::int64_t>((std::int64_t{128} << 20U) / bytes, 5, 100);
  std::vector<double> seconds;
  for (std::int64_t i = 0; i < times; ++i) {
    group.all_gather(std::string("ready"));  // all begin together
    seconds.push_back(halftone::seconds_of_call(act));
  }
  return halftone::median(std::move(seconds));
}

std::string pairs_of(const std::vector<std::array<double, 2>>& pairs) {
  return fmt::format("{}", pairs);
}

}  // namespace

int main() {
  const std::shared_ptr<ProcessGroup> group = halftone::joined_processes();
  if (!group) {
    std::cerr << "usage: halftone launch --processes 2 -- exchange_bench\n";
    return 2;
  }
  std::vector<std::array<double, 2>> to_all, gathered;
  for (std::int64_t bytes = kLeast; bytes <= kMost; bytes *= 4) {
    const std::int64_t own = bytes / group->size();
    const at::Tensor sent = at::zeros({group->size(), own}, at::kByte), all = at::zeros_like(sent);
    const at::Tensor piece = at::zeros({own}, at::kByte);
    const double size = static_cast<double>(sent.nbytes());
    const auto exchange = [&] { group->all_to_all(all, sent)->wait(); };
    const auto gather = [&] { group->all_gather(all, piece)->wait(); };
    exchange();
    gather();
    to_all.push_back({size, median_seconds(*group, bytes, exchange)});
    gathered.push_back({size, median_seconds(*group, bytes, gather)});
  }
  if (group->rank() == 0)
    std::cout << fmt::format("{{\"processes\": {}, \"all_to_all\": {}, \"all_gather\": {}}}\n",
                             group->size(), pairs_of(to_all), pairs_of(gathered));
  return 0;
}
