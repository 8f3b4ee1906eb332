// SPDX-License-Identifier: Apache-2.0
// The seconds and the memory that plan_module() predicts for a transformer, beside measured ones.
//
// Usage: module_plan_bench [WIDTH] [DEPTH] [BATCH]
#include <torch/nn/modules/container/modulelist.h>
#include <torch/utils.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "halftone/core/median.h"
#include "halftone/core/stopwatch.h"
#include "halftone/nn/layer_norm.h"
#include "halftone/nn/linear.h"
#include "halftone/nn/multi_head_attention.h"
#include "halftone/optim/adamw.h"
#include "halftone/plan/module_plan.h"
#include "halftone/system/memory.h"
#include "halftone/train/mixed_precision.h"

namespace {

using torch::Tensor;

constexpr std::int64_t kTokens = 64;
constexpr std::int64_t kChannels = 48;

struct Sizes {
  std::int64_t width = 256;
  std::int64_t depth = 4;
  std::int64_t batch = 32;
};

struct BlockImpl : torch::nn::Module {
  explicit BlockImpl(std::int64_t width)
      : first(width),
        second(width),
        attention(halftone::MultiHeadAttentionOptions{.dim = width, .n_heads = width / 64}),
        up(width, 4 * width, true),
        down(4 * width, width, true) {
    register_module("first", first);
    register_module("second", second);
    register_module("attention", attention);
    register_module("up", up);
    register_module("down", down);
  }
  Tensor forward(Tensor x) {
    x = x + attention(first(x));
    return x + down(torch::gelu(up(second(x)), "tanh"));
  }
  halftone::LayerNorm first, second;
  halftone::MultiHeadAttention attention;
  halftone::Linear up, down;
};
TORCH_MODULE(Block);

/// Predicts the noise in rows of patches.
class Denoiser : public halftone::TrainingModule<Tensor> {
 public:
  explicit Denoiser(const Sizes& sizes)
      : in_(kChannels, sizes.width, true), out_(sizes.width, kChannels, true) {
    register_module("in", in_);
    register_module("out", out_);
    for (std::int64_t i = 0; i < sizes.depth; ++i) blocks_->push_back(Block(sizes.width));
    register_module("blocks", blocks_);
    place_ = register_parameter("place", 0.02 * torch::randn({kTokens, sizes.width}));
  }
  Tensor training_step(const Tensor& patches, std::int64_t /*index*/) override {
    const Tensor noise = torch::randn(patches.sizes());
    Tensor x = in_(patches + noise) + place_;
    for (const auto& block : *blocks_) x = block->as<BlockImpl>()->forward(x);
    return (out_(x).to(torch::kFloat) - noise).square().mean();
  }
  std::vector<halftone::OptimizerSetup> configure_optimizers(
      const halftone::OptimizerContext& context) override {
    return {std::make_shared<halftone::AdamW>(parameters(), context.adamw())};
  }

 private:
  halftone::Linear in_, out_;
  torch::nn::ModuleList blocks_;
  Tensor place_;
};

class Training {
 public:
  Training(const std::string& precision, const Sizes& sizes)
      : policy_(halftone::parse_precision(precision)),
        memory_(halftone::memory_policy({}, policy_)),
        mixed_(policy_, {}, torch::kCPU, memory_),
        module_(std::make_shared<Denoiser>(sizes)),
        batch_(torch::randn({sizes.batch, kTokens, kChannels})) {
    mixed_.convert_module(*module_);
    for (const auto& setup : module_->configure_optimizers({.memory = memory_}))
      optimizers_.push_back(setup.optimizer);
  }

  double step_seconds() {
    return halftone::seconds_of_call([&] {
      for (const auto& optimizer : optimizers_) optimizer->zero_grad();
      Tensor loss;
      {
        const auto region = mixed_.forward_context(pass_++);
        loss = module_->training_step(batch_, 0);
      }
      mixed_.backward(loss);
      mixed_.step(optimizers_, {.value = 1.0});
      mixed_.update();
    });
  }

 private:
  halftone::PrecisionPolicy policy_;
  halftone::MemoryPolicy memory_;
  halftone::MixedPrecision mixed_;
  std::shared_ptr<Denoiser> module_;
  halftone::Optimizers optimizers_;
  Tensor batch_;
  std::int64_t pass_ = 0;
};

void print_work(const halftone::ModulePlan& plan, const halftone::MachineSpeed& speed) {
  halftone::StepWork layers{.layer_flops = plan.work.layer_flops};
  halftone::StepWork matmuls{.matmul_flops = plan.work.matmul_flops};
  halftone::StepWork attention{.attention_flops = plan.work.attention_flops};
  halftone::StepWork bytes{.bytes = plan.work.bytes};
  halftone::StepWork functions{.functions = plan.work.functions};
  halftone::StepWork operations{.operations = plan.work.operations};
  std::printf(
      "  ms: layers %.1f, matmuls %.1f, attention %.1f, bytes %.1f, functions %.1f, operations "
      "%.1f, "
      "update %.1f\n",
      1e3 * work_seconds(layers, speed), 1e3 * work_seconds(matmuls, speed),
      1e3 * work_seconds(attention, speed), 1e3 * work_seconds(bytes, speed),
      1e3 * work_seconds(functions, speed), 1e3 * work_seconds(operations, speed),
      1e3 * plan.update_bytes / speed.memory);
}

}  // namespace

int main(int count, char** arguments) {
  const auto number = [&](int i, std::int64_t otherwise) {
    return count > i ? std::strtoll(arguments[i], nullptr, 10) : otherwise;
  };
  const Sizes sizes{number(1, 256), number(2, 4), number(3, 32)};
  halftone::keep_freed_memory();
  const std::vector<std::string> precisions = {"32-true", "bf16-mixed", "int8-mixed"};
  const auto training =
      halftone::planned_training([&] { return std::make_shared<Denoiser>(sizes); },
                                 [](std::int64_t n) {
                                   return torch::randn({n, kTokens, kChannels});
                                 });
  std::vector<halftone::ModulePlan> plans;
  const double planned_in = halftone::seconds_of_call(
      [&] { plans = plan_precisions(training, precisions, {}, sizes.batch, 0); });
  std::printf("%d threads, planned in %.2f s\n", torch::get_num_threads(), planned_in);
  std::map<std::string, std::vector<double>> measured, predicted;
  for (const std::string& precision : precisions) {
    Training run(precision, sizes);
    const auto plan = std::find_if(plans.begin(), plans.end(), [&](const auto& one) {
      return one.recipe.precision == precision;
    });
    run.step_seconds();
    for (int round = 0; round < 3; ++round) {
      const halftone::MachineSpeed speed = halftone::measure_machine_speed({*plan});
      predicted[precision].push_back(step_seconds(*plan, speed));
      std::vector<double> steps;
      for (int step = 0; step < 7; ++step) steps.push_back(run.step_seconds());
      measured[precision].push_back(*std::min_element(steps.begin(), steps.end()));
      if (round == 2) print_work(*plan, speed);
    }
    // What the machine does at its best, as speeds are measured: other programs only add to it.
    const auto least = [](const std::vector<double>& seconds) {
      return 1e3 * *std::min_element(seconds.begin(), seconds.end());
    };
    std::printf("%-12s measured %.1f ms (median %.1f), predicted %.1f (median %.1f): %.2f\n",
                precision.c_str(), least(measured[precision]),
                1e3 * halftone::median(measured[precision]), least(predicted[precision]),
                1e3 * halftone::median(predicted[precision]),
                least(predicted[precision]) / least(measured[precision]));
  }
  return 0;
}
