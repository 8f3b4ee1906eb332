// SPDX-License-Identifier: Apache-2.0
#include "halftone/train/model_checkpoint.h"

#include <fmt/format.h>

#include <cmath>
#include <utility>

#include "halftone/core/error.h"
#include "halftone/core/log.h"
#include "halftone/train/trainer.h"

namespace halftone {

ModelCheckpoint::ModelCheckpoint(ModelCheckpointOptions options)
    : options_(std::move(options)), best_(options_.monitor, options_.mode) {}

void ModelCheckpoint::setup(const Trainer& trainer) {
  if (trainer.options().default_root_dir.empty())
    throw UserError(
        "model_checkpoint: expected a folder to save into, got none; set the Trainer's "
        "default_root_dir");
  if (!options_.monitor.empty() && !trainer.validates())
    throw UserError(missing_validation("model_checkpoint", options_.monitor));
}

void ModelCheckpoint::on_fit_start(Trainer& trainer) {
  saved_step_ = trainer.loop().counters().step;
}

void ModelCheckpoint::save(Trainer& trainer) {
  const std::int64_t step = trainer.loop().counters().step;
  if (std::exchange(saved_step_, step) == step) return;
  trainer.save_checkpoint(trainer.run_directory()->paths().root, options_.keep_last);
}

void ModelCheckpoint::on_step_end(Trainer& trainer, const StepMetrics& metrics) {
  if (options_.every_n_steps > 0 && metrics.step % options_.every_n_steps == 0) save(trainer);
}

void ModelCheckpoint::on_epoch_end(Trainer& trainer, std::int64_t epoch) {
  if (options_.every_n_epochs > 0 && epoch % options_.every_n_epochs == 0) save(trainer);
}

void ModelCheckpoint::on_validation_end(Trainer& trainer,
                                        const std::map<std::string, double>& values) {
  if (!options_.monitor.empty()) keep_if_best(trainer, best_.value_in(values));
}

void ModelCheckpoint::keep_if_best(Trainer& trainer, double value) {
  if (best_.improves(value))
    trainer.save_checkpoint(trainer.run_directory()->paths().best(), 1);
  else if (!std::isfinite(value))
    log_warning_once(
        fmt::format("model_checkpoint: {} is {} in validation, which is never the best",
                    options_.monitor, value));
}

void ModelCheckpoint::on_train_end(Trainer& trainer) { save(trainer); }

void ModelCheckpoint::on_checkpoint_saved(Trainer& trainer, const std::filesystem::path& folder) {
  if (options_.on_saved && folder == trainer.run_directory()->paths().root)
    options_.on_saved(folder, trainer.loop().counters().step);
}

void ModelCheckpoint::on_fit_end(Trainer& trainer) {
  if (!options_.monitor.empty() && trainer.loop().finished() && !best_.has_looked())
    log_warning(unused_monitor("model_checkpoint", options_.monitor));
}

}  // namespace halftone
