// SPDX-License-Identifier: Apache-2.0
#include "halftone/train/trainer.h"

#include <fmt/format.h>

#include <algorithm>
#include <exception>
#include <set>
#include <utility>

#include "halftone/core/device.h"
#include "halftone/core/error.h"
#include "halftone/core/log.h"
#include "halftone/core/message.h"
#include "halftone/precision/keep_fp32.h"
#include "halftone/system/interrupt.h"
#include "halftone/train/evaluation.h"
#include "halftone/train/model_checkpoint.h"
#include "halftone/train/precision_hints.h"
#include "halftone/train/run_config.h"
#include "halftone/train/run_report.h"

namespace halftone {
namespace {

torch::Device device_for(const TrainerOptions& options) {
  if (options.devices != 1)
    throw UserError(
        fmt::format("trainer: expected devices = 1, got {}: this version trains on one device",
                    options.devices));
  return resolve_device(options.accelerator);
}

void check_positive(const char* name, double value) {
  if (!(value > 0))
    throw UserError(
        fmt::format("trainer: expected {} to be positive, got {:g}; leave it out for no "
                    "limit",
                    name, value));
}

GradientClip clip_for(const TrainerOptions& options) {
  const std::string& algorithm = options.gradient_clip_algorithm;
  if (algorithm != "norm" && algorithm != "value")
    throw UserError(fmt::format(
        "trainer: expected gradient_clip_algorithm \"norm\" or \"value\", got \"{}\"", algorithm));
  if (!(options.gradient_clip_val >= 0))
    throw UserError(
        fmt::format("trainer: expected gradient_clip_val >= 0 (0: no clipping), got {:g}",
                    options.gradient_clip_val));
  return {.value = options.gradient_clip_val,
          .algorithm = algorithm == "norm" ? ClipAlgorithm::kNorm : ClipAlgorithm::kValue};
}

const TrainerOptions& checked(const TrainerOptions& options) {
  if (options.max_epochs) check_positive("max_epochs", static_cast<double>(*options.max_epochs));
  if (options.max_steps) check_positive("max_steps", static_cast<double>(*options.max_steps));
  if (options.max_time) check_positive("max_time", *options.max_time);
  if (options.accumulate_grad_batches < 1)
    throw UserError(fmt::format("trainer: expected accumulate_grad_batches >= 1, got {}",
                                options.accumulate_grad_batches));
  if (options.val_check_interval < 0)
    throw UserError(
        fmt::format("trainer: expected val_check_interval >= 0 (0: after each epoch), got {}",
                    options.val_check_interval));
  clip_for(options);
  parse_loss_average(options.loss_average);
  return options;
}

void apply_keep_fp32(torch::nn::Module& network, const TrainerOptions& options,
                     const PrecisionPolicy& policy) {
  if (options.keep_fp32.empty()) return;
  if (!policy.is_mixed())
    throw UserError(fmt::format(
        "trainer: keep_fp32 goes with a mixed precision, but precision is {}; name one that ends "
        "in -mixed, or leave it out",
        policy.name));
  keep_fp32(network, options.keep_fp32);
}

template <class Kind>
void add_unless_there(std::vector<std::shared_ptr<Callback>>& callbacks) {
  const auto is_kind = [](const auto& callback) {
    return dynamic_cast<const Kind*>(callback.get()) != nullptr;
  };
  if (std::none_of(callbacks.begin(), callbacks.end(), is_kind))
    callbacks.push_back(std::make_shared<Kind>());
}

bool resumes_run(const TrainerOptions& options, const FitOptions& how) {
  const std::filesystem::path& root = options.default_root_dir;
  if (root.empty() && (how.resume || how.resume_or_start))
    throw UserError("trainer: expected default_root_dir to say which run to resume, got none");
  return how.resume || (how.resume_or_start && !checkpoint_steps(root).empty());
}

ExistingRun existing_run(const TrainerOptions& options, const FitOptions& how) {
  if (how.resume_or_start) return ExistingRun::kRestart;
  return options.overwrite ? ExistingRun::kReplace : ExistingRun::kRefuse;
}

/// Modules train in the modes that the user left them in: one in eval mode is frozen on purpose,
/// all of them may be forgotten.
void note_eval_mode(const torch::nn::Module& module) {
  if (!module.is_training())
    log_note(
        "the module is in eval mode and is trained in it: no dropout, batch statistics that do not "
        "move; call train() before fit() to train in train mode");
}

std::string callback_prefix(const Callback& callback) {
  return "callback." + callback.state_key() + ".";
}

}  // namespace

Trainer::Trainer(TrainerOptions options)
    : options_(std::move(options)),
      precision_(parse_precision(checked(options_).precision), options_.scaler,
                 device_for(options_),
                 memory_policy(options_.memory, parse_precision(options_.precision))) {
  auto& callbacks = options_.callbacks;
  if (!options_.default_root_dir.empty()) {
    add_unless_there<ModelCheckpoint>(callbacks);
    add_unless_there<RunReport>(callbacks);
  }
  std::set<std::string> keys;
  for (const auto& callback : callbacks)
    if (!callback->state_key().empty() && !keys.insert(callback->state_key()).second)
      throw UserError(
          fmt::format("trainer: two callbacks save their state as '{}'; keep one of them",
                      callback->state_key()));
}

const FitLoop& Trainer::loop() const {
  HALFTONE_CHECK(loop_ != nullptr,
                 "[trainer] expected a call from within fit(), such as from a "
                 "callback: there is no run otherwise");
  return *loop_;
}

void Trainer::check_own_position(const void* train, const void* validation) const {
  if (train == validation && options_.val_check_interval > 0)
    throw UserError(fmt::format(
        "trainer: val_check_interval is {}, but training and validation share a loader that has "
        "one position, and a validation within the epoch would lose it; give fit() a loader of "
        "its own for validation, or set val_check_interval to 0",
        options_.val_check_interval));
}

void Trainer::run(TrainingTask& task, EvaluationTask* validation, const FitOptions& options) {
  stop_ = false;
  stop_signal_.reset();
  save_requests_.clear();
  validates_ = validation != nullptr;
  std::optional<InterruptGuard> guard;
  if (options_.save_on_signal && !options_.default_root_dir.empty()) guard.emplace();
  const RunLimits limits{options_.max_steps, options_.max_epochs, options_.max_time};
  for (const auto& callback : options_.callbacks) callback->setup(*this);
  const bool resumes = resumes_run(options_, options);
  if (!options_.default_root_dir.empty() && !resumes)
    check_new_run(options_.default_root_dir, existing_run(options_, options));
  apply_keep_fp32(task.module().network(), options_, policy());
  FitLoop loop(task, precision_,
               {.limits = limits,
                .accumulate = options_.accumulate_grad_batches,
                .loss_average = parse_loss_average(options_.loss_average),
                .clip = clip_for(options_),
                .seed = options_.seed});
  loop_ = &loop;
  struct Closing {
    Trainer& trainer;
    ~Closing() {
      trainer.loop_ = nullptr;
      trainer.metrics_log_.reset();
      trainer.run_.reset();
    }
  } const closing{*this};
  if (!options_.default_root_dir.empty()) open_run(loop, resumes, existing_run(options_, options));
  advise(task);
  note_eval_mode(task.module());
  task.module().logged() = {};  // of no step of this fit
  task.module().restore_tokens(0);
  task.module().on_fit_start();
  try {
    for (const auto& callback : options_.callbacks) callback->on_fit_start(*this);
    write_checkpoints();
    loop.warn_of_warmup();
    train(task, validation);
    loop.warn_of_warmup();
    for (const auto& callback : options_.callbacks) callback->on_train_end(*this);
    write_checkpoints();
    for (const auto& callback : options_.callbacks) callback->on_fit_end(*this);
    write_checkpoints();
  } catch (const std::exception& error) {
    tell_of(error);
    throw;
  }
  task.module().on_fit_end();
}

void Trainer::open_run(FitLoop& loop, bool resumes, ExistingRun existing) {
  const std::filesystem::path& root = options_.default_root_dir;
  if (resumes) {
    run_.emplace(RunDirectory::resume(root));
    resume(loop);
  } else {
    run_.emplace(RunDirectory::create(root, existing));
  }
  run_->write_config(options_.config_toml.empty() ? run_config(options_) : options_.config_toml);
  metrics_log_.emplace(run_->paths().metrics(), loop.counters().step);
}

void Trainer::resume(FitLoop& loop) {
  const Checkpoint checkpoint = load_latest_checkpoint(options_.default_root_dir);
  loop.load_checkpoint(checkpoint);
  for (const auto& callback : options_.callbacks) {
    if (callback->state_key().empty()) continue;
    const StateDict state = checkpoint.trainer.extract(callback_prefix(*callback));
    const bool is_new = state.values.empty() && state.tensors.empty();
    if (!is_new) callback->load_state_dict(state);
  }
}

void Trainer::train(TrainingTask& task, EvaluationTask* validation) {
  TrainingModuleBase& module = task.module();
  // A resumed run may be in the middle of an epoch that it has begun before.
  bool epoch_is_new = loop_->counters().step == 0 || task.batch_index() == 0;
  bool batch_was_seen = device().is_cpu();  // where the hints do not depend on it
  while (!loop_->finished() && !stop_) {
    const std::int64_t epoch = loop_->counters().epochs + 1;
    if (std::exchange(epoch_is_new, false)) module.on_train_epoch_start(epoch);
    StepMetrics metrics = loop_->step([this](StepMetrics& recorded) {
      for (const auto& callback : options_.callbacks) callback->add_metrics(*this, recorded);
      if (metrics_log_) metrics_log_->append(recorded);
    });
    if (!std::exchange(batch_was_seen, true)) advise(task);

    epoch_is_new = loop_->counters().epochs >= epoch;
    if (epoch_is_new) end_epoch(module, metrics);
    const std::int64_t interval = options_.val_check_interval;
    const bool validates = interval > 0 ? metrics.step % interval == 0 : epoch_is_new;
    if (validation != nullptr && validates) validate_and_report(*validation);
    for (const auto& callback : options_.callbacks) callback->on_step_end(*this, metrics);
    for (const auto& callback : options_.callbacks)
      if (epoch_is_new) callback->on_epoch_end(*this, epoch);
    stop_if_signalled();
    write_checkpoints();
  }
}

void Trainer::end_epoch(TrainingModuleBase& module, StepMetrics& last) {
  module.on_train_epoch_end(last.epoch);
  std::map<std::string, double> values = module.logged().take();
  if (metrics_log_ && !values.empty()) metrics_log_->append_values(last.step, values);
  last.logged.merge(values);
}

void Trainer::stop_if_signalled() {
  if (!options_.save_on_signal || !run_ || loop_->finished() || !interrupted()) return;
  stop_signal_ = interrupting_signal();
  stop();
}

void Trainer::tell_of(const std::exception& error) {
  save_requests_.clear();  // of a step that was not finished
  for (const auto& callback : options_.callbacks) callback->on_exception(*this, error);
  try {
    write_checkpoints();
  } catch (const std::exception& failure) {
    log_warning(error_text(failure));  // beside the error that ends the run
  }
}

void Trainer::advise(TrainingTask& task) const {
  log_hints(precision_hints(
      collect_hint_inputs(task.module().network(), policy(), device(), task.rows_per_batch())));
}

void Trainer::validate_and_report(EvaluationTask& task) {
  const std::map<std::string, double> values = evaluate(task);
  if (metrics_log_) metrics_log_->append_values(loop_->counters().step, values);
  for (const auto& callback : options_.callbacks) callback->on_validation_end(*this, values);
}

std::map<std::string, double> Trainer::evaluate(EvaluationTask& task) {
  if (loop_ == nullptr) precision_.convert_module(task.module().network());
  return run_evaluation(task, precision_);
}

void Trainer::save_checkpoint(const std::filesystem::path& folder, std::int64_t keep_last) {
  HALFTONE_CHECK(loop_ != nullptr,
                 "[trainer] expected save_checkpoint() to be called from within fit()");
  const auto same = std::find_if(save_requests_.begin(), save_requests_.end(),
                                 [&](const SaveRequest& one) { return one.folder == folder; });
  if (same == save_requests_.end())
    save_requests_.push_back({folder, keep_last});
  else
    same->keep_last = std::max(same->keep_last, keep_last);
}

void Trainer::write_checkpoints() {
  if (save_requests_.empty()) return;
  Checkpoint checkpoint = loop_->checkpoint();
  for (const auto& callback : options_.callbacks)
    if (!callback->state_key().empty())
      checkpoint.trainer.insert(callback_prefix(*callback), callback->state_dict());
  // A step that a checkpoint counts must have its line, also when the power goes.
  if (metrics_log_) metrics_log_->sync();
  for (const auto& [folder, keep_last] : std::exchange(save_requests_, {})) {
    halftone::save_checkpoint(folder, checkpoint, keep_last);
    for (const auto& callback : options_.callbacks) callback->on_checkpoint_saved(*this, folder);
  }
}

}  // namespace halftone
