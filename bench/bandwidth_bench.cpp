// SPDX-License-Identifier: Apache-2.0
// How fast this machine's cores read memory that no cache holds: the ceiling of generating one
// token after the other, since each reads all weights once. Prints GB/s.
//
//   bandwidth_bench THREADS
//
// Speaks the protocol of bench/compare/run.py: prints "ready", then for each number N read from
// stdin sweeps N times and prints the GB/s as a JSON array.
#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <iostream>
#include <string>
#include <vector>

#include "halftone/core/stopwatch.h"
#include "halftone/system/large_pages.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "bench/bandwidth_bench.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace halftone::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// Adds up `size` floats, a multiple of 1024.
float sweep(const float* from, std::int64_t size) {
  const hn::ScalableTag<float> d;
  using V = hn::Vec<decltype(d)>;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  V a = hn::Zero(d), b = hn::Zero(d), c = hn::Zero(d), e = hn::Zero(d);
  for (std::int64_t i = 0; i < size; i += 4 * lanes) {
    a = hn::Add(a, hn::LoadU(d, from + i));
    b = hn::Add(b, hn::LoadU(d, from + i + lanes));
    c = hn::Add(c, hn::LoadU(d, from + i + 2 * lanes));
    e = hn::Add(e, hn::LoadU(d, from + i + 3 * lanes));
  }
  return hn::GetLane(hn::SumOfLanes(d, hn::Add(hn::Add(a, b), hn::Add(c, e))));
}

}  // namespace halftone::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace halftone {

HWY_EXPORT(sweep);

double gigabytes_per_second(const torch::Tensor& buffer) {
  constexpr std::int64_t kBlock = 1 << 18;  // floats
  const auto* values = buffer.const_data_ptr<float>();
  std::vector<float> sums(static_cast<std::size_t>(buffer.numel() / kBlock));
  const Stopwatch watch;
  at::parallel_for(0, buffer.numel() / kBlock, 1, [&](std::int64_t begin, std::int64_t end) {
    sums[static_cast<std::size_t>(begin)] =
        HWY_DYNAMIC_DISPATCH(sweep)(values + begin * kBlock, (end - begin) * kBlock);
  });
  const double seconds = watch.seconds();
  return static_cast<double>(buffer.nbytes()) / seconds / 1e9;
}

}  // namespace halftone

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: bandwidth_bench THREADS\n";
    return 2;
  }
  constexpr std::int64_t kBytes = std::int64_t{1} << 29;
  torch::set_num_threads(std::stoi(argv[1]));
  const torch::Tensor buffer = halftone::empty_on_large_pages(kBytes).view(torch::kFloat).fill_(1);
  std::cout << "ready" << std::endl;
  for (int times = 0; std::cin >> times;) {
    std::vector<double> speeds;
    for (int i = 0; i < times; ++i) speeds.push_back(halftone::gigabytes_per_second(buffer));
    std::cout << fmt::format("[{}]", fmt::join(speeds, ",")) << std::endl;
  }
  return 0;
}
#endif  // HWY_ONCE
