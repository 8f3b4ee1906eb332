// SPDX-License-Identifier: Apache-2.0
#include "halftone/core/random.h"

#include <ATen/Context.h>
#include <torch/utils.h>

#include <bit>
#include <cstdlib>
#include <mutex>

#include "halftone/core/error.h"

namespace halftone {

std::uint64_t random_word(std::uint64_t seed, std::uint64_t index) {
  std::uint64_t z = seed + (index + 1) * 0x9E3779B97F4A7C15ULL;
  z = (z ^ (z >> 30U)) * 0xBF58476D1CE4E5B9ULL;
  z = (z ^ (z >> 27U)) * 0x94D049BB133111EBULL;
  return z ^ (z >> 31U);
}

std::uint64_t permuted_index(std::uint64_t seed, std::uint64_t index, std::uint64_t size) {
  HALFTONE_CHECK(index < size, "[permuted_index] expected an index below ", size, ", got ", index);
  if (size == 1) return 0;
  const auto bits = static_cast<unsigned>(std::bit_width(size - 1));
  const unsigned half = (bits + 1) / 2;  // the network permutes 0..2^(2 half)-1
  const std::uint64_t mask = (std::uint64_t{1} << half) - 1;
  do {
    std::uint64_t left = index >> half;
    std::uint64_t right = index & mask;
    for (std::uint64_t round = 0; round < 4; ++round) {
      const std::uint64_t mixed = left ^ (random_word(random_word(seed, round), right) & mask);
      left = right;
      right = mixed;
    }
    index = left << half | right;
  } while (index >= size);
  return index;
}

namespace {

torch::Tensor generator_state(torch::Device device) {
  at::Generator generator = at::globalContext().defaultGenerator(device);
  const std::lock_guard<std::mutex> lock(generator.mutex());
  return generator.get_state();
}

void set_generator_state(torch::Device device, const torch::Tensor& state) {
  at::Generator generator = at::globalContext().defaultGenerator(device);
  const std::lock_guard<std::mutex> lock(generator.mutex());
  generator.set_state(state);
}

}  // namespace

std::uint64_t seed_everything(std::uint64_t seed) {
  torch::manual_seed(seed);
  std::srand(static_cast<unsigned int>(seed));
  return seed;
}

StateDict rng_state(torch::Device device) {
  StateDict state;
  state.tensors["cpu"] = generator_state(torch::kCPU);
  if (device.is_cuda()) state.tensors["cuda"] = generator_state(device);
  return state;
}

void set_rng_state(torch::Device device, const StateDict& state) {
  set_generator_state(torch::kCPU, state.tensor("cpu"));
  if (device.is_cuda()) set_generator_state(device, state.tensor("cuda"));
}

GeneratorScope::GeneratorScope(torch::Device device, const StateDict& state)
    : device_(device), before_(rng_state(device)) {
  set_rng_state(device, state);
}

GeneratorScope::~GeneratorScope() { set_rng_state(device_, before_); }

}  // namespace halftone
