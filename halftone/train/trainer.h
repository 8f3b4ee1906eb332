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
#include <utility>
#include <vector>

#include "halftone/core/process_group.h"
#include "halftone/precision/kept_modules.h"
#include "halftone/run/metrics_log.h"
#include "halftone/run/run_directory.h"
#include "halftone/train/anomaly.h"
#include "halftone/train/fit_loop.h"
#include "halftone/train/mixed_precision.h"
#include "halftone/train/saved_model.h"
#include "halftone/train/trainer_options.h"
#include "halftone/train/training_task.h"

namespace halftone {

struct FitOptions {
  /// Goes on from the newest whole checkpoint in default_root_dir, bit by bit. Throws UserError
  /// where there is none.
  bool resume = false;
  /// The same where there is a checkpoint, and a new run where there is none, whether or not one
  /// had begun (it is emptied; `overwrite` does not matter): what a job that is restarted needs.
  bool resume_or_start = false;
  /// Begins a new run with all that this checkpoint holds: weights, optimizers, counters, position
  /// in the data. What find_saved_model() takes.
  std::string ckpt_path;
};

struct EvaluationOptions {
  /// The weights to take: "best", "last", or a path, as for Trainer::load(). Empty: the module's.
  std::string ckpt_path;
};

class Trainer {
 public:
  /// Joins the processes that were started together. Throws UserError for an unknown precision or
  /// accelerator, values out of range, and another number of processes than `devices`; what
  /// joined_processes() throws.
  explicit Trainer(TrainerOptions options);

  /// Trains until a limit is reached or stop() is called. `module` is a TrainingModule or a pointer
  /// to one, its parts in the modes in which they are to be trained. A loader is a TokenLoader, a
  /// TensorLoader, a DataLoader, a torch::data loader, any range of batches or a class with
  /// batch_at() (IndexedLoader), or a pointer to one; for validation also several (Loaders).
  /// Training begins at its first batch, whatever it was used for before; a validation is one pass.
  /// Throws UserError and SystemError.
  template <class Module, class Loader>
  void fit(Module&& module, Loader&& train, const FitOptions& options = {}) {
    require_module_and_loader<Pointee<Module>, Pointee<Loader>>();
    ModuleTrainingTask task(pointee(module), pointee(train), options_.limit_train_batches,
                            overfits());
    run(task, nullptr, options);
  }
  template <class Module, class Loader, class ValidationLoader>
  requires(!std::is_convertible_v<ValidationLoader, FitOptions>) void fit(
      Module&& module, Loader&& train, ValidationLoader&& validation,
      const FitOptions& options = {}) {
    require_module_and_loader<Pointee<Module>, Pointee<Loader>>();
    require_module_and_loaders<Pointee<Module>, Pointee<ValidationLoader>>();
    for_each_loader(pointee(validation), [&](auto& one, std::size_t /*index*/) {
      if constexpr (SinglePositionLoader<Pointee<Loader>>)
        check_own_position(&pointee(train), &pointee(one));
    });
    ModuleTrainingTask task(pointee(module), pointee(train), options_.limit_train_batches,
                            overfits());
    ModuleEvaluationTask evaluation(pointee(module), pointee(validation),
                                    EvaluationKind::kValidation);
    run(task, &evaluation, options);
  }

  /// The means of what validation_step logs over one pass: eval mode, no gradients, the Trainer's
  /// precision. Also of several loaders (Loaders).
  template <class Module, class Loader>
  std::map<std::string, double> validate(Module&& module, Loader&& loader,
                                         const EvaluationOptions& options = {}) {
    require_module_and_loaders<Pointee<Module>, Pointee<Loader>>();
    ModuleEvaluationTask task(pointee(module), pointee(loader), EvaluationKind::kValidation);
    return evaluate(task, EvaluationKind::kValidation, options);
  }
  /// The same for test_step.
  template <class Module, class Loader>
  std::map<std::string, double> test(Module&& module, Loader&& loader,
                                     const EvaluationOptions& options = {}) {
    require_module_and_loaders<Pointee<Module>, Pointee<Loader>>();
    ModuleEvaluationTask task(pointee(module), pointee(loader), EvaluationKind::kTest);
    return evaluate(task, EvaluationKind::kTest, options);
  }
  /// What predict_step gives of each batch, in the order of the data, on the CPU.
  template <class Module, class Loader>
  auto predict(Module&& module, Loader&& loader, const EvaluationOptions& options = {}) {
    require_module_and_loaders<Pointee<Module>, Pointee<Loader>>();
    ModuleEvaluationTask task(pointee(module), pointee(loader), EvaluationKind::kPredict);
    evaluate(task, EvaluationKind::kPredict, options);
    return task.take_predictions();
  }

  /// Gives the module the weights of a checkpoint, in the Trainer's precision and on its device.
  /// `where`: "last" and "best" (ModelCheckpointOptions::monitor) of the default_root_dir, or what
  /// find_saved_model() takes. Returns what was loaded. Throws UserError where it does not fit;
  /// warm_start() takes what fits.
  template <class Module>
  SavedModel load(const std::string& where, Module&& module) {
    return load_into(pointee(module), where);
  }
  /// The same of what load_saved_model() has opened.
  template <class Module>
  void load(const SavedModel& saved, Module&& module) {
    load_into(pointee(module), saved);
  }

  /// Ends fit() after the present step.
  void stop() { stop_ = true; }
  bool stopped() const { return stop_; }
  /// The signal that stopped the last fit(), such as SIGINT; see TrainerOptions::save_on_signal.
  const std::optional<int>& stop_signal() const { return stop_signal_; }

  /// What was logged last under each name since the last fit(), or the last validate() or test()
  /// outside of one, began: of a fit() by its steps (from a callback's add_metrics() on), ends of
  /// epochs and validations, also those that a callback calls for. What is logged under one name in
  /// training and in validation has one place here. The loss is there only if it was logged.
  const std::map<std::string, double>& logged_metrics() const { return logged_metrics_; }

  const TrainerOptions& options() const { return options_; }
  const torch::Device& device() const { return precision_.device(); }
  const PrecisionPolicy& policy() const { return precision_.policy(); }
  /// `batch` as a step gets it: on the device, its floating-point tensors in the dtype of a true
  /// 16-bit precision. Takes what halftone::placed() takes.
  template <class Batch>
  Batch placed(const Batch& batch) const {
    return halftone::placed(batch, precision_.batch_placement());
  }
  /// The region of the Trainer's precision, for a forward pass of a callback's own.
  ForwardContext forward_context() const { return precision_.forward_context(); }
  /// Whether this process has all weights: not within fit() with shard parameters, until the last
  /// step is done. Elsewhere than in a step and an evaluation the others' are zero then.
  bool has_all_weights() const { return loop_ == nullptr || loop_->sharded_weights() == nullptr; }
  /// The processes that train together; nullptr: this one alone.
  ProcessGroup* processes() const { return processes_.get(); }
  /// Whether this is process 0, the one that writes, logs and shows progress.
  bool is_global_zero() const { return processes_ == nullptr || processes_->rank() == 0; }
  /// Nothing in a precision without one. Waits for the device.
  std::optional<double> loss_scale() const { return precision_.loss_scale(); }

  /// REQUIRES a call from within fit(), as callbacks are: the loop, and the run directory or
  /// nothing. Of several processes all know it, and is_global_zero() may write to it.
  const FitLoop& loop() const;
  const RunDirectory* run_directory() const { return run_ ? &*run_ : nullptr; }
  /// REQUIRES a call from within fit(), validate(), test() or predict().
  TrainingModuleBase& module() const;
  /// Whether fit() got validation data.
  bool validates() const { return validates_; }
  /// Whether the batches of before the training are being tried out.
  bool sanity_checking() const { return sanity_checking_; }
  /// REQUIRES a call from within fit(). Runs training_step() of each batch of an epoch, in the
  /// modes that the module's parts have and without gradients: for statistics that layers gather.
  /// The position in the data and the random state are afterwards what they were.
  void pass_over_training_data();
  /// Has a checkpoint with the states of the callbacks written below `folder`, where `keep` says
  /// which others stay. It is written when all callbacks have been called for the present step,
  /// whichever asks for it, and what their hooks did to the model is in it.
  void save_checkpoint(const std::filesystem::path& folder, const KeepCheckpoints& keep);

 private:
  class Hooks;
  /// What a step needs to be taken again with the same bits, beside the checkpoint before it.
  struct PassedStep {
    std::int64_t step = 0;
    double seconds = 0;    // of training before it
    StateDict generators;  // before it; empty where they stood as the step before had left them
    double loss = 0;
  };
  struct SaveRequest {
    std::filesystem::path folder;
    KeepCheckpoints keep;
  };

  bool shards_states() const { return processes_ != nullptr && options_.shard != "none"; }
  bool shards_weights() const { return shards_states() && options_.shard == "parameters"; }
  bool overfits() const { return !options_.overfit_batches.is_none(); }
  void keep_layers(torch::nn::Module& network);
  void prepare(torch::nn::Module& network);
  LayerChoices layer_choices() const;
  void note_other_layers(const SavedModel& saved) const;
  void check_own_position(const void* train, const void* validation) const;
  void check_plateaus(const FitLoop& loop) const;
  void check_callbacks() const;
  EvaluationShare evaluation_share() const;
  void run(TrainingTask& task, EvaluationTask* validation, const FitOptions& options);
  void run_loop(TrainingTask& task, EvaluationTask* validation);
  void open_run(FitLoop& loop, const FitOptions& options, bool resumes);
  void restore(FitLoop& loop, Checkpoint checkpoint);
  void close_loggers();
  void train(TrainingTask& task, EvaluationTask* validation);
  StepMetrics step(StepHooks& hooks);
  PassedStep beginning_step() const;
  void begin_again(const PassedStep* passed);
  void compute_again(Anomaly& anomaly, const PassedStep& last, StepHooks& hooks);
  bool retake_steps(std::int64_t before, Anomaly::Replay& replay, StepHooks& hooks);
  void write_anomaly(const Anomaly& anomaly) const;
  Checkpoint checkpoint_to_resume() const;
  void check_sanity(EvaluationTask& validation);
  bool validates_now(const StepMetrics& metrics, std::int64_t batches_before, bool epoch_ended,
                     const TrainingTask& task) const;
  void end_epoch(TrainingModuleBase& module, StepMetrics& last);
  void check_agreement_of(TrainingTask& task) const;
  void agree_on_stop();
  void stop_if_signalled();
  void begin_records(const FitLoop& loop);
  void write_checkpoints();
  void remember(const std::map<std::string, double>& values);
  void log_values(std::int64_t step, const std::map<std::string, double>& values);
  void tell_of(const std::exception& error);
  void advise(TrainingTask& task) const;
  void validate_and_report(EvaluationTask& task);
  std::map<std::string, double> evaluate(EvaluationTask& task, EvaluationKind kind,
                                         const EvaluationOptions& options);
  SavedModel load_into(TrainingModuleBase& module, const std::string& where);
  void load_into(TrainingModuleBase& module, const SavedModel& saved);
  std::filesystem::path resolved_checkpoint(const std::string& where) const;
  /// Calls `hook` of each callback with the Trainer and `arguments`.
  template <class... Parameters, class... Arguments>
  void call(void (Callback::*hook)(Trainer&, Parameters...), Arguments&&... arguments) {
    for (const auto& callback : options_.callbacks) (callback.get()->*hook)(*this, arguments...);
  }

  TrainerOptions options_;
  std::shared_ptr<ProcessGroup> processes_;
  MixedPrecision precision_;
  FitLoop* loop_ = nullptr;               // while fit() runs
  TrainingModuleBase* module_ = nullptr;  // while anything runs
  std::optional<RunDirectory> run_;
  std::vector<std::unique_ptr<KeptModules>> kept_layers_;  // as keep_fp32 says
  const torch::nn::Module* kept_in_ = nullptr;             // the network it was last said of
  std::optional<MetricsLog> metrics_log_;
  std::vector<std::shared_ptr<Logger>> open_loggers_;
  std::map<std::string, double> logged_metrics_;
  std::vector<SaveRequest> save_requests_;  // of the present step, in the order of their coming
  std::vector<PassedStep> passed_;  // with detect_anomaly and a run: since its last checkpoint
  StateDict generators_;            // as the last of them left them
  bool validates_ = false;
  bool sanity_checking_ = false;
  bool stop_ = false;
  bool signalled_ = false;  // this process or another that trains with it
  std::optional<int> stop_signal_;
};

}  // namespace halftone
