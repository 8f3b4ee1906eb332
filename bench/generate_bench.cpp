// SPDX-License-Identifier: Apache-2.0
// Times greedy generation with random weights: the prompt, then NEW tokens one by one.
//
//   generate_bench PRESET RECIPE PROMPT NEW THREADS
//
// RECIPE: a precision, or one and what the weights are held in: 32-true, 32-true+int8.
// Speaks the protocol of bench/compare/run.py: prints "ready", then for each number N read from
// stdin generates N times and prints the seconds as a JSON array.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <iostream>
#include <optional>
#include <string>
#include <vector>

#include "halftone/halftone.h"
#include "halftone/pretrain/inference_precision.h"

int main(int argc, char** argv) {
  if (argc != 6) {
    std::cerr << "usage: generate_bench PRESET RECIPE PROMPT NEW THREADS\n";
    return 2;
  }
  torch::set_num_threads(std::stoi(argv[5]));
  torch::manual_seed(0);
  halftone::CausalLM model(halftone::preset_config(argv[1]));
  const std::string recipe = argv[2];
  const std::size_t plus = recipe.find('+');
  const halftone::InferenceModel inference(
      model,
      halftone::inference_precision(
          "32-true", recipe.substr(0, plus),
          plus == std::string::npos ? std::nullopt : std::optional(recipe.substr(plus + 1))),
      torch::kCPU);
  std::vector<std::int64_t> prompt;
  for (std::int64_t i = 0; i < std::stol(argv[3]); ++i)
    prompt.push_back((17 + 31 * i) % model->config().vocab_size);
  const auto run = [&] {
    const auto region = inference.precision().forward_context();
    halftone::generate(model, prompt, {.greedy = true, .max_new_tokens = std::stol(argv[4])},
                       [](std::int64_t) { return true; });
  };
  run();
  std::cout << "ready" << std::endl;
  for (int times = 0; std::cin >> times;) {
    std::vector<double> seconds;
    for (int i = 0; i < times; ++i) {
      seconds.push_back(halftone::seconds_of_call(run));
    }
    std::cout << fmt::format("[{}]", fmt::join(seconds, ",")) << std::endl;
  }
  return 0;
}
