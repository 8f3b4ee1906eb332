// SPDX-License-Identifier: Apache-2.0
#include "halftone/pretrain/loaded_step.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <utility>

#include "halftone/core/error.h"
#include "halftone/core/log.h"
#include "halftone/run/checkpoint.h"
#include "halftone/run/run_directory.h"
#include "halftone/train/network_state.h"

namespace halftone {
namespace {

Checkpoint checkpoint_of(const std::string& run, std::optional<std::int64_t> step) {
  if (!step) return load_latest_checkpoint(run);
  const std::vector<std::int64_t> steps = checkpoint_steps(run);
  if (std::find(steps.begin(), steps.end(), *step) == steps.end())
    throw UserError(
        fmt::format("'{}' has no checkpoint of step {}; it has those of {}", run, *step,
                    steps.empty() ? "none" : fmt::format("{}", fmt::join(steps, ", "))));
  return load_checkpoint(checkpoint_folder(run, *step));
}

/// Whether the batches of `config` are those of the run, so that its position means something.
bool has_batches_of(const TrainConfig& config, const std::string& run) {
  const TrainConfig own = changed_run_config(run, {});
  constexpr std::array kKeys = {"data",      "pack", "shuffle", "invalid_utf8", "special_tokens",
                                "val_split", "seed", "seq_len", "batch_size"};
  return std::all_of(kKeys.begin(), kKeys.end(), [&](const char* key) {
    const ConfigField& field = config_field(key, "compare");
    return field.get(config) == field.get(own);
  });
}

}  // namespace

TrainConfig changed_run_config(const std::string& run,
                               const std::vector<ConfigAssignment>& changes) {
  std::vector<ConfigAssignment> all = saved_assignments(run);
  all.insert(all.end(), changes.begin(), changes.end());
  TrainConfig config = resolve_config(all);
  config.out = run;
  config.init_from.clear();  // its weights are in the checkpoints by now
  return config;
}

LoadedStep::LoadedStep(const TrainConfig& config, const PreparationProgress& progress)
    : LoadedStep(config, prepare_pretraining(config, std::nullopt, progress)) {}

LoadedStep::LoadedStep(const TrainConfig& config, PretrainInputs inputs)
    : config_(config),
      inputs_(std::move(inputs)),
      module_(make_module(config, inputs_)),
      loader_(make_loader(config, inputs_)),
      task_(module_, loader_) {
  task_.load_group(1, LossAverage::kTokens);
  step_ = first_micro_batch(task_, {.seed = static_cast<std::uint64_t>(config.seed),
                                    .micro_batches = std::vector<StepReplay::MicroBatch>(1)});
}

LoadedStep::LoadedStep(const std::string& run, const TrainConfig& config,
                       std::optional<std::int64_t> checkpoint_step,
                       const PreparationProgress& progress)
    : config_(config),
      inputs_(prepare_pretraining(config, Tokenizer::load(find_run(run).root), progress)),
      module_(make_module(config, inputs_)),
      loader_(make_loader(config, inputs_)),
      task_(module_, loader_) {
  const Checkpoint checkpoint = checkpoint_of(run, checkpoint_step);
  load_network_state(module_.network(), checkpoint.model, run);
  optimizer_step_ = checkpoint.step;
  const auto seed = static_cast<std::uint64_t>(config.seed);
  if (has_batches_of(config, run)) {
    step_ = first_micro_batch(task_, next_step(task_, checkpoint.trainer, seed));
    return;
  }
  log_note("the batches are not the run's own: the first one of the data is taken");
  task_.load_group(1, LossAverage::kTokens);
  step_ =
      first_micro_batch(task_, {.micro_step = checkpoint.trainer.get<std::int64_t>("micro_step"),
                                .seed = seed,
                                .micro_batches = std::vector<StepReplay::MicroBatch>(1)});
}

}  // namespace halftone
