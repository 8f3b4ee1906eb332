// SPDX-License-Identifier: Apache-2.0
// The losses, gradient norms and loss scales of a run's first steps, from weights and batches in a
// file, for bench/gpu to hold to PyTorch's.
//
//   first_losses_bench PRESET PRECISION DEVICE FILE
//
// FILE is a safetensors file: `batches`, int64 (steps, B, T + 1), and weights.NAME of the model.
// Prints a JSON object.
#include <fmt/format.h>

#include <exception>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "bench/train_step.h"

namespace {

using halftone::StateDict;

StateDict weights_in(const StateDict& file) {
  constexpr std::string_view kPrefix = "weights.";
  StateDict weights;
  for (const auto& [name, tensor] : file.tensors)
    if (name.starts_with(kPrefix)) weights.tensors[name.substr(kPrefix.size())] = tensor;
  return weights;
}

nlohmann::json first_steps(const std::string& preset, const std::string& precision,
                           torch::Device device, const StateDict& file) {
  const torch::Tensor batches = file.tensor("batches").to(device);
  halftone::bench::TrainStep step(preset, halftone::bench::recipe_of(precision), device,
                                  weights_in(file));
  nlohmann::json record;
  for (std::int64_t i = 0; i < batches.size(0); ++i) {
    const halftone::bench::StepOutcome outcome = step(batches[i]);
    record["losses"].push_back(outcome.loss.item<double>());
    record["grad_norms"].push_back(outcome.result.grad_norm);
    record["stepped"].push_back(outcome.result.stepped);
  }
  return record;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 5) {
    std::cerr << "usage: first_losses_bench PRESET PRECISION DEVICE FILE\n";
    return 2;
  }
  try {
    torch::manual_seed(0);
    std::cout << first_steps(argv[1], argv[2], halftone::resolve_device(argv[3]),
                             halftone::load_safetensors(argv[4]))
              << std::endl;
  } catch (const std::exception& error) {
    std::cerr << "first_losses_bench: error: " << error.what() << '\n';
    return 1;
  }
  return 0;
}
