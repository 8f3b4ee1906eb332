// SPDX-License-Identifier: Apache-2.0
#include "halftone/plan/step_memory.h"

#include <ATen/ops/empty.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "halftone/core/error.h"
#include "halftone/core/message.h"
#include "halftone/kernels/common/fused_kernels.h"
#include "halftone/kernels/common/without_data.h"
#include "halftone/kernels/gemm/matmul_format.h"
#include "halftone/kernels/linear/weight_cache.h"
#include "halftone/models/causal_lm.h"
#include "halftone/nn/new_parameter.h"
#include "halftone/optim/adamw.h"
#include "halftone/optim/optimizer_in_backward.h"
#include "halftone/plan/layer_plan.h"
#include "halftone/plan/shape_functions.h"
#include "halftone/plan/step_count_impl.h"
#include "halftone/plan/tensor_tally.h"
#include "halftone/plan/without_data_mode_impl.h"
#include "halftone/plan/work_tally_impl.h"
#include "halftone/train/layer_precision.h"

namespace halftone {
namespace {

using torch::Tensor;

double parameter_bytes(const torch::nn::Module& module) {
  double bytes = 0;
  for (const Tensor& parameter : module.parameters())
    bytes += static_cast<double>(parameter.nbytes());
  return bytes;
}

double buffer_bytes(const torch::nn::Module& module) {
  double bytes = 0;
  for (const Tensor& buffer : module.buffers())
    if (buffer.defined()) bytes += static_cast<double>(buffer.nbytes());
  return bytes;
}

double gradient_bytes(const torch::nn::Module& module) {
  double bytes = 0;
  for (const Tensor& parameter : module.parameters())
    if (parameter.grad().defined()) bytes += static_cast<double>(parameter.grad().nbytes());
  return bytes;
}

/// Takes the data of what was made of numbers (torch::tensor({...})) for this plan.
void take_data(const torch::nn::Module& module) {
  for (const Tensor& buffer : module.buffers())
    if (buffer.defined()) WithoutDataMode::take_data_of(buffer);
  for (const auto& parameter : module.named_parameters())
    if (!parameter.value().is_meta() && !WithoutDataMode::take_data_of(parameter.value()))
      throw UserError(fmt::format(
          "cannot plan this module: its parameter '{}' has data already; build the whole module "
          "inside the function that makes it, from tensors that name no device",
          parameter.key()));
}

/// One optimizer step, up to the update, whose memory is the optimizer's.
class CountedStep {
 public:
  CountedStep(PlannedModule planned, const NumericsConfig& numerics)
      : planned_(std::move(planned)),
        layers_(numerics.layers),
        precision_(numerics.precision, {}, torch::kMeta, in_memory(numerics.memory)) {}

  StepCount run(std::int64_t micro_batches, TensorTally& tally) {
    const c10::InferenceMode no_inference(false);
    const torch::AutoGradMode with_grad(true);
    StepCount count = prepare(tally);
    start_ = tally.live();
    tally.reset_peak();
    const WorkTally work;
    if (precision_.memory().release_gradients)
      release(micro_batches, tally);
    else
      accumulate(micro_batches, tally);
    count.memory.activations = static_cast<double>(kept_);
    count.memory.workspace = static_cast<double>(tally.peak() - start_ - kept_);
    count.gradients = gradient_bytes(*planned_.module);
    if (!count.has_fused_optimizer) count.memory.optimizer += states_of_first_step(tally);
    count.work = work.work();
    return count;
  }

 private:
  static MemoryPolicy in_memory(MemoryPolicy memory) {
    memory.offload.clear();
    return memory;
  }

  /// The module with its dtypes, its batch and its optimizers.
  StepCount prepare(const TensorTally& tally) {
    take_data(*planned_.module);
    StepCount count;
    for (const Tensor& parameter : planned_.module->parameters())
      count.numbers += static_cast<double>(parameter.numel());
    precision_.convert_module(*planned_.module);
    if (planned_.layer_types) layers_ = planned_.layer_types();
    if (!layers_.empty()) precision_.set_layer_formats(layer_formats(*planned_.module, layers_));
    count.memory.weights = parameter_bytes(*planned_.module) + buffer_bytes(*planned_.module);
    for (const Tensor& parameter : planned_.module->parameters())
      if (parameter.requires_grad())
        count.learning.push_back({parameter.sizes().vec(), parameter.scalar_type()});
    std::int64_t before = tally.live();
    if (planned_.make_batch) {
      const BatchPlacement place = precision_.batch_placement();
      planned_.make_batch({place.device, std::nullopt});
      count.loaded_batch = static_cast<double>(tally.live() - before);
      if (place.floating) {
        planned_.make_batch(place);
        count.cast_batch = static_cast<double>(tally.live() - before) - count.loaded_batch;
      }
    }
    before = tally.live();
    optimizers_ = planned_.optimizers({.memory = precision_.memory()});
    // An AdamW moves the weights into a buffer of its own.
    count.memory.optimizer = static_cast<double>(tally.live() - before);
    for (const auto& optimizer : optimizers_)
      if (FusedOptimizer* const fused = as_fused(*optimizer)) {
        count.has_fused_optimizer = true;
        fused->zero_grad();
      }
    return count;
  }

  /// LibTorch's optimizers make theirs when they step first, and keep them. Its work counts.
  double states_of_first_step(const TensorTally& tally) {
    const std::int64_t before = tally.live();
    const torch::NoGradGuard no_grad;
    for (const auto& optimizer : optimizers_) optimizer->step();
    return static_cast<double>(tally.live() - before);
  }

  Tensor forward(std::int64_t micro_batches, const TensorTally& tally) {
    Tensor loss;
    {
      const ForwardContext region = precision_.forward_context();
      loss = planned_.loss(micro_batches);
    }
    kept_ = tally.live() - start_;
    return loss;
  }

  void accumulate(std::int64_t micro_batches, const TensorTally& tally) {
    ComputeContext context = compute_context();
    if (micro_batches > 1) context.weight_cache = std::make_shared<WeightCache>();
    const ComputeScope scope(std::move(context));
    // All after the second are like it.
    for (std::int64_t i = 0; i < std::min<std::int64_t>(micro_batches, 2); ++i) {
      const StandsForScope rest(i == 1 ? static_cast<double>(micro_batches - 1) : 1.0);
      forward(1, tally).backward();
    }
  }

  void release(std::int64_t micro_batches, const TensorTally& tally) {
    FusedOptimizer* const optimizer =
        optimizers_.size() == 1 ? as_fused(*optimizers_.front()) : nullptr;
    HALFTONE_CHECK(optimizer != nullptr && optimizer->traits().releases_gradients,
                   "[step_memory] expected one halftone::AdamW whose options have "
                   "release_gradients (OptimizerContext::adamw() sets it)");
    const Tensor loss = forward(micro_batches, tally);
    ReleaseOptions options{.clip_norm = 1.0};
    options.measured =
        measure_gradients(*optimizer, [&] { loss.backward({}, /*retain_graph=*/true); });
    release_gradients(
        *optimizer, [&] { loss.backward(); }, options);
  }

  PlannedModule planned_;
  std::map<std::string, ComputeType> layers_;
  MixedPrecision precision_;
  Optimizers optimizers_;
  std::int64_t start_ = 0;
  std::int64_t kept_ = 0;
};

PlannedModule planned_minimind(const ModelConfig& config, const StepShape& shape,
                               const NumericsConfig& numerics) {
  const MemoryPolicy& memory = numerics.memory;
  const auto integers = torch::dtype(torch::kLong).device(torch::kMeta);
  const std::int64_t joined = memory.release_gradients ? shape.micro_batches : 1;
  const std::vector<std::int64_t> rows{shape.batch_size * joined, shape.predictions};
  const Tensor ids = at::empty(rows, integers), targets = at::empty(rows, integers);
  const Tensor mask = at::empty(rows, torch::dtype(torch::kFloat).device(torch::kMeta));
  const std::shared_ptr<CausalLMImpl> model = CausalLM(config).ptr();
  if (numerics.lora.rank > 0) model->add_adapters(numerics.lora);
  const auto optimizers = [model](const OptimizerContext& context) {
    std::vector<std::pair<std::string, Tensor>> named;
    for (const auto& item : model->named_parameters())
      if (item.value().requires_grad()) named.emplace_back(item.key(), item.value());
    return Optimizers{std::make_shared<AdamW>(std::move(named), context.adamw())};
  };
  const auto loss = [=](std::int64_t) { return model->loss(ids, targets, mask).total(); };
  return {.module = model, .optimizers = optimizers, .loss = loss};
}

/// The layers of one shape in all blocks.
struct RoleOfLayer {
  std::vector<std::string_view> endings;  // of their paths
  double in = 0;
  double out = 0;
};

/// Whether one of them has the format.
bool multiplies_in(const RoleOfLayer& role, ComputeType type, const ModelConfig& model,
                   const NumericsConfig& numerics) {
  if (numerics.layers.empty()) return type == numerics.precision.compute;
  const std::vector<PlannedLayer> layers = planned_layers(model);
  return std::any_of(layers.begin(), layers.end(), [&](const PlannedLayer& layer) {
    const auto own = numerics.layers.find(layer.path);
    const ComputeType of_layer =
        own != numerics.layers.end() ? own->second : numerics.precision.compute;
    return of_layer == type &&
           std::any_of(role.endings.begin(), role.endings.end(),
                       [&](std::string_view ending) { return layer.path.ends_with(ending); });
  });
}

}  // namespace

StepCount count_step(const std::function<PlannedModule()>& make, std::int64_t micro_batches,
                     const NumericsConfig& numerics) {
  register_shape_functions();
  try {
    TensorTally tally;
    const WithoutDataMode without_data;
    const ParameterDeviceScope device(torch::kMeta);
    return CountedStep(make(), numerics).run(micro_batches, tally);
  } catch (const c10::Error& error) {
    throw UserError(fmt::format("cannot plan this step: {}", error_text(error)));
  }
}

StepMemory step_memory(const std::function<PlannedModule()>& make, std::int64_t micro_batches,
                       const NumericsConfig& numerics) {
  return count_step(make, micro_batches, numerics).memory;
}

StepMemory step_memory(const ModelConfig& model, const StepShape& shape,
                       const NumericsConfig& numerics) {
  StepMemory memory = step_memory([&] { return planned_minimind(model, shape, numerics); },
                                  shape.micro_batches, numerics);
  // The loss has taken it already when the forward pass ends; it grows with no batch.
  const double head_gradient =
      is_fused(FusedKernel::kLinearCrossEntropy) && numerics.lora.rank == 0
          ? sizeof(float) * static_cast<double>(model.vocab_size) * static_cast<double>(model.dim)
          : 0;
  memory.activations -= head_gradient;
  memory.workspace += head_gradient;
  return memory;
}

double packed_operand_bytes(const ModelConfig& model, const StepShape& shape,
                            const NumericsConfig& numerics) {
  const auto wide = [](std::int64_t size) { return static_cast<double>(size); };
  const double rows = wide(shape.batch_size) * wide(shape.predictions);
  const double dim = wide(model.dim), hidden = wide(hidden_dim_of(model));
  const double head_dim = wide(head_dim_of(model)), vocab = wide(model.vocab_size);
  const double query = wide(model.n_heads) * head_dim, key = wide(model.n_kv_heads) * head_dim;
  const std::array<RoleOfLayer, 4> roles{{{{".wq", ".wk", ".wv"}, dim, query + 2 * key},
                                          {{".wo"}, query, dim},
                                          {{".w1", ".w3"}, dim, 2 * hidden},
                                          {{".w2"}, hidden, dim}}};
  const bool is_frozen = numerics.lora.rank > 0;
  double bytes = 0;
  for (const ComputeType type : compute_types()) {
    // Of y = x W^T, of dX = g W and of dW = g^T x: the depth of the sums and the columns.
    std::set<std::pair<double, double>> shapes;
    for (const RoleOfLayer& role : roles)
      if (multiplies_in(role, type, model, numerics)) {
        shapes.insert({{role.in, role.out}, {role.out, role.in}});
        if (!is_frozen) shapes.insert({rows, role.in});
      }
    // And an adapter's A and B.
    if (type == numerics.precision.compute)
      for (const NamedShape& matrix : adapter_shapes(numerics.lora, model)) {
        const double in = wide(matrix.sizes[1]), out = wide(matrix.sizes[0]);
        shapes.insert({{in, out}, {out, in}, {rows, in}});
      }
    const auto head = numerics.layers.find(head_path(model));
    if (type == (head != numerics.layers.end() ? head->second : numerics.precision.compute))
      shapes.insert({{dim, vocab}, {vocab, dim}});
    for (const auto& [depth, columns] : shapes)
      bytes += matmul_format(type).packed_bytes(depth, columns);
  }
  return bytes;
}

}  // namespace halftone
