// SPDX-License-Identifier: Apache-2.0
#include "halftone/machine/machine_costs.h"

#include <ATen/Parallel.h>
#include <ATen/ops/full.h>
#include <ATen/ops/mm.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <limits>
#include <set>
#include <utility>

#include "halftone/core/median.h"
#include "halftone/core/stopwatch.h"

namespace halftone {
namespace {

/// The least of `tries` times of `work`, in seconds.
template <class Work>
double least_seconds(int tries, const Work& work) {
  double least = std::numeric_limits<double>::infinity();
  for (int i = 0; i < tries; ++i) least = std::min(least, seconds_of_call(work));
  return least;
}

class ThreadCount {
 public:
  ThreadCount() : before_(at::get_num_threads()) {}
  ~ThreadCount() { at::set_num_threads(before_); }
  ThreadCount(const ThreadCount&) = delete;
  ThreadCount& operator=(const ThreadCount&) = delete;

 private:
  int before_;
};

constexpr std::size_t kMappedBytes = std::size_t{64} << 20U;
constexpr double kMappingsInGib = 16;
constexpr std::size_t kLargePage = std::size_t{2} << 20U;

/// New memory of the system, straight from it: no allocator has kept it.
class Mapping {
 public:
  explicit Mapping(int advice) {
    void* const start = ::mmap(nullptr, kMappedBytes + kLargePage, PROT_READ | PROT_WRITE,
                               MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED) return;
    start_ = start;
    const auto address = reinterpret_cast<std::uintptr_t>(start);
    aligned_ = reinterpret_cast<void*>((address + kLargePage - 1) / kLargePage * kLargePage);
    is_advised_ = ::madvise(aligned_, kMappedBytes, advice) == 0;
  }
  ~Mapping() {
    if (start_ != nullptr) ::munmap(start_, kMappedBytes + kLargePage);
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  bool is_there() const { return start_ != nullptr; }
  bool is_advised() const { return is_advised_; }
  double write_seconds(int value) const {
    return seconds_of_call([&] { std::memset(aligned_, value, kMappedBytes); });
  }

 private:
  void* start_ = nullptr;
  void* aligned_ = nullptr;
  bool is_advised_ = false;
};

}  // namespace

std::vector<ThreadSpeed> thread_speeds(std::int64_t most, const std::vector<std::int64_t>& also) {
  constexpr std::int64_t kSize = 1024;
  constexpr int kTries = 5;
  std::set<std::int64_t> counts{std::max<std::int64_t>(1, most)};
  for (std::int64_t count = 1; count < most; count *= 2) counts.insert(count);
  for (const std::int64_t count : also)
    if (count >= 1 && count < most) counts.insert(count);
  const ThreadCount restored;
  const torch::NoGradGuard no_grad;
  const at::Tensor a = at::full({kSize, kSize}, 0.5), b = at::full({kSize, kSize}, 0.25);
  at::Tensor c = at::mm(a, b);
  std::vector<ThreadSpeed> speeds;
  for (const std::int64_t count : counts) {
    at::set_num_threads(static_cast<int>(count));
    at::mm_out(c, a, b);  // threads start
    const double seconds = least_seconds(kTries, [&] { at::mm_out(c, a, b); });
    speeds.push_back({count, 2.0 * kSize * kSize * kSize / seconds / 1e9});
  }
  return speeds;
}

double parallel_loop_seconds() {
  constexpr int kTries = 200;
  const int threads = at::get_num_threads();
  const auto loop = [&] {
    at::parallel_for(0, threads, 1, [](std::int64_t /*begin*/, std::int64_t /*end*/) {});
  };
  loop();
  std::vector<double> seconds;
  for (int i = 0; i < kTries; ++i) seconds.push_back(seconds_of_call(loop));
  return median(std::move(seconds));  // others on the machine lengthen some of them
}

PageCosts page_costs() {
  constexpr int kTries = 3;
  PageCosts costs{.fresh_s = std::numeric_limits<double>::infinity(),
                  .fresh_large_s = std::numeric_limits<double>::infinity(),
                  .again_s = std::numeric_limits<double>::infinity()};
  for (int i = 0; i < kTries; ++i) {
    const Mapping small(MADV_NOHUGEPAGE), large(MADV_HUGEPAGE);
    if (!small.is_there() || !large.is_there()) return {};
    costs.fresh_s = std::min(costs.fresh_s, kMappingsInGib * small.write_seconds(1));
    costs.again_s = std::min(costs.again_s, kMappingsInGib * small.write_seconds(2));
    const double on_large = kMappingsInGib * large.write_seconds(1);
    costs.fresh_large_s = large.is_advised() ? std::min(costs.fresh_large_s, on_large) : 0.0;
  }
  return costs;
}

}  // namespace halftone
