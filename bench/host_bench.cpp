// SPDX-License-Identifier: Apache-2.0
// What a training step waits for besides the mathematics: the next batch, its line of metrics.
//
//   host_bench TOKENS.tokens [FOLDER]
//
// TOKENS.tokens: a file of ~/.cache/halftone/tokens; FOLDER: where the lines go, default the
// system's temporary folder. Prints microseconds, the median and the worst of a thousand.
#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <iostream>
#include <string>
#include <vector>

#include "halftone/core/median.h"
#include "halftone/core/stopwatch.h"
#include "halftone/data/token_loader.h"
#include "halftone/run/metrics_log.h"

namespace {

void report(const std::string& what, const std::function<void(std::int64_t)>& work) {
  constexpr std::int64_t kTimes = 1000;
  std::vector<double> microseconds;
  for (std::int64_t i = 0; i < kTimes; ++i) {
    microseconds.push_back(1e6 * halftone::seconds_of_call([&] { work(i); }));
  }
  std::cout << fmt::format("{:<28} median {:>8.1f} us  worst {:>8.1f} us\n", what,
                           halftone::median(microseconds),
                           *std::max_element(microseconds.begin(), microseconds.end()));
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::cerr << "usage: host_bench TOKENS.tokens [FOLDER]\n";
    return 2;
  }
  const std::filesystem::path folder =
      argc > 2 ? std::filesystem::path(argv[2]) : std::filesystem::temp_directory_path();
  const auto tokens = std::make_shared<const halftone::TokenFile>(argv[1]);
  for (const auto& [batch, length] :
       std::vector<std::pair<std::int64_t, std::int64_t>>{{4, 256}, {32, 512}, {8, 32}}) {
    const halftone::TokenLoader loader({.tokens = tokens},
                                       {.batch_size = batch, .seq_len = length});
    report(fmt::format("a batch of {} x {}", batch, length),
           [&](std::int64_t i) { loader.batch_at(i); });
  }
  const std::filesystem::path path = folder / "host_bench.jsonl";
  {
    halftone::MetricsLog log(path, 0);
    report("a line of metrics", [&](std::int64_t i) {
      log.append({.step = i + 1,
                  .epoch = 1,
                  .loss = 8.25,
                  .lr = 5e-4,
                  .grad_norm = 1.5,
                  .tokens = 1024,
                  .tokens_total = 1024 * (i + 1),
                  .tokens_per_s = 1600.5,
                  .step_ms = 650.25,
                  .rss_mib = 1024.5});
    });
  }
  std::filesystem::remove(path);
  return 0;
}
