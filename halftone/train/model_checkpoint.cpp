// SPDX-License-Identifier: Apache-2.0
#include "halftone/train/model_checkpoint.h"

#include <utility>

#include "halftone/core/error.h"
#include "halftone/train/trainer.h"

namespace halftone {

ModelCheckpoint::ModelCheckpoint(ModelCheckpointOptions options)
    : options_(std::move(options)), best_(options_.monitor, options_.mode) {}

void ModelCheckpoint::on_fit_start(Trainer& trainer) {
  if (trainer.run_directory() == nullptr)
    throw UserError(
        "model_checkpoint: expected a folder to save into, got none; set the Trainer's "
        "default_root_dir");
  saved_step_ = trainer.loop().counters().step;
}

void ModelCheckpoint::save(Trainer& trainer) {
  const std::int64_t step = trainer.loop().counters().step;
  if (std::exchange(saved_step_, step) == step) return;
  const std::filesystem::path& root = trainer.run_directory()->paths().root;
  trainer.save_checkpoint(root, options_.keep_last);
  if (options_.on_saved) options_.on_saved(root, step);
}

void ModelCheckpoint::on_step_end(Trainer& trainer, const StepMetrics& metrics) {
  if (options_.every_n_steps > 0 && metrics.step % options_.every_n_steps == 0) save(trainer);
}

void ModelCheckpoint::on_epoch_end(Trainer& trainer, std::int64_t epoch) {
  if (options_.every_n_epochs > 0 && epoch % options_.every_n_epochs == 0) save(trainer);
}

void ModelCheckpoint::on_validation_end(Trainer& trainer,
                                        const std::map<std::string, double>& values) {
  if (options_.monitor.empty() || !best_.improves(values)) return;
  trainer.save_checkpoint(trainer.run_directory()->paths().best(), 1);
}

void ModelCheckpoint::on_fit_end(Trainer& trainer) { save(trainer); }

}  // namespace halftone
