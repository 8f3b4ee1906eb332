// SPDX-License-Identifier: Apache-2.0
// Time and memory of an output head and its loss, forward and backward, in chunks of rows and as
// the composition that holds all logits.
//
//   cross_entropy_bench RECIPE ROWS DIM VOCAB THREADS ROUNDS [CHUNK_ROWS]
//
// RECIPE is 32-true, bf16-mixed, 16-mixed or int8-mixed. The two take turns; prints the median
// milliseconds of each and the most memory that tensors held beyond what was there before.
#include <c10/core/Allocator.h>
#include <c10/util/ThreadLocalDebugInfo.h>
#include <fmt/format.h>

#include <algorithm>
#include <ctime>
#include <functional>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "halftone/autocast/autocast.h"
#include "halftone/core/median.h"
#include "halftone/kernels/fused/cross_entropy.h"
#include "halftone/kernels/linear/compute_context.h"
#include "halftone/kernels/linear/linear.h"
#include "halftone/kernels/linear/linear_cross_entropy.h"
#include "halftone/precision/policy.h"

namespace {

using torch::Tensor;

/// Follows what this thread's tensors allocate and free.
struct Meter : c10::MemoryReportingInfoBase {
  void reportMemoryUsage(void*, std::int64_t size, std::size_t, std::size_t, c10::Device) override {
    held += size;
    peak = std::max(peak, held);
  }
  bool memoryProfilingEnabled() const override { return true; }
  std::int64_t held = 0;
  std::int64_t peak = 0;
};

std::int64_t peak_of(const std::function<void()>& work) {
  const auto meter = std::make_shared<Meter>();
  const c10::DebugInfoGuard guard(c10::DebugInfoKind::PROFILER_STATE, meter);
  work();
  return meter->peak;
}

double milliseconds_of(const std::function<void()>& work) {
  // With one thread its processor time, to which other programs on the machine add little.
  const clockid_t clock = torch::get_num_threads() == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC;
  const auto now = [clock] {
    timespec time{};
    clock_gettime(clock, &time);
    return 1e3 * static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_nsec);
  };
  const double start = now();
  work();
  return now() - start;
}

class Head {
 public:
  Head(std::string recipe, std::int64_t rows, std::int64_t dim, std::int64_t vocab)
      : recipe_(std::move(recipe)),
        hidden_(torch::randn({rows, dim}).requires_grad_()),
        weight_((torch::randn({vocab, dim}) / dim).requires_grad_()),
        targets_(torch::randint(vocab, {rows}, torch::kLong)),
        mask_(torch::ones({rows})) {
    // Steps of a trainer find the gradients' memory there.
    hidden_.mutable_grad() = torch::zeros_like(hidden_);
    weight_.mutable_grad() = torch::zeros_like(weight_);
  }

  void chunked(std::int64_t chunk_rows) const {
    run([&] {
      return halftone::linear_cross_entropy(hidden_, weight_, targets_, mask_, chunk_rows);
    });
  }
  void composed() const {
    run([&] {
      return halftone::masked_mean_cross_entropy(halftone::linear(hidden_, weight_), targets_,
                                                 mask_);
    });
  }

 private:
  void run(const std::function<Tensor()>& loss_of) const {
    Tensor loss;
    {
      const halftone::PrecisionPolicy policy = halftone::parse_precision(recipe_);
      const halftone::Autocast autocast(torch::kCPU, policy.autocast_dtype(), policy.autocast());
      const halftone::ComputeScope scope({.compute = policy.compute});
      loss = loss_of();
    }
    loss.backward();
  }

  std::string recipe_;
  Tensor hidden_;   // (N, dim)
  Tensor weight_;   // (V, dim)
  Tensor targets_;  // (N)
  Tensor mask_;     // (N)
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 7 && argc != 8) {
    std::cerr << "usage: cross_entropy_bench RECIPE ROWS DIM VOCAB THREADS ROUNDS [CHUNK_ROWS]\n";
    return 2;
  }
  torch::manual_seed(0);
  torch::set_num_threads(std::stoi(argv[5]));
  const Head head(argv[1], std::stol(argv[2]), std::stol(argv[3]), std::stol(argv[4]));
  const std::int64_t chunk_rows = argc == 8 ? std::stol(argv[7]) : 0;
  const auto chunked = [&] { head.chunked(chunk_rows); };
  const auto composed = [&] { head.composed(); };
  chunked();
  composed();
  std::vector<double> chunked_ms;
  std::vector<double> composed_ms;
  for (int round = 0; round < std::stoi(argv[6]); ++round) {
    chunked_ms.push_back(milliseconds_of(chunked));
    composed_ms.push_back(milliseconds_of(composed));
  }
  constexpr double kMiB = 1024.0 * 1024.0;
  std::cout << fmt::format(
      "{} {} x {}, V {}: chunked {:.1f} ms, {:.0f} MiB; composed {:.1f} ms, {:.0f} MiB\n", argv[1],
      argv[2], argv[3], argv[4], halftone::median(chunked_ms), peak_of(chunked) / kMiB,
      halftone::median(composed_ms), peak_of(composed) / kMiB);
  return 0;
}
