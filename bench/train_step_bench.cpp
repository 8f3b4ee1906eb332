// SPDX-License-Identifier: Apache-2.0
// Times whole optimizer steps (forward, backward, clip, AdamW) of one recipe on random tokens.
//
//   train_step_bench PRESET PRECISION BATCH SEQ_LEN THREADS
//
// Speaks the protocol of bench/compare/run.py: prints "ready", then for each number N read from
// stdin runs N steps and prints their seconds as a JSON array.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <chrono>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "halftone/halftone.h"

namespace {

class StepBench {
 public:
  StepBench(const std::string& preset, const std::string& precision, std::int64_t batch,
            std::int64_t seq_len)
      : precision_(halftone::parse_precision(precision), {}, torch::kCPU),
        model_(halftone::preset_config(preset)),
        optimizer_(std::make_shared<halftone::AdamW>(parameters())),
        ids_(torch::randint(model_->config().vocab_size, {batch, seq_len + 1}, torch::kInt64)),
        mask_(torch::ones({batch * seq_len})) {}

  void step() {
    optimizer_->zero_grad();
    torch::Tensor loss;
    {
      const auto region = precision_.forward_context(pass_++);
      const std::int64_t length = ids_.size(1) - 1;
      const halftone::ModelOutput output = model_->forward(ids_.narrow(1, 0, length));
      loss = halftone::masked_cross_entropy(output.logits.flatten(0, 1),
                                            ids_.narrow(1, 1, length).flatten(), mask_) +
             output.aux_loss;
    }
    precision_.backward(loss);
    precision_.step({optimizer_}, {.value = 1.0});
    precision_.update();
  }

 private:
  std::vector<std::pair<std::string, torch::Tensor>> parameters() {
    precision_.convert_module(*model_);
    std::vector<std::pair<std::string, torch::Tensor>> named;
    for (const auto& item : model_->named_parameters())
      named.emplace_back(item.key(), item.value());
    return named;
  }

  halftone::MixedPrecision precision_;
  halftone::MiniMindLM model_;
  std::shared_ptr<halftone::AdamW> optimizer_;
  std::int64_t pass_ = 0;
  torch::Tensor ids_;   // (B, T + 1)
  torch::Tensor mask_;  // (B * T)
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 6) {
    std::cerr << "usage: train_step_bench PRESET PRECISION BATCH SEQ_LEN THREADS\n";
    return 2;
  }
  torch::set_num_threads(std::stoi(argv[5]));
  torch::manual_seed(0);
  StepBench bench(argv[1], argv[2], std::stol(argv[3]), std::stol(argv[4]));
  bench.step();
  std::cout << "ready" << std::endl;
  for (int steps = 0; std::cin >> steps;) {
    std::vector<double> seconds;
    for (int i = 0; i < steps; ++i) {
      const auto start = std::chrono::steady_clock::now();
      bench.step();
      seconds.push_back(
          std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    }
    std::cout << fmt::format("[{}]", fmt::join(seconds, ",")) << std::endl;
  }
  return 0;
}
