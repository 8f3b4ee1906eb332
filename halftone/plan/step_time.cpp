// SPDX-License-Identifier: Apache-2.0
#include "halftone/plan/step_time.h"

#include <ATen/ops/gelu.h>
#include <ATen/ops/linspace.h>
#include <ATen/ops/ones.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "halftone/core/error.h"
#include "halftone/core/stopwatch.h"
#include "halftone/machine/speed.h"
#include "halftone/optim/adamw_layout.h"
#include "halftone/plan/layer_plan.h"

namespace halftone {
namespace {

/// How often a step reads or writes what a layer keeps: made, read by the next operation, read and
/// its gradient written and read when it comes back.
constexpr double kPassesOverActivations = 6;
/// Attention's matmuls are smaller than a layer's: their speed as a share of its speed.
constexpr double kAttentionSpeed = 0.6;

/// Flops of attention's scores and weighted sums in one forward pass of a micro-batch.
double attention_flops(const ModelConfig& model, double rows, double steps) {
  return 2 * rows * static_cast<double>(model.n_layers * model.n_heads * head_dim_of(model)) *
         steps;
}

/// Seconds of the matmuls of linear layers: `passes` over those of the blocks, three over the head;
/// one less, that of the weights' gradients, where only adapters learn.
double products_seconds(const ModelConfig& model, double rows, const NumericsConfig& recipe,
                        const MachineSpeed& speed, double passes) {
  const auto per_second = [&](const std::string& path) {
    const auto own = recipe.layers.find(path);
    return speed.matmuls.at(own != recipe.layers.end() ? own->second : recipe.precision.compute);
  };
  const double head = 2 * rows * static_cast<double>(model.vocab_size * model.dim);
  const double spared = recipe.lora.rank > 0 ? 1 : 0;
  double seconds = (3 - spared) * head / per_second(head_path(model));
  for (const PlannedLayer& layer : planned_layers(model))
    seconds += (passes - spared) * 2 * rows * layer.multiply_adds / per_second(layer.path);
  for (const NamedShape& matrix : adapter_shapes(recipe.lora, model))
    seconds += passes * 2 * rows * static_cast<double>(matrix.sizes[0] * matrix.sizes[1]) /
               speed.matmuls.at(recipe.precision.compute);
  return seconds;
}

/// The fused attention multiplies bf16 where the layers do, and fp32 in all other recipes.
double attention_per_second(const NumericsConfig& recipe, const MachineSpeed& speed) {
  const bool bf16 = recipe.precision.compute_dtype() == torch::kBFloat16;
  return kAttentionSpeed * speed.matmuls.at(bf16 ? ComputeType::kBFloat16 : ComputeType::kFloat32);
}

double wide(std::uint64_t count) { return static_cast<double>(count); }

double micro_batch_seconds(const ModelConfig& model, const StepShape& shape,
                           const NumericsConfig& recipe, const MemoryBytes& bytes,
                           const MachineSpeed& speed) {
  const double steps = static_cast<double>(shape.predictions);
  const double rows = static_cast<double>(shape.batch_size) * steps;
  // One matmul forward, two backward; of attention two and five; the layers perhaps once more.
  const double again = recipe.memory.recompute_blocks ? 1 : 0;
  const double attention = (3.5 + again) * attention_flops(model, rows, steps);
  return products_seconds(model, rows, recipe, speed, 3 + again) +
         attention / attention_per_second(recipe, speed) +
         kPassesOverActivations * wide(bytes.activations) / speed.memory;
}

/// What GradientTree reads and writes of gradients' bytes for each micro-batch that it sets aside:
/// it copies it, makes it zero, and adds it to another once.
double tree_passes(const StepShape& shape) {
  constexpr double kPasses = 2 + 1 + 3;
  return shape.tree_sum ? kPasses * static_cast<double>(shape.micro_batches - 1) : 0;
}

/// Layers that have so much of the flops are measured.
constexpr double kMeasuredShare = 0.98;

double layer_flops_per_s(const LayerProduct& product) {
  constexpr std::int64_t kRows = 4096;
  constexpr int kRounds = 5;
  const LayerShape shape{
      .tokens = std::min(product.rows, kRows), .in = product.in, .out = product.out};
  return 1e9 * layer_speeds(shape, kRounds, {product.type}).front().gflops;
}

/// Forward and backward operations on few numbers, with autograd.
double seconds_of_an_operation() {
  constexpr int kOperations = 100, kTries = 5;
  // Each a multiplication, and one backward for one input.
  constexpr double kSteps = 2.0 * kOperations;
  const torch::AutoGradMode with_gradients(true);
  const torch::Tensor x = at::ones({16}).requires_grad_();
  double best = std::numeric_limits<double>::infinity();
  for (int i = 0; i < kTries; ++i)
    best = std::min(best, seconds_of_call([&] {
                      torch::Tensor y = x;
                      for (int k = 0; k < kOperations; ++k) y = y * 0.5;
                      torch::autograd::grad({y.sum()}, {x});
                    }));
  return best / kSteps;
}

/// GELU by tanh, forward and backward, on numbers that stay in a core's cache.
double seconds_of_a_function() {
  constexpr int kTries = 5;
  constexpr std::int64_t kNumbers = std::int64_t{1} << 18U;
  const torch::AutoGradMode with_gradients(true);
  const torch::Tensor x = at::linspace(-4, 4, kNumbers).requires_grad_();
  const torch::Tensor g = at::ones({kNumbers});
  double best = std::numeric_limits<double>::infinity();
  for (int i = 0; i < kTries; ++i)
    best = std::min(
        best, seconds_of_call([&] { torch::autograd::grad({at::gelu(x, "tanh")}, {x}, {g}); }));
  return best / (2.0 * kNumbers);
}

void check(const MachineSpeed& speed) {
  const auto is_measured = [&](ComputeType type) {
    const auto found = speed.matmuls.find(type);
    return found != speed.matmuls.end() && found->second > 0;
  };
  const std::vector<ComputeType>& types = compute_types();
  HALFTONE_CHECK(speed.memory > 0 && std::all_of(types.begin(), types.end(), is_measured),
                 "[step_seconds] expected measured speeds");
}

}  // namespace

MachineSpeed measure_machine_speed() {
  MachineSpeed speed{.memory = triad_bytes_per_s()};
  constexpr int kRounds = 8;
  for (const LayerSpeed& layer : layer_speeds({}, kRounds))
    speed.matmuls[layer.compute] = 1e9 * layer.gflops;
  return speed;
}

MachineSpeed measure_machine_speed(const StepWork& work) {
  MachineSpeed speed = measure_machine_speed();
  speed.function_s = seconds_of_a_function();
  speed.operation_s = seconds_of_an_operation();
  std::vector<std::pair<double, LayerProduct>> layers;
  double all = 0;
  for (const auto& [product, flops] : work.layer_flops) {
    layers.emplace_back(flops, product);
    all += flops;
  }
  std::sort(layers.rbegin(), layers.rend());
  double measured = 0;
  for (const auto& [flops, product] : layers) {
    if (measured >= kMeasuredShare * all) break;
    measured += flops;
    speed.layers[product] = layer_flops_per_s(product);
  }
  return speed;
}

MachineSpeed part_of(const MachineSpeed& all, double share) {
  MachineSpeed part = all;
  part.memory *= share;
  for (auto& [type, flops] : part.matmuls) flops *= share;
  for (auto& [product, flops] : part.layers) flops *= share;
  part.function_s /= share;
  part.operation_s /= share;
  return part;
}

double step_seconds(const ModelConfig& model, const StepShape& shape, const NumericsConfig& recipe,
                    const MemoryBytes& bytes, const MachineSpeed& speed) {
  check(speed);
  const double micro_batches = static_cast<double>(shape.micro_batches);
  // Gradients are set to zero, added to (read and written) by each micro-batch, measured and taken
  // by the update, which reads and writes weights and states.
  const double gradients = (3 + 2 * micro_batches + tree_passes(shape)) * wide(bytes.gradients);
  // Of weights that do not learn it reads nothing; beside 16-bit gradients, adapters are small.
  const double update =
      2 * wide((recipe.lora.rank > 0 ? bytes.gradients : bytes.weights) + bytes.states);
  return micro_batches * micro_batch_seconds(model, shape, recipe, bytes, speed) +
         (gradients + update) / speed.memory;
}

double backward_seconds(const ModelConfig& model, const StepShape& shape,
                        const NumericsConfig& recipe, const MemoryBytes& bytes,
                        const MachineSpeed& speed) {
  // Of the passes over the layers the first is the forward pass.
  const double passes =
      3 + (recipe.memory.recompute_blocks ? 1 : 0) - (recipe.lora.rank > 0 ? 1 : 0);
  return (1 - 1 / passes) * micro_batch_seconds(model, shape, recipe, bytes, speed);
}

double work_seconds(const StepWork& work, const MachineSpeed& speed) {
  check(speed);
  double seconds = work.bytes / speed.memory + work.functions * speed.function_s +
                   work.operations * speed.operation_s;
  for (const auto& [product, flops] : work.layer_flops) {
    const auto own = speed.layers.find(product);
    seconds += flops / (own != speed.layers.end() ? own->second : speed.matmuls.at(product.type));
  }
  for (const auto& [type, flops] : work.matmul_flops) seconds += flops / speed.matmuls.at(type);
  for (const auto& [type, flops] : work.attention_flops)
    seconds += flops / (kAttentionSpeed * speed.matmuls.at(type));
  return seconds;
}

}  // namespace halftone
