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
#include <torch/utils.h>

#include <iostream>
#include <string>
#include <vector>

#include "halftone/machine/speed.h"

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: peak_bench THREADS\n";
    return 2;
  }
  torch::set_num_threads(std::stoi(argv[1]));
  std::cout << "ready" << std::endl;
  for (int times = 0; std::cin >> times;) {
    std::vector<double> gflops;
    for (int i = 0; i < times; ++i) gflops.push_back(halftone::peak_fp32_gflops());
    std::cout << fmt::format("[{}]", fmt::join(gflops, ",")) << std::endl;
  }
  return 0;
}
