// SPDX-License-Identifier: Apache-2.0
// Times whole optimizer steps (forward, backward, clip, AdamW) of one recipe on random tokens.
//
//   train_step_bench PRESET PRECISION[+MEMORY[+KEY=VALUE]] BATCH SEQ_LEN THREADS   (PRESET also:
//   dim-64)
//
// Speaks the protocol of bench/compare/run.py: prints "ready", then for each number N read from
// stdin runs N steps and prints their seconds as a JSON array.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cstdlib>
#include <ctime>
#include <iostream>
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "halftone/halftone.h"

namespace {

// What people start with to see something move; not worth a preset of its own.
halftone::ModelConfig config_of(const std::string& preset) {
  if (preset == "dim-64")
    return {.dim = 64, .n_layers = 2, .n_heads = 4, .n_kv_heads = 2, .max_seq_len = 2048};
  return halftone::preset_config(preset);
}

struct Recipe {
  halftone::PrecisionPolicy precision;
  halftone::MemoryPolicy memory;
};

/// "bf16-mixed", "bf16-mixed+lean", "bf16-mixed+lean+recompute=none".
Recipe recipe_of(const std::string& name) {
  std::istringstream parts(name);
  std::string part;
  std::getline(parts, part, '+');
  const halftone::PrecisionPolicy precision = halftone::parse_precision(part);
  halftone::MemoryOptions choice;
  const std::map<std::string, std::string*> keys{{"master_weights", &choice.master_weights},
                                                 {"moments", &choice.moments},
                                                 {"recompute", &choice.recompute}};
  while (std::getline(parts, part, '+')) {
    const std::size_t equals = part.find('=');
    *(equals == std::string::npos ? &choice.memory : keys.at(part.substr(0, equals))) =
        part.substr(equals + 1);
  }
  return {precision, halftone::memory_policy(choice, precision)};
}

class StepBench {
 public:
  StepBench(const std::string& preset, const Recipe& recipe, std::int64_t batch,
            std::int64_t seq_len)
      : memory_(recipe.memory),
        precision_(recipe.precision, {}, torch::kCPU, recipe.memory),
        model_(config_of(preset)),
        optimizer_(std::make_shared<halftone::AdamW>(parameters(), options())),
        ids_(torch::randint(model_->config().vocab_size, {batch, seq_len + 1}, torch::kInt64)),
        mask_(torch::ones({batch, seq_len})) {
    halftone::release_free_memory();  // as the trainer does: the weights have moved
  }

  void step() {
    constexpr halftone::GradientClip kClip{.value = 1.0};
    optimizer_->zero_grad();
    if (memory_.release_gradients) {
      precision_.backward_and_step(loss(), {optimizer_}, kClip);
    } else {
      precision_.backward(loss());
      precision_.step({optimizer_}, kClip);
    }
    precision_.update();
  }

 private:
  torch::Tensor loss() {
    const auto region = precision_.forward_context(pass_++);
    const std::int64_t length = ids_.size(1) - 1;
    return model_->loss(ids_.narrow(1, 0, length), ids_.narrow(1, 1, length), mask_).total();
  }

  halftone::AdamWOptions options() const {
    halftone::AdamWOptions options;
    memory_.apply_to(options);
    return options;
  }

  std::vector<std::pair<std::string, torch::Tensor>> parameters() {
    precision_.convert_module(*model_);
    std::vector<std::pair<std::string, torch::Tensor>> named;
    for (const auto& item : model_->named_parameters())
      named.emplace_back(item.key(), item.value());
    return named;
  }

  halftone::MemoryPolicy memory_;
  halftone::MixedPrecision precision_;
  halftone::MiniMindLM model_;
  std::shared_ptr<halftone::AdamW> optimizer_;
  std::int64_t pass_ = 0;
  torch::Tensor ids_;   // (B, T + 1)
  torch::Tensor mask_;  // (B, T)
};

/// On the wall, or with HALFTONE_BENCH_CLOCK=cpu the process's own, which other programs on the
/// machine leave alone.
double seconds_now() {
  static const char* const name = std::getenv("HALFTONE_BENCH_CLOCK");
  static const bool own = name != nullptr && std::string_view(name) == "cpu";
  timespec time{};
  clock_gettime(own ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 6) {
    std::cerr
        << "usage: train_step_bench PRESET PRECISION[+MEMORY[+KEY=VALUE]] BATCH SEQ_LEN THREADS\n";
    return 2;
  }
  halftone::keep_freed_memory();
  torch::set_num_threads(std::stoi(argv[5]));
  torch::manual_seed(0);
  StepBench bench(argv[1], recipe_of(argv[2]), std::stol(argv[3]), std::stol(argv[4]));
  bench.step();
  std::cout << "ready" << std::endl;
  for (int steps = 0; std::cin >> steps;) {
    std::vector<double> seconds;
    for (int i = 0; i < steps; ++i) {
      const double start = seconds_now();
      bench.step();
      seconds.push_back(seconds_now() - start);
    }
    std::cout << fmt::format("[{}]", fmt::join(seconds, ",")) << std::endl;
  }
  return 0;
}
