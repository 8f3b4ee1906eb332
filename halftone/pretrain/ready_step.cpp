// SPDX-License-Identifier: Apache-2.0
#include "halftone/pretrain/ready_step.h"

#include <utility>

#include "halftone/core/error.h"
#include "halftone/precision/keep_fp32.h"
#include "halftone/system/memory.h"

namespace halftone {
namespace {

MemoryPolicy memory_of(const TrainConfig& config) {
  return memory_policy(config.memory, parse_precision(config.precision));
}

PretrainInputs with_precision(PretrainInputs inputs, const TrainConfig& config) {
  inputs.precision = parse_precision(config.precision);
  return inputs;
}

}  // namespace

TrainConfig with_joined_micro_batches(TrainConfig config) {
  if (!memory_of(config).release_gradients) return config;
  config.batch_size *= std::exchange(config.accumulate, 1);
  return config;
}

double tokens_per_step(const TrainConfig& config) {
  const std::int64_t predictions = config.seq_len - (config.pack ? 0 : 1);
  return static_cast<double>(config.batch_size * predictions * config.accumulate);
}

ReadyStep::Parts::Parts(const TrainConfig& config, PretrainInputs given)
    : inputs(std::move(given)),
      module(make_module(config, inputs)),
      loader(make_loader(config, inputs)),
      task(module, loader) {
  task.load_group(1, LossAverage::kTokens);
}

ReadyStep::ReadyStep(LoadedStep& loaded) : config_(loaded.config()) {
  prepare(loaded.module(), loaded.step(), loaded.inputs().device);
}

ReadyStep::ReadyStep(TrainConfig config, PretrainInputs inputs)
    : config_(with_joined_micro_batches(std::move(config))),
      parts_(std::make_unique<Parts>(config_, with_precision(std::move(inputs), config_))) {
  const TrainingStep step =
      first_micro_batch(parts_->task, {.seed = static_cast<std::uint64_t>(config_.seed),
                                       .micro_batches = std::vector<StepReplay::MicroBatch>(1)});
  prepare(parts_->module, step, parts_->inputs.device);
}

void ReadyStep::prepare(LanguageModeling& module, const TrainingStep& step, torch::Device device) {
  const TrainerOptions options = trainer_options_for(config_);
  const PrecisionPolicy policy = parse_precision(config_.precision);
  precision_ = std::make_unique<MixedPrecision>(policy, options.scaler, device, memory_of(config_),
                                                options.layer_precision);
  if (!config_.keep_fp32.empty()) keep_fp32(module.network(), config_.keep_fp32);
  module.network().train();
  precision_->convert_module(module.network());
  Optimizers optimizers;
  for (const OptimizerSetup& setup : module.configure_optimizers())
    optimizers.push_back(setup.optimizer);
  release_free_memory();
  repeated_ = std::make_unique<RepeatedStep>(
      step, *precision_, std::move(optimizers),
      RepeatedStepOptions{.micro_batches = config_.accumulate,
                          .clip = {.value = options.gradient_clip_val}});
}

}  // namespace halftone
