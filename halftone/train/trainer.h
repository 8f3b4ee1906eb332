// SPDX-License-Identifier: Apache-2.0
// Lightning's Trainer for C++: name a precision, give a module and its data.
//
//   struct Classifier : halftone::TrainingModule<> {...};   // training_step, configure_optimizers
//   halftone::Trainer trainer({.max_epochs = 10, .precision = "16-mixed"});
//   trainer.fit(module, train_loader, val_loader);
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "halftone/precision/grad_scaler.h"
#include "halftone/run/metrics_log.h"
#include "halftone/run/run_directory.h"
#include "halftone/train/callback.h"
#include "halftone/train/fit_loop.h"
#include "halftone/train/mixed_precision.h"
#include "halftone/train/training_task.h"

namespace halftone {

struct TrainerOptions {
  std::optional<std::int64_t> max_epochs;  // no limit at all: one epoch
  std::optional<std::int64_t> max_steps;   // optimizer steps, skipped ones included
  std::optional<double> max_time;          // seconds of training
  std::string precision = "32-true";       // docs/numerics.md lists them
  std::string accelerator = "auto";        // "cpu", "cuda", "cuda:N"; auto: CUDA where there is one
  std::int64_t devices = 1;
  std::int64_t accumulate_grad_batches = 1;  // batches of one optimizer step
  /// Over what the loss of such a step is the mean: "tokens", or whatever else loss_weight()
  /// counts; or "micro-batches", which weigh the same.
  std::string loss_average = "tokens";
  double gradient_clip_val = 0.0;                // 0: no clipping
  std::string gradient_clip_algorithm = "norm";  // or "value"
  std::vector<std::shared_ptr<Callback>> callbacks;
  /// The run directory: metrics, checkpoints, report. Empty: nothing is written. It must not exist
  /// yet, unless `overwrite` is set or fit() resumes it.
  std::filesystem::path default_root_dir;
  bool overwrite = false;
  /// Ctrl-C (SIGINT), SIGTERM and a closed terminal (SIGHUP) end fit() after the present step, with
  /// a checkpoint, as stop() does; Trainer::stop_signal() tells. A second one ends the process.
  /// Only where there is a default_root_dir, and not for a signal that the program handles itself.
  bool save_on_signal = true;
  std::int64_t val_check_interval = 0;  // steps between validations; 0: at the end of each epoch
  GradScalerOptions scaler;             // of precisions with loss scaling
  MemoryOptions
      memory;  // what concerns the optimizer is up to the module: MemoryPolicy::apply_to()
  /// Modules that stay in fp32 under a mixed precision: patterns of keep_fp32().
  std::vector<std::string> keep_fp32;
  std::uint64_t seed = 0;   // of the random rounding in int8 matmuls
  std::string config_toml;  // what the run's config.toml says; empty: run_config(), these options
};

struct FitOptions {
  /// Goes on from the newest whole checkpoint in default_root_dir, bit by bit. Throws UserError
  /// where there is none.
  bool resume = false;
  /// The same where there is a checkpoint, and a new run where there is none, whether or not one
  /// had begun (it is emptied; `overwrite` does not matter): what a job that is restarted needs.
  bool resume_or_start = false;
};

class Trainer {
 public:
  /// Throws UserError for an unknown precision or accelerator, more than one device and values out
  /// of range.
  explicit Trainer(TrainerOptions options);

  /// Trains until a limit is reached or stop() is called. `module` is a TrainingModule or a pointer
  /// to one, its parts in the modes in which they are to be trained. A loader is a TokenLoader, a
  /// TensorLoader, a torch::data loader, any range of batches or a class with batch_at()
  /// (IndexedLoader), or a pointer to one. Training begins at its first batch, whatever it was used
  /// for before; a validation is one pass. Throws UserError and SystemError.
  template <class Module, class Loader>
  void fit(Module&& module, Loader&& train, const FitOptions& options = {}) {
    require_module_and_loader<Pointee<Module>, Pointee<Loader>>();
    ModuleTrainingTask task(pointee(module), pointee(train));
    run(task, nullptr, options);
  }
  template <class Module, class Loader, class ValidationLoader>
  requires(!std::is_convertible_v<ValidationLoader, FitOptions>) void fit(
      Module&& module, Loader&& train, ValidationLoader&& validation,
      const FitOptions& options = {}) {
    require_module_and_loader<Pointee<Module>, Pointee<Loader>>();
    require_module_and_loader<Pointee<Module>, Pointee<ValidationLoader>>();
    if constexpr (SinglePositionLoader<Pointee<Loader>>)
      check_own_position(&pointee(train), &pointee(validation));
    ModuleTrainingTask task(pointee(module), pointee(train));
    ModuleEvaluationTask evaluation(pointee(module), pointee(validation),
                                    EvaluationKind::kValidation);
    run(task, &evaluation, options);
  }

  /// The means of what validation_step logs over one pass: eval mode, no gradients, the Trainer's
  /// precision.
  template <class Module, class Loader>
  std::map<std::string, double> validate(Module&& module, Loader&& loader) {
    require_module_and_loader<Pointee<Module>, Pointee<Loader>>();
    ModuleEvaluationTask task(pointee(module), pointee(loader), EvaluationKind::kValidation);
    return evaluate(task);
  }
  /// The same for test_step.
  template <class Module, class Loader>
  std::map<std::string, double> test(Module&& module, Loader&& loader) {
    require_module_and_loader<Pointee<Module>, Pointee<Loader>>();
    ModuleEvaluationTask task(pointee(module), pointee(loader), EvaluationKind::kTest);
    return evaluate(task);
  }

  /// Ends fit() after the present step.
  void stop() { stop_ = true; }
  bool stopped() const { return stop_; }
  /// The signal that stopped the last fit(), such as SIGINT; see TrainerOptions::save_on_signal.
  const std::optional<int>& stop_signal() const { return stop_signal_; }

  const TrainerOptions& options() const { return options_; }
  const torch::Device& device() const { return precision_.device(); }
  const PrecisionPolicy& policy() const { return precision_.policy(); }

  /// REQUIRES a call from within fit(), as callbacks are: the loop, and the run directory or
  /// nothing.
  const FitLoop& loop() const;
  const RunDirectory* run_directory() const { return run_ ? &*run_ : nullptr; }
  /// Whether fit() got validation data.
  bool validates() const { return validates_; }
  /// Has a checkpoint with the states of the callbacks written below `folder`, keeping the
  /// `keep_last` newest. It is written when all callbacks have been called for the present step,
  /// whichever asks for it, and what their hooks did to the model is in it.
  void save_checkpoint(const std::filesystem::path& folder, std::int64_t keep_last);

 private:
  struct SaveRequest {
    std::filesystem::path folder;
    std::int64_t keep_last;
  };

  void check_own_position(const void* train, const void* validation) const;
  void run(TrainingTask& task, EvaluationTask* validation, const FitOptions& options);
  void open_run(FitLoop& loop, bool resumes, ExistingRun existing);
  void resume(FitLoop& loop);
  void train(TrainingTask& task, EvaluationTask* validation);
  void end_epoch(TrainingModuleBase& module, StepMetrics& last);
  void stop_if_signalled();
  void write_checkpoints();
  void tell_of(const std::exception& error);
  void advise(TrainingTask& task) const;
  void validate_and_report(EvaluationTask& task);
  std::map<std::string, double> evaluate(EvaluationTask& task);

  TrainerOptions options_;
  MixedPrecision precision_;
  FitLoop* loop_ = nullptr;  // while fit() runs
  std::optional<RunDirectory> run_;
  std::optional<MetricsLog> metrics_log_;
  std::vector<SaveRequest> save_requests_;  // of the present step, in the order of their coming
  bool validates_ = false;
  bool stop_ = false;
  std::optional<int> stop_signal_;
};

}  // namespace halftone
