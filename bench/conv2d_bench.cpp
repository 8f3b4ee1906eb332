// SPDX-License-Identifier: Apache-2.0
// What a convolution costs in each number format, forward and with its gradients, beside LibTorch's
// of fp32. Prints a Markdown table of milliseconds, the best of several rounds.
//
//   conv2d_bench THREADS ROUNDS
#include <ATen/Parallel.h>
#include <ATen/ops/conv2d.h>
#include <fmt/format.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <functional>
#include <iostream>
#include <limits>
#include <string>
#include <vector>

#include "halftone/autocast/autocast.h"
#include "halftone/core/stopwatch.h"
#include "halftone/kernels/linear/compute_context.h"
#include "halftone/kernels/linear/conv2d.h"

namespace halftone {
namespace {

using torch::Tensor;

struct Shape {
  const char* name;
  std::int64_t batch, channels, size, out, kernel, stride, padding;
};

const std::vector<Shape>& shapes() {
  static const std::vector<Shape> all{
      {"3 x 3, 64 -> 64, 32 x 32", 8, 64, 32, 64, 3, 1, 1},
      {"3 x 3, 128 -> 128, 16 x 16", 8, 128, 16, 128, 3, 1, 1},
      {"3 x 3, stride 2, 64 -> 128, 32 x 32", 8, 64, 32, 128, 3, 2, 1},
      {"1 x 1, 128 -> 128, 32 x 32", 8, 128, 32, 128, 1, 1, 0},
      {"patches of 4, 3 -> 384, 64 x 64", 32, 3, 64, 384, 4, 4, 0},
      {"3 x 3, 64 -> 64, 256 x 256", 1, 64, 256, 64, 3, 1, 1}};
  return all;
}

double best_milliseconds(int rounds, const std::function<void()>& work) {
  work();
  double best = std::numeric_limits<double>::infinity();
  for (int i = 0; i < rounds; ++i) {
    const Stopwatch watch;
    work();
    best = std::min(best, 1e3 * watch.seconds());
  }
  return best;
}

using Convolution = std::function<Tensor(const Tensor& x, const Tensor& weight)>;

/// "1.2 / 3.4": the forward pass, and it with both gradients.
std::string times(const Shape& shape, int rounds, const Convolution& convolution) {
  const Tensor x = torch::randn({shape.batch, shape.channels, shape.size, shape.size});
  const Tensor weight =
      torch::randn({shape.out, shape.channels, shape.kernel, shape.kernel}) * 0.05;
  const Tensor x_leaf = x.clone().requires_grad_(), w_leaf = weight.clone().requires_grad_();
  const double forward = best_milliseconds(rounds, [&] {
    const torch::NoGradGuard no_grad;
    convolution(x, weight);
  });
  const Tensor g = torch::randn_like(convolution(x, weight));
  const double both = best_milliseconds(rounds, [&] {
    torch::autograd::grad({convolution(x_leaf, w_leaf)}, {x_leaf, w_leaf}, {g});
  });
  return fmt::format("{:.2f} / {:.2f}", forward, both);
}

void print_table(int rounds) {
  std::string head = "| convolution | LibTorch, fp32 |", line = "|---|---|";
  for (const ComputeType type : compute_types()) {
    head += fmt::format(" {} |", to_string(type));
    line += "---|";
  }
  std::cout << head << '\n' << line << '\n';
  for (const Shape& shape : shapes()) {
    const WindowGrid grid{
        {shape.kernel, shape.kernel}, {shape.stride, shape.stride}, {shape.padding, shape.padding}};
    std::string row = fmt::format("| {} |", shape.name);
    row += fmt::format(" {} |", times(shape, rounds, [&](const Tensor& x, const Tensor& weight) {
                         return at::conv2d(x, weight, {}, grid.stride, grid.padding);
                       }));
    for (const ComputeType type : compute_types()) {
      const torch::ScalarType dtype = tensor_dtype(type);
      const ComputeScope scope(compute_context_in(type));
      row += fmt::format(" {} |", times(shape, rounds, [&](const Tensor& x, const Tensor& weight) {
                           const Autocast autocast(torch::kCPU, dtype, dtype != torch::kFloat);
                           return conv2d(x, weight, {}, grid);
                         }));
    }
    std::cout << row << std::endl;
  }
}

}  // namespace
}  // namespace halftone

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "usage: conv2d_bench THREADS ROUNDS\n";
    return 2;
  }
  torch::set_num_threads(std::stoi(argv[1]));
  halftone::print_table(std::stoi(argv[2]));
  return 0;
}
