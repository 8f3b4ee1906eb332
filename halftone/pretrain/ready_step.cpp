// SPDX-License-Identifier: Apache-2.0
#include "halftone/pretrain/ready_step.h"

#include <utility>

#include "halftone/precision/keep_fp32.h"
#include "halftone/system/memory.h"
#include "halftone/train/configured_optimizers.h"

namespace halftone {
namespace {

MemoryPolicy memory_of(const TrainConfig& config) {
  return memory_policy(config.memory, parse_precision(config.precision));
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

ReadyStep::ReadyStep(LoadedStep& loaded) { prepare(loaded); }

ReadyStep::ReadyStep(TrainConfig config, PretrainInputs inputs)
    : own_(std::make_unique<LoadedStep>(with_joined_micro_batches(std::move(config)),
                                        std::move(inputs))) {
  prepare(*own_);
}

void ReadyStep::prepare(LoadedStep& loaded) {
  const TrainConfig& config = loaded.config();
  LanguageModeling& module = loaded.module();
  const TrainerOptions options = trainer_options_for(config);
  precision_ = std::make_unique<MixedPrecision>(parse_precision(config.precision), options.scaler,
                                                loaded.inputs().device, memory_of(config),
                                                options.layer_precision);
  if (!config.keep_fp32.empty()) keep_fp32(module.network(), config.keep_fp32);
  module.network().train();
  precision_->convert_module(module.network());
  Optimizers optimizers;
  for (const OptimizerSetup& setup :
       configured_optimizers(module, {.memory = precision_->memory()}))
    optimizers.push_back(setup.optimizer);
  release_free_memory();
  repeated_ = std::make_unique<RepeatedStep>(
      loaded.step(), *precision_, std::move(optimizers),
      RepeatedStepOptions{.micro_batches = config.accumulate,
                          .clip = {.value = options.gradient_clip_val}});
}

}  // namespace halftone
