// SPDX-License-Identifier: Apache-2.0
// One AdamW step over a flat buffer in each layout: nanoseconds and bytes of memory traffic for
// each parameter, and GB/s.
//
//   adamw_bench PARAMETERS THREADS ROUNDS
//
// The layouts take turns, so that a machine whose speed moves does so for all of them; the median
// is printed. With one thread it is processor time.
#include <fmt/format.h>

#include <algorithm>
#include <ctime>
#include <iostream>
#include <string>
#include <vector>

#include "halftone/kernels/optimizer/adamw.h"
#include "halftone/kernels/optimizer/moments.h"
#include "halftone/optim/adamw.h"
#include "halftone/system/large_pages.h"

namespace {

using halftone::AdamWTensors;

struct Layout {
  const char* name;
  torch::ScalarType weights, gradients, moments;
  int master_bits = 0;
  bool stochastic = false;
};

constexpr auto kF32 = torch::kFloat;
constexpr auto kB16 = torch::kBFloat16;
constexpr auto kCodes = torch::kByte;

const std::vector<Layout> kLayouts = {
    {"fp32, fp32 moments", kF32, kF32, kF32},
    {"fp32, bf16 moments", kF32, kF32, kB16},
    {"fp32, 8-bit moments", kF32, kF32, kCodes},
    {"bf16 stochastic, fp32 moments", kB16, kB16, kF32, 0, true},
    {"bf16 stochastic, bf16 moments", kB16, kB16, kB16, 0, true},
    {"bf16 stochastic, 8-bit moments", kB16, kB16, kCodes, 0, true},
    {"split 16, fp32 moments", kB16, kB16, kF32, 16},
    {"split 16, 8-bit moments", kB16, kB16, kCodes, 16},
    {"split 8, 8-bit moments", kB16, kB16, kCodes, 8},
    {"split 8, fp32 gradients, 8-bit moments", kB16, kF32, kCodes, 8},
};

torch::Tensor zeros(std::int64_t size, torch::ScalarType dtype) {
  const auto width = static_cast<std::int64_t>(c10::elementSize(dtype));
  return halftone::zeros_on_large_pages(size * width).view(dtype);
}

AdamWTensors tensors_for(const Layout& layout, std::int64_t size) {
  AdamWTensors t{zeros(size, layout.weights), zeros(size, layout.gradients),
                 zeros(size, layout.moments), zeros(size, layout.moments)};
  t.weights.normal_();
  t.gradients.normal_(0.0, 0.01);
  if (layout.moments == kCodes) {
    t.exp_avg_scale = zeros(halftone::moment_scales(size), kF32);
    t.exp_avg_sq_scale = zeros(halftone::moment_scales(size), kF32);
  }
  if (layout.master_bits > 0)
    t.master_low = zeros(size, layout.master_bits == 8 ? torch::kByte : torch::kShort);
  return t;
}

// Read and written, gradients read alone.
double bytes_moved(const AdamWTensors& t) {
  double bytes = 0;
  for (const torch::Tensor& both :
       {t.weights, t.exp_avg, t.exp_avg_sq, t.exp_avg_scale, t.exp_avg_sq_scale, t.master_low})
    if (both.defined()) bytes += 2.0 * static_cast<double>(both.nbytes());
  return bytes + static_cast<double>(t.gradients.nbytes());
}

double seconds() {
  timespec time{};
  clock_gettime(torch::get_num_threads() == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

double timed_step(const Layout& layout, const AdamWTensors& tensors, std::int64_t step) {
  const halftone::AdamWArguments arguments{.lr = 1e-3,
                                           .beta1 = 0.9,
                                           .beta2 = 0.95,
                                           .eps = 1e-8,
                                           .weight_decay = 0.1,
                                           .stochastic_rounding = layout.stochastic,
                                           .seed = 1,
                                           .first_index = 0,
                                           .step = torch::tensor(step),
                                           .gradient_factor = torch::ones({}),
                                           .found_inf = torch::zeros({})};
  const double start = seconds();
  halftone::adamw_(tensors, arguments);
  return seconds() - start;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) {
    std::cerr << "usage: adamw_bench PARAMETERS THREADS ROUNDS\n";
    return 2;
  }
  const std::int64_t size = std::stoll(argv[1]);
  torch::set_num_threads(std::stoi(argv[2]));
  const std::int64_t rounds = std::max<std::int64_t>(1, std::stoll(argv[3]));
  std::vector<AdamWTensors> tensors;
  for (const Layout& layout : kLayouts) tensors.push_back(tensors_for(layout, size));
  std::vector<std::vector<double>> times(kLayouts.size());
  for (std::int64_t round = 0; round <= rounds; ++round)
    for (std::size_t k = 0; k < kLayouts.size(); ++k) {
      const double time = timed_step(kLayouts[k], tensors[k], round + 1);
      if (round > 0) times[k].push_back(time);  // the first one touches fresh memory
    }
  std::cout << fmt::format("{:<40} {:>8} {:>12} {:>6}\n", "layout", "ns/param", "bytes/param",
                           "GB/s");
  for (std::size_t k = 0; k < kLayouts.size(); ++k) {
    std::sort(times[k].begin(), times[k].end());
    const double time = times[k][times[k].size() / 2];
    const double bytes = bytes_moved(tensors[k]);
    const auto n = static_cast<double>(size);
    std::cout << fmt::format("{:<40} {:>8.3f} {:>12.2f} {:>6.1f}\n", kLayouts[k].name,
                             1e9 * time / n, bytes / n, bytes / time / 1e9);
  }
  return 0;
}
