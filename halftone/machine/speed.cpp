// SPDX-License-Identifier: Apache-2.0
#include "halftone/machine/speed.h"

#include <ATen/Parallel.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <array>
#include <limits>
#include <numeric>

#include "halftone/autocast/autocast.h"
#include "halftone/core/stopwatch.h"
#include "halftone/kernels/linear/compute_context.h"
#include "halftone/kernels/linear/linear.h"
#include "halftone/machine/speed_impl.h"

namespace halftone {
namespace {

using torch::Tensor;

Tensor filled(std::int64_t rows, std::int64_t columns) {
  return at::arange(rows * columns, torch::kFloat).mul_(0.37).sin_().view({rows, columns});
}

struct Layer {
  Tensor x;       // (tokens, in)
  Tensor weight;  // (out, in)
  Tensor g;       // (tokens, out)
};

/// Whether the rounds of several formats have shown the least time of each.
class LeastTimes {
 public:
  LeastTimes(std::vector<LayerSpeed>& speeds, int most_rounds)
      : speeds_(speeds), patience_(std::max(2, most_rounds / 4)) {}

  void add(std::size_t format, double seconds) {
    double& least = speeds_[format].seconds;
    if (seconds < (1 - kGain) * least) last_gain_ = round_;
    least = std::min(least, seconds);
  }
  void end_round() { ++round_; }
  bool are_found() const { return round_ - last_gain_ > patience_; }

 private:
  static constexpr double kGain = 0.02;
  std::vector<LayerSpeed>& speeds_;
  int patience_;
  int round_ = 0;
  int last_gain_ = 0;
};

void forward_and_backward(const Layer& layer, ComputeType type) {
  Tensor y;
  {
    const torch::ScalarType dtype = tensor_dtype(type);
    const Autocast autocast(torch::kCPU, dtype, dtype != torch::kFloat);
    const ComputeScope scope({.compute = type});
    y = halftone::linear(layer.x, layer.weight);
  }
  torch::autograd::grad({y}, {layer.x, layer.weight}, {layer.g.to(y.scalar_type())});
}

}  // namespace

double peak_fp32_gflops() {
  constexpr std::int64_t kRounds = 8'000'000;
  constexpr int kTries = 4;
  const int threads = at::get_num_threads();
  std::vector<std::array<float, kFmaChains>> sinks(static_cast<std::size_t>(threads));
  for (auto& sink : sinks) std::iota(sink.begin(), sink.end(), 1.0F);
  double best = 0;
  for (int i = 0; i < kTries; ++i) {
    std::vector<double> flops(sinks.size());
    const double seconds = seconds_of_call([&] {
      at::parallel_for(0, threads, 1, [&](std::int64_t begin, std::int64_t end) {
        for (auto t = static_cast<std::size_t>(begin); t < static_cast<std::size_t>(end); ++t)
          flops[t] = multiply_adds(kRounds, sinks[t].data());
      });
    });
    best = std::max(best, std::accumulate(flops.begin(), flops.end(), 0.0) / seconds / 1e9);
  }
  return best;
}

double triad_bytes_per_s() {
  constexpr std::int64_t kNumbers = std::int64_t{16} << 20U;
  constexpr int kTries = 5;
  const Tensor a = at::empty({kNumbers}), b = at::full({kNumbers}, 1.0F),
               c = at::full({kNumbers}, 2.0F);
  constexpr double kBytes = 3.0 * sizeof(float) * kNumbers;
  double best = 0;
  for (int i = 0; i < kTries; ++i) {
    const double seconds = seconds_of_call([&] {
      at::parallel_for(0, kNumbers, kNumbers / 1024, [&](std::int64_t begin, std::int64_t end) {
        triad(a.data_ptr<float>() + begin, b.const_data_ptr<float>() + begin,
              c.const_data_ptr<float>() + begin, end - begin);
      });
    });
    best = std::max(best, kBytes / seconds);
  }
  return best;
}

std::vector<LayerSpeed> layer_speeds(const LayerShape& shape, int rounds,
                                     const std::vector<ComputeType>& formats) {
  const torch::AutoGradMode with_gradients(true);
  const Layer layer{.x = filled(shape.tokens, shape.in).requires_grad_(),
                    .weight = filled(shape.out, shape.in).requires_grad_(),
                    .g = filled(shape.tokens, shape.out)};
  const double flops = 6.0 * static_cast<double>(shape.tokens * shape.in * shape.out);
  std::vector<LayerSpeed> speeds;
  for (const ComputeType type : formats)
    speeds.push_back({type, std::numeric_limits<double>::infinity()});
  for (const ComputeType type : formats) forward_and_backward(layer, type);  // warms up
  LeastTimes least(speeds, rounds);
  for (int round = 0; round < rounds && !least.are_found(); ++round) {
    for (std::size_t i = 0; i < formats.size(); ++i)
      least.add(i, seconds_of_call([&] { forward_and_backward(layer, formats[i]); }));
    least.end_round();
  }
  for (LayerSpeed& speed : speeds) speed.gflops = flops / speed.seconds / 1e9;
  return speeds;
}

}  // namespace halftone
