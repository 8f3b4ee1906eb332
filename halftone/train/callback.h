// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <exception>
#include <filesystem>
#include <map>
#include <string>

#include "halftone/core/state_dict.h"
#include "halftone/run/checkpoint.h"
#include "halftone/run/step_metrics.h"

namespace halftone {

class Trainer;

/// An observer of a training. The Trainer calls it from the training thread, in the order of
/// TrainerOptions::callbacks, and before the module's hook of the same name. An exception ends the
/// run.
class Callback {
 public:
  virtual ~Callback() = default;

  /// Before anything is made or loaded: the place to throw UserError for a fit() that this callback
  /// cannot do its work in.
  virtual void setup(const Trainer& /*trainer*/) {}
  /// Before the first step; a resumed run has loaded its checkpoint.
  virtual void on_fit_start(Trainer& /*trainer*/) {}
  /// Around the batches of validation that fit() tries out before it trains.
  virtual void on_sanity_check_start(Trainer& /*trainer*/) {}
  virtual void on_sanity_check_end(Trainer& /*trainer*/) {}
  virtual void on_train_epoch_start(Trainer& /*trainer*/, std::int64_t /*epoch*/) {}  // from 1

  // Within a step: StepHooks says what each sees.
  virtual void on_before_zero_grad(Trainer& /*trainer*/) {}
  virtual void on_train_batch_start(Trainer& /*trainer*/, std::int64_t /*index*/) {}
  virtual void on_before_backward(Trainer& /*trainer*/, const torch::Tensor& /*loss*/) {}
  virtual void on_after_backward(Trainer& /*trainer*/) {}
  virtual void on_train_batch_end(Trainer& /*trainer*/, std::int64_t /*index*/) {}
  virtual void on_before_optimizer_step(Trainer& /*trainer*/) {}
  /// Before the step's line is written: the place to add to `metrics.logged`.
  virtual void add_metrics(Trainer& /*trainer*/, StepMetrics& /*metrics*/) {}

  /// After a step, and the validation that belongs to it.
  virtual void on_step_end(Trainer& /*trainer*/, const StepMetrics& /*metrics*/) {}
  /// Before a validation, in train mode still: the place to swap weights.
  virtual void on_validation_start(Trainer& /*trainer*/) {}
  /// `values`: what validation_step logged.
  virtual void on_validation_end(Trainer& /*trainer*/,
                                 const std::map<std::string, double>& /*values*/) {}
  /// After the validation that belongs to the epoch; `epoch` counts from 1.
  virtual void on_epoch_end(Trainer& /*trainer*/, std::int64_t /*epoch*/) {}
  /// The last step is done, with all of the above: the place to ask for the last checkpoint.
  virtual void on_train_end(Trainer& /*trainer*/) {}
  /// A checkpoint is about to be written: what is changed in it is saved so.
  virtual void on_save_checkpoint(Trainer& /*trainer*/, Checkpoint& /*checkpoint*/) {}
  /// A resumed run is about to load it, after load_state_dict(): undoes what on_save_checkpoint()
  /// changed.
  virtual void on_load_checkpoint(Trainer& /*trainer*/, Checkpoint& /*checkpoint*/) {}
  /// A whole checkpoint is on the disk, below the folder that Trainer::save_checkpoint() was given.
  virtual void on_checkpoint_saved(Trainer& /*trainer*/, const std::filesystem::path& /*folder*/) {}
  /// After the last checkpoint: what is done to the model here is not in it. A stopped run comes
  /// here too.
  virtual void on_fit_end(Trainer& /*trainer*/) {}
  /// The exception that ends the run; it is rethrown afterwards. REQUIRES that this function does
  /// not throw.
  virtual void on_exception(Trainer& /*trainer*/, const std::exception& /*error*/) {}

  // Trainer::test() and Trainer::predict().
  virtual void on_test_start(Trainer& /*trainer*/) {}
  virtual void on_test_end(Trainer& /*trainer*/, const std::map<std::string, double>& /*values*/) {}
  virtual void on_predict_start(Trainer& /*trainer*/) {}
  virtual void on_predict_end(Trainer& /*trainer*/) {}

  /// Whether it reads gradients or weights as a whole. Where each process keeps a part of them
  /// (TrainerOptions::shard), the Trainer refuses it.
  virtual bool reads_gradients() const { return false; }
  virtual bool reads_weights() const { return false; }

  /// The state that a resumed run needs. The key under which it is saved must not change.
  virtual std::string state_key() const { return ""; }  // empty: nothing to save
  virtual StateDict state_dict() const { return {}; }
  virtual void load_state_dict(const StateDict& /*state*/) {}
};

/// What the values and tensors of a callback's state begin with, among the trainer's of a
/// checkpoint.
inline std::string callback_prefix(const std::string& state_key) {
  return "callback." + state_key + ".";
}

}  // namespace halftone
