// SPDX-License-Identifier: Apache-2.0
// The memory of a training step, from the step itself: it runs on the device meta, where tensors
// have shapes and no data, and its allocations are counted. It takes no memory, and milliseconds.
#pragma once

#include <torch/nn/module.h>
#include <torch/types.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "halftone/models/lora.h"
#include "halftone/models/model_config.h"
#include "halftone/precision/memory_policy.h"
#include "halftone/precision/policy.h"
#include "halftone/train/batch_placement.h"
#include "halftone/train/configured_optimizers.h"
#include "halftone/train/mixed_precision.h"
#include "halftone/train/training_module.h"

namespace halftone {

/// The tokens of an optimizer step.
struct StepShape {
  std::int64_t batch_size = 1;     // rows of a micro-batch
  std::int64_t predictions = 1;    // of a row
  std::int64_t micro_batches = 1;  // of the step
  bool tree_sum = false;           // GradientTree adds their gradients up
};

/// How a run computes and keeps things.
struct NumericsConfig {
  PrecisionPolicy precision;
  MemoryPolicy memory;
  std::map<std::string, ComputeType> layers;  // formats of single ones, by path
  LoraConfig lora = {};  // adapters that are trained in the place of a decoder's weights
};

/// Bytes.
struct StepMemory {
  double weights = 0;
  double optimizer = 0;    // gradients that it keeps, and states
  double activations = 0;  // what the forward pass leaves for the backward pass
  double workspace = 0;    // what is there beside it when most is: converted weights, operands in
                           // other formats, the head's gradient, gradients on their way
};

/// A module without data, in training mode, and its step.
struct PlannedModule {
  std::shared_ptr<torch::nn::Module> module;
  /// Called once the parameters have their dtypes. An AdamW keeps its states in memory here.
  std::function<Optimizers(const OptimizerContext& context)> optimizers;
  /// The loss of `micro_batches` of the step's micro-batches, joined to one.
  std::function<torch::Tensor(std::int64_t micro_batches)> loss;
  /// Called once, before the optimizers are made, if it is there, with where the step takes its
  /// batches: they are not of the step.
  std::function<void(const BatchPlacement& place)> make_batch = {};
  /// Formats of single layers in the place of NumericsConfig::layers, of a module that has its
  /// dtypes; if it is there.
  std::function<std::map<std::string, ComputeType>()> layer_types = {};
};

/// Of the step of what `make` makes. Tensors that it and the step make without naming a device have
/// no data there: parameters of this library's layers, of torch::nn, of torch::randn(). Tables that
/// are computed from numbers alone (torch::arange() and its like, torch::tensor()) have, up to 2^20
/// numbers.
/// Matmuls go the ways of cpu_gemm_config(), a router is taken to be fair, gradients to be clipped
/// exactly. Not counted: memory that an operation of LibTorch takes and frees inside itself.
/// Throws UserError where an operation knows no shapes without data, where the step asks for
/// numbers (item()), and for sizes that no machine could hold.
StepMemory step_memory(const std::function<PlannedModule()>& make, std::int64_t micro_batches,
                       const NumericsConfig& numerics);

/// Of MiniMind, whose head's gradient is workspace. REQUIRES a validate()d `model`, whose
/// vocab_size is known.
StepMemory step_memory(const ModelConfig& model, const StepShape& shape,
                       const NumericsConfig& numerics);

/// `module`, a TrainingModule, in training mode, and its step on the batch that `make_batch()`
/// gives, placed as the step takes it.
template <class Module, class MakeBatch>
PlannedModule planned_module(const std::shared_ptr<Module>& module, MakeBatch make_batch) {
  using Batch = typename Module::Batch;
  const auto loaded = std::make_shared<std::optional<Batch>>();  // there as long as a step
  const auto batch = std::make_shared<std::optional<Batch>>();
  const std::shared_ptr<torch::nn::Module> network(module, &module->network());
  network->train();
  return {.module = network,
          .optimizers =
              [module](const OptimizerContext& context) {
                Optimizers optimizers;
                for (const OptimizerSetup& setup : configured_optimizers(*module, context))
                  optimizers.push_back(setup.optimizer);
                return optimizers;
              },
          .loss =
              [module, batch](std::int64_t micro_batches) {
                torch::Tensor sum = module->training_step(**batch, 0);
                for (std::int64_t i = 1; i < micro_batches; ++i)
                  sum = sum + module->training_step(**batch, i);
                return sum;
              },
          .make_batch =
              [=](const BatchPlacement& place) {
                loaded->emplace(make_batch());
                batch->emplace(placed<Batch>(**loaded, place));
              }};
}

/// Of a step of one batch of a TrainingModule that `make` builds. The tensors of `batch` are on the
/// device meta. module_plan.h has more of it.
template <class Batch>
StepMemory step_memory(const std::function<std::shared_ptr<TrainingModule<Batch>>()>& make,
                       const Batch& batch, const NumericsConfig& numerics) {
  return step_memory([&] { return planned_module(make(), [&] { return batch; }); },
                     /*micro_batches=*/1, numerics);
}

/// The bytes of right operands that stay packed, one for each shape and format
/// (MatmulFormat::packed_bytes()).
double packed_operand_bytes(const ModelConfig& model, const StepShape& shape,
                            const NumericsConfig& numerics);

}  // namespace halftone
