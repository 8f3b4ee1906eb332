// SPDX-License-Identifier: Apache-2.0
// The most multiply-adds per second that this machine's cores reach in fp32, from registers alone:
// the ceiling that a training step's share is measured against. Prints GFLOP/s.
//
//   peak_bench THREADS
//
// Speaks the protocol of bench/compare/run.py: prints "ready", then for each number N read from
// stdin measures N times and prints the GFLOP/s as a JSON array.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <array>
#include <chrono>
#include <iostream>
#include <numeric>
#include <thread>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "bench/peak_bench.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace halftone::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

constexpr int kAccumulators = 12;  // more than latency x ports, fewer than registers

/// Runs `rounds` times kAccumulators independent multiply-adds, which start from sink[0..11];
/// returns the flops done.
double multiply_adds(std::int64_t rounds, float* sink) {
  const hn::ScalableTag<float> d;
  using V = hn::Vec<decltype(d)>;
  const V factor = hn::Set(d, 0.999F);
  const V term = hn::Set(d, 0.001F);
  // Different starting points: equal chains would be computed once.
  const auto start = [&](int chain) { return hn::Set(d, sink[chain]); };
  V a0 = start(0), a1 = start(1), a2 = start(2), a3 = start(3), a4 = start(4), a5 = start(5);
  V a6 = start(6), a7 = start(7), a8 = start(8), a9 = start(9), a10 = start(10), a11 = start(11);
  for (std::int64_t i = 0; i < rounds; ++i) {
    a0 = hn::MulAdd(a0, factor, term);
    a1 = hn::MulAdd(a1, factor, term);
    a2 = hn::MulAdd(a2, factor, term);
    a3 = hn::MulAdd(a3, factor, term);
    a4 = hn::MulAdd(a4, factor, term);
    a5 = hn::MulAdd(a5, factor, term);
    a6 = hn::MulAdd(a6, factor, term);
    a7 = hn::MulAdd(a7, factor, term);
    a8 = hn::MulAdd(a8, factor, term);
    a9 = hn::MulAdd(a9, factor, term);
    a10 = hn::MulAdd(a10, factor, term);
    a11 = hn::MulAdd(a11, factor, term);
  }
  const V sum = hn::Add(
      hn::Add(hn::Add(hn::Add(a0, a1), hn::Add(a2, a3)), hn::Add(hn::Add(a4, a5), hn::Add(a6, a7))),
      hn::Add(hn::Add(a8, a9), hn::Add(a10, a11)));
  sink[0] = hn::GetLane(hn::SumOfLanes(d, sum));
  return static_cast<double>(rounds) * kAccumulators * 2.0 * static_cast<double>(hn::Lanes(d));
}

}  // namespace halftone::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace halftone {

HWY_EXPORT(multiply_adds);

double peak_gflops(int threads) {
  constexpr std::int64_t kRounds = 40'000'000;
  constexpr std::size_t kChains = 12;
  std::vector<std::array<float, kChains>> sinks(static_cast<std::size_t>(threads));
  for (auto& sink : sinks) std::iota(sink.begin(), sink.end(), 1.0F);
  std::vector<double> flops(sinks.size());
  std::vector<std::thread> workers;
  const auto start = std::chrono::steady_clock::now();
  for (std::size_t i = 0; i < sinks.size(); ++i)
    workers.emplace_back(
        [&, i] { flops[i] = HWY_DYNAMIC_DISPATCH(multiply_adds)(kRounds, sinks[i].data()); });
  double total = 0;
  for (std::size_t i = 0; i < sinks.size(); ++i) {
    workers[i].join();
    total += flops[i];
  }
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  return total / seconds.count() / 1e9;
}

}  // namespace halftone

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: peak_bench THREADS\n";
    return 2;
  }
  const int threads = std::stoi(argv[1]);
  std::cout << "ready" << std::endl;
  for (int times = 0; std::cin >> times;) {
    std::vector<double> gflops;
    for (int i = 0; i < times; ++i) gflops.push_back(halftone::peak_gflops(threads));
    std::cout << fmt::format("[{}]", fmt::join(gflops, ",")) << std::endl;
  }
  return 0;
}
#endif  // HWY_ONCE
