// SPDX-License-Identifier: Apache-2.0
// Times whole optimizer steps (forward, backward, clip, AdamW) of one recipe on random tokens.
//
//   train_step_bench PRESET PRECISION[+MEMORY[+KEY=VALUE]] BATCH SEQ_LEN THREADS [DEVICE]
//
// PRESET also: dim-64. DEVICE: cpu (default), cuda. Speaks the protocol of bench/compare/run.py:
// prints "ready", then for each number N read from stdin runs N steps and prints their seconds as a
// JSON array. On a GPU the last of them waits for the device, so only their sum is a time.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cstdlib>
#include <ctime>
#include <exception>
#include <iostream>
#include <string>
#include <string_view>
#include <vector>

#include "bench/train_step.h"

namespace {

/// On the wall, or with HALFTONE_BENCH_CLOCK=cpu the process's own, which other programs on the
/// machine leave alone.
double seconds_now() {
  static const char* const name = std::getenv("HALFTONE_BENCH_CLOCK");
  static const bool own = name != nullptr && std::string_view(name) == "cpu";
  timespec time{};
  clock_gettime(own ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

void serve(char** argv, torch::Device device) {
  halftone::bench::TrainStep step(argv[1], halftone::bench::recipe_of(argv[2]), device);
  const torch::Tensor ids =
      torch::randint(step.config().vocab_size, {std::stol(argv[3]), std::stol(argv[4]) + 1},
                     torch::kInt64)
          .to(device);
  step(ids);
  halftone::synchronize(device);
  std::cout << "ready" << std::endl;
  for (int steps = 0; std::cin >> steps;) {
    std::vector<double> seconds;
    for (int i = 0; i < steps; ++i) {
      const double start = seconds_now();
      step(ids);
      if (i + 1 == steps) halftone::synchronize(device);
      seconds.push_back(seconds_now() - start);
    }
    std::cout << fmt::format("[{}]", fmt::join(seconds, ",")) << std::endl;
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 6 && argc != 7) {
    std::cerr << "usage: train_step_bench PRESET PRECISION[+MEMORY[+KEY=VALUE]] BATCH SEQ_LEN "
                 "THREADS [DEVICE]\n";
    return 2;
  }
  try {
    halftone::keep_freed_memory();
    torch::set_num_threads(std::stoi(argv[5]));
    torch::manual_seed(0);
    serve(argv, halftone::resolve_device(argc == 7 ? argv[6] : "cpu"));
  } catch (const std::exception& error) {
    std::cerr << "train_step_bench: error: " << error.what() << '\n';
    return 1;
  }
  return 0;
}
