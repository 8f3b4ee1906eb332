// SPDX-License-Identifier: Apache-2.0
// What a loss scale costs, beside one fp32 training step of the same model.
//
//   grad_scaler_bench PRESET BATCH SEQ_LEN THREADS ROUNDS
//
// Each round runs every case once, in turn, so that a change of the machine's pace meets all alike;
// the table holds the medians. The gradients are those of one real backward pass.
#include <fmt/format.h>

#include <functional>
#include <iostream>
#include <string>
#include <vector>

#include "halftone/halftone.h"

namespace {

using halftone::AdamW;
using halftone::GradScaler;

constexpr std::int64_t kInterval = halftone::GradScalerOptions{}.adaptive_interval;

struct Case {
  std::string name;
  std::function<void()> work;
  std::function<void()> restore = [] {};  // not timed
  std::vector<double> seconds = {};
};

class Bench {
 public:
  Bench(const std::string& preset, std::int64_t batch, std::int64_t seq_len)
      : model_(halftone::preset_config(preset)),
        optimizer_(model_->parameters(), {.lr = 1e-9}),
        ids_(torch::randint(model_->config().vocab_size, {batch, seq_len + 1}, torch::kInt64)),
        mask_(torch::ones({batch, seq_len})) {
    for (GradScaler* scaler : {&fixed_, &measuring_}) scaler->scale(torch::ones({}));
    forward_backward();
    for (const torch::Tensor& parameter : model_->parameters())
      gradients_.push_back(parameter.grad().clone());
    // In the order that main() reads them.
    cases_ = {{"training step without a scaler", [this] { train(); }, [this] { restore(); }},
              {"AdamW alone", [this] { optimizer_.step(); }},
              {"fused step without a scale, clipped", [this] { step(disabled_, 1.0); }},
              {"fused step under a scaler", [this] { step(fixed_, 0.0); }},
              {"fused step under a scaler, clipped", [this] { step(fixed_, 1.0); }},
              {"the same with a measurement", [this] { step(measuring_, 1.0); }},
              {"unscale_ and update", [this] { unscale(); }, [this] { restore(); }}};
  }

  void round() {
    for (Case& timed : cases_) {
      timed.seconds.push_back(halftone::seconds_of_call(timed.work));
      timed.restore();
    }
  }

  std::vector<double> medians() const {
    std::vector<double> all;
    for (const Case& timed : cases_) all.push_back(halftone::median(timed.seconds));
    return all;
  }
  const std::vector<Case>& cases() const { return cases_; }
  std::int64_t parameters() const {
    std::int64_t count = 0;
    for (const torch::Tensor& gradient : gradients_) count += gradient.numel();
    return count;
  }

 private:
  void forward_backward() {
    optimizer_.zero_grad();
    const std::int64_t length = ids_.size(1) - 1;
    model_->loss(ids_.narrow(1, 0, length), ids_.narrow(1, 1, length), mask_).total().backward();
  }
  void train() {
    forward_backward();
    optimizer_.step();
  }
  void step(GradScaler& scaler, double clip_norm) {
    scaler.step(optimizer_, {.clip_norm = clip_norm});
    scaler.update();
  }
  void unscale() {
    fixed_.unscale_(optimizer_);
    fixed_.update();
  }
  void restore() {
    const torch::NoGradGuard no_grad;
    const std::vector<torch::Tensor> parameters = model_->parameters();
    for (std::size_t i = 0; i < parameters.size(); ++i)
      parameters[i].mutable_grad().copy_(gradients_[i]);
  }

  halftone::CausalLM model_;
  AdamW optimizer_;
  GradScaler disabled_{{.enabled = false}};
  GradScaler fixed_{{.init_scale = 1024.0}};
  GradScaler measuring_{{.init_scale = 1024.0, .adaptive = true, .adaptive_interval = 1}};
  torch::Tensor ids_;   // (B, T + 1)
  torch::Tensor mask_;  // (B, T)
  std::vector<torch::Tensor> gradients_;
  std::vector<Case> cases_;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 6) {
    std::cerr << "usage: grad_scaler_bench PRESET BATCH SEQ_LEN THREADS ROUNDS\n";
    return 2;
  }
  torch::set_num_threads(std::stoi(argv[4]));
  torch::manual_seed(0);
  Bench bench(argv[1], std::stol(argv[2]), std::stol(argv[3]));
  bench.round();  // warm-up, timed like the others
  for (int i = 0; i < std::stoi(argv[5]); ++i) bench.round();

  const std::vector<double> medians = bench.medians();
  std::cout << fmt::format("{}, {} x {} tokens, {} gradients, {} threads, {} rounds\n\n", argv[1],
                           argv[2], argv[3], bench.parameters(), argv[4], argv[5]);
  std::cout << "| what | ms (median) | share of the step |\n|---|---|---|\n";
  const auto line = [&](const std::string& what, double seconds) {
    std::cout << fmt::format("| {} | {:.2f} | {:.2f}% |\n", what, seconds * 1e3,
                             100 * seconds / medians[0]);
  };
  for (std::size_t i = 0; i < medians.size(); ++i) line(bench.cases()[i].name, medians[i]);
  const double adaptive = (medians[5] - medians[4]) / static_cast<double>(kInterval);
  line("the scaler adds to AdamW alone", medians[3] - medians[1]);
  line(fmt::format("measuring adds, shared by {} steps", kInterval), adaptive);
  return 0;
}
