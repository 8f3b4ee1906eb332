// SPDX-License-Identifier: Apache-2.0
#include "halftone/train/trainer.h"

#include <c10/util/Type.h>
#include <fmt/format.h>
#include <torch/version.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <limits>
#include <set>
#include <system_error>
#include <typeinfo>
#include <utility>

#include "halftone/core/device.h"
#include "halftone/core/error.h"
#include "halftone/core/log.h"
#include "halftone/core/message.h"
#include "halftone/core/random.h"
#include "halftone/core/scoped_value.h"
#include "halftone/dist/agreement.h"
#include "halftone/dist/joined_processes.h"
#include "halftone/optim/fused_optimizer.h"
#include "halftone/system/interrupt.h"
#include "halftone/train/evaluation.h"
#include "halftone/train/layer_precision.h"
#include "halftone/train/monitor.h"
#include "halftone/train/network_state.h"
#include "halftone/train/precision_hints.h"
#include "halftone/train/run_config.h"
#include "halftone/train/weight_averaging.h"

namespace halftone {
namespace {

std::shared_ptr<ProcessGroup> processes_for(const TrainerOptions& options) {
  std::shared_ptr<ProcessGroup> group =
      options.process_group ? options.process_group : joined_processes();
  const std::int64_t started = group ? group->size() : 1;
  if (options.devices != 0 && options.devices != started)
    throw UserError(fmt::format(
        "trainer: expected {} processes, one for each of devices = {}, got {}; start the program "
        "with `halftone launch --processes {} -- PROGRAM` or torchrun, or set devices to {}",
        options.devices, options.devices, started, options.devices, started));
  return started > 1 ? group : nullptr;
}

GradientClip clip_for(const TrainerOptions& options) {
  const bool by_norm = options.gradient_clip_algorithm == "norm";
  return {.value = options.gradient_clip_val,
          .algorithm = by_norm ? ClipAlgorithm::kNorm : ClipAlgorithm::kValue};
}

void note_layer_precision(torch::nn::Module& network, const TrainerOptions& options,
                          const PrecisionPolicy& policy, torch::Device device) {
  if (options.layer_precision.empty()) return;
  log_layer_types(layer_types(network, options.layer_precision, policy), device);
}

bool resumes_run(const TrainerOptions& options, const FitOptions& how) {
  if (options.fast_dev_run > 0) return false;  // it has no folder
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

// REQUIRES a call from a handler of `error`. LibTorch's plain errors carry a page of stack in
// what(): it goes, unless TORCH_SHOW_CPP_STACKTRACES asks for it.
[[noreturn]] void rethrow_as_a_sentence(const std::exception& error) {
  const auto* const plain =
      typeid(error) == typeid(c10::Error) ? dynamic_cast<const c10::Error*>(&error) : nullptr;
  if (plain == nullptr || std::getenv("TORCH_SHOW_CPP_STACKTRACES") != nullptr) throw;
  throw c10::Error(std::string(plain->what_without_backtrace()));
}

Checkpoint whole_checkpoint(const std::filesystem::path& where) {
  if (std::filesystem::is_regular_file(where))
    throw UserError(
        fmt::format("trainer: expected a checkpoint to go on from, got '{}', which holds weights "
                    "only; give them to the module with load() or warm_start() before fit()",
                    where.string()));
  return is_checkpoint(where) ? load_checkpoint(where) : load_latest_checkpoint(where);
}

/// What either wants; all, where one counts and the other names steps.
KeepCheckpoints either(const KeepCheckpoints& a, const KeepCheckpoints& b) {
  if (!a.steps && !b.steps) return {.last = std::max(a.last, b.last)};
  if (!a.steps || !b.steps) return {.last = std::numeric_limits<std::int64_t>::max()};
  KeepCheckpoints both = a;
  both.steps->insert(both.steps->end(), b.steps->begin(), b.steps->end());
  return both;
}

/// Weights that are bf16 lose the updates that are smaller than half their last bit, unless they
/// are rounded at random (docs/numerics.md), which LibTorch's optimizers don't do.
void note_rounding(const FitLoop& loop, const MemoryPolicy& memory) {
  if (!memory.stochastic_rounding) return;
  const auto is_foreign = [](const OptimizerSetup& setup) {
    return as_fused(std::as_const(*setup.optimizer)) == nullptr;
  };
  const auto& setups = loop.optimizers();
  if (std::any_of(setups.begin(), setups.end(), is_foreign))
    log_note(
        "an optimizer of this module rounds updated weights to the nearest bf16 value, which loses "
        "small updates; a halftone::AdamW with context.adamw(options) does not");
}

}  // namespace

/// Tells the callbacks, and then the module, of what happens within a step.
class Trainer::Hooks : public StepHooks {
 public:
  Hooks(Trainer& trainer, TrainingModuleBase& module) : trainer_(trainer), module_(module) {}

  void on_before_zero_grad() override {
    trainer_.call(&Callback::on_before_zero_grad);
    module_.on_before_zero_grad();
  }
  void on_train_batch_start(std::int64_t index) override {
    trainer_.call(&Callback::on_train_batch_start, index);
    module_.on_train_batch_start(index);
  }
  void on_before_backward(const torch::Tensor& loss) override {
    trainer_.call(&Callback::on_before_backward, loss);
    module_.on_before_backward(loss);
  }
  void on_after_backward() override {
    trainer_.call(&Callback::on_after_backward);
    module_.on_after_backward();
  }
  void on_train_batch_end(std::int64_t index) override {
    trainer_.call(&Callback::on_train_batch_end, index);
    module_.on_train_batch_end(index);
  }
  void on_before_optimizer_step() override {
    trainer_.call(&Callback::on_before_optimizer_step);
    module_.on_before_optimizer_step();
  }
  void add_metrics(StepMetrics& metrics) override {
    trainer_.call(&Callback::add_metrics, metrics);
    trainer_.remember(metrics.logged);
    if (trainer_.metrics_log_) trainer_.metrics_log_->append(metrics);
    if (metrics.step % trainer_.options_.log_every_n_steps == 0)
      for (const auto& logger : trainer_.open_loggers_)
        logger->log_metrics(metrics.step, metric_values(metrics));
  }

 private:
  Trainer& trainer_;
  TrainingModuleBase& module_;
};

Trainer::Trainer(TrainerOptions options)
    : options_(resolved_options(std::move(options))),
      processes_(processes_for(options_)),
      precision_(parse_precision(options_.precision), options_.scaler,
                 resolve_device(options_.accelerator),
                 memory_policy(options_.memory, parse_precision(options_.precision)),
                 options_.layer_precision) {
  const auto averages = [](const auto& callback) {
    return dynamic_cast<const WeightAveraging*>(callback.get()) != nullptr;
  };
  if (std::count_if(options_.callbacks.begin(), options_.callbacks.end(), averages) > 1)
    throw UserError(
        "trainer: expected one average of the weights, got several, each of which would stand in "
        "for them; keep one Ema or Swa");
  std::set<std::string> keys;
  for (const auto& callback : options_.callbacks)
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

void Trainer::pass_over_training_data() {
  HALFTONE_CHECK(loop_ != nullptr, "[trainer] expected a call from within fit()");
  loop_->pass_over_data();
}

TrainingModuleBase& Trainer::module() const {
  HALFTONE_CHECK(module_ != nullptr,
                 "[trainer] expected a call from within fit(), validate(), test() or predict(), "
                 "such as from a callback");
  return *module_;
}

void Trainer::check_own_position(const void* train, const void* validation) const {
  if (train == validation && !options_.val_check_interval.is_all())
    throw UserError(
        "trainer: val_check_interval asks for validation within an epoch, but training and "
        "validation share a loader that has one position, which it would lose; give fit() a loader "
        "of its own for validation, or leave val_check_interval at 1.0");
}

void Trainer::check_plateaus(const FitLoop& loop) const {
  for (const OptimizerSetup& setup : loop.optimizers())
    if (const PlateauLr* const plateau = setup.schedule ? setup.schedule->plateau() : nullptr;
        plateau != nullptr && !validates_)
      throw UserError(missing_validation("PlateauLr", plateau->monitor));
}

// In each of fit(), validate(), test(), predict() and load(): whichever comes first says it.
void Trainer::keep_layers(torch::nn::Module& network) {
  if (options_.keep_fp32.empty()) return;
  if (!policy().is_mixed())
    throw UserError(fmt::format(
        "trainer: keep_fp32 goes with a mixed precision, but precision is {}; name one that ends "
        "in -mixed, or leave it out",
        policy().name));
  const bool is_new = std::exchange(kept_in_, &network) != &network;
  auto kept = std::make_unique<KeptModules>(network, options_.keep_fp32, /*is_logged=*/is_new);
  if (kept->has_marked()) kept_layers_.push_back(std::move(kept));
}

void Trainer::prepare(torch::nn::Module& network) {
  keep_layers(network);
  precision_.convert_module(network);
}

LayerChoices Trainer::layer_choices() const {
  return {options_.keep_fp32, options_.layer_precision};
}

// Another precision is a choice that the user sees; single layers of it may have been forgotten.
void Trainer::note_other_layers(const SavedModel& saved) const {
  if (!saved.layers || saved.precision != policy().name || *saved.layers == layer_choices()) return;
  log_note(
      fmt::format("'{}' was trained with {}; it is used with {} (options_of() takes over what "
                  "a run had)",
                  saved.path.string(), saved.layers->to_string(), layer_choices().to_string()));
}

// Processes that were told different things would train different models, or wait for one another.
void Trainer::check_agreement_of(TrainingTask& task) const {
  std::map<std::string, std::string> values =
      config_values(options_.config_toml.empty() ? run_config(options_) : options_.config_toml);
  values["LibTorch"] = TORCH_VERSION;
  for (const auto& parameter : task.module().network().named_parameters())
    values["parameter " + parameter.key()] =
        c10::str(parameter.value().sizes(), " ", parameter.value().scalar_type());
  for (const auto& [name, value] : task.data_state().values)
    values["data " + name] = std::visit([](const auto& plain) { return c10::str(plain); }, value);
  check_agreement(*processes_, values);
}

EvaluationShare Trainer::evaluation_share() const {
  return {.processes = processes_.get(),
          .weights = loop_ == nullptr ? nullptr : loop_->sharded_weights()};
}

// What reads gradients or weights in one process would see the others' parts as zeros.
void Trainer::check_callbacks() const {
  if (!shards_states()) return;
  for (const auto& callback : options_.callbacks) {
    const bool misses_gradients = options_.shard != "optimizer" && callback->reads_gradients();
    if (!misses_gradients && !(shards_weights() && callback->reads_weights())) continue;
    throw UserError(fmt::format(
        "trainer: shard {} leaves each process a part of the {}, and {} reads all of them; leave "
        "it out, or choose shard {}",
        options_.shard, misses_gradients ? "gradients" : "weights",
        c10::demangle(typeid(*callback).name()), misses_gradients ? "optimizer" : "gradients"));
  }
}

void Trainer::run(TrainingTask& task, EvaluationTask* validation, const FitOptions& options) {
  if (options_.limit_val_batches.is_none()) validation = nullptr;
  stop_ = false;
  stop_signal_.reset();
  save_requests_.clear();
  passed_.clear();
  logged_metrics_.clear();
  validates_ = validation != nullptr;
  std::optional<InterruptGuard> guard;
  if (options_.save_on_signal && !options_.default_root_dir.empty()) guard.emplace();
  const RunLimits limits{options_.max_steps, options_.max_epochs, options_.max_time};
  for (const auto& callback : options_.callbacks) callback->setup(*this);
  const bool resumes = resumes_run(options_, options);
  if (!options_.default_root_dir.empty() && !resumes)
    on_process_zero(processes_.get(), [&] {
      check_new_run(options_.default_root_dir, existing_run(options_, options));
    });
  if (processes_) {
    check_agreement_of(task);
    task.share(*processes_);
  }
  keep_layers(task.module().network());
  note_layer_precision(task.module().network(), options_, policy(), device());
  FitLoop loop(task, precision_,
               {.limits = limits,
                .accumulate = options_.accumulate_grad_batches,
                .loss_average = parse_loss_average(options_.loss_average),
                .clip = clip_for(options_),
                .seed = options_.seed,
                .detect_anomaly = options_.detect_anomaly,
                .processes = processes_,
                .shards_states = shards_states(),
                .shards_gradients = shards_states() && options_.shard != "optimizer",
                .shards_weights = shards_weights(),
                .transport = options_.reduce_dtype == "bf16" ? GradientTransport::kBFloat16
                                                             : GradientTransport::kExact,
                .tree_sum = options_.gradient_sum == "tree"});
  check_plateaus(loop);
  check_callbacks();
  loop_ = &loop;
  module_ = &task.module();
  struct Closing {
    Trainer& trainer;
    ~Closing() {
      trainer.loop_ = nullptr;
      trainer.module_ = nullptr;
      trainer.metrics_log_.reset();
      trainer.close_loggers();
      trainer.run_.reset();
    }
  } const closing{*this};
  open_run(loop, options, resumes);
  advise(task);
  note_eval_mode(task.module());
  note_rounding(loop, precision_.memory());
  task.module().logged() = {};  // of no step of this fit
  task.module().restore_tokens(0);
  try {
    run_loop(task, validation);
  } catch (const std::exception& error) {
    tell_of(error);
    rethrow_as_a_sentence(error);
  }
}

void Trainer::run_loop(TrainingTask& task, EvaluationTask* validation) {
  call(&Callback::on_fit_start);
  task.module().on_fit_start();
  if (validation != nullptr && loop_->counters().step == 0) check_sanity(*validation);
  write_checkpoints();
  loop_->warn_of_warmup();
  if (loop_->finished() && options_.config_toml.empty())
    log_note(
        fmt::format("nothing to train: the run is at step {} and its limits are reached; raise "
                    "max_steps, max_epochs or max_time to go on",
                    loop_->counters().step));
  train(task, validation);
  loop_->complete_weights();
  loop_->warn_of_warmup();
  call(&Callback::on_train_end);
  write_checkpoints();
  call(&Callback::on_fit_end);
  write_checkpoints();
  task.module().on_fit_end();
}

void Trainer::open_run(FitLoop& loop, const FitOptions& options, bool resumes) {
  const std::filesystem::path& root = options_.default_root_dir;
  if (!options.ckpt_path.empty()) {
    if (resumes && !options.resume_or_start)
      throw UserError("trainer: expected resume or ckpt_path, got both; resume takes the newest");
    if (!resumes) restore(loop, whole_checkpoint(resolved_checkpoint(options.ckpt_path)));
  }
  if (root.empty()) return;
  on_process_zero(processes_.get(), [&] {
    run_.emplace(resumes ? RunDirectory::resume(root)
                         : RunDirectory::create(root, existing_run(options_, options)));
  });
  if (!is_global_zero()) run_.emplace(RunDirectory::of_another_process(root));
  if (resumes) restore(loop, checkpoint_to_resume());
  on_process_zero(processes_.get(), [&] { begin_records(loop); });
}

void Trainer::begin_records(const FitLoop& loop) {
  std::error_code ignored;
  std::filesystem::remove(run_->paths().anomaly(), ignored);  // of a part of the run before
  run_->write_config(options_.config_toml.empty() ? run_config(options_) : options_.config_toml);
  metrics_log_.emplace(run_->paths().metrics(), loop.counters().step);
  for (const auto& logger : options_.loggers) {
    logger->open(run_->paths().root, loop.counters().step);
    open_loggers_.push_back(logger);
    if (!module().hyper_parameters().values.empty())
      logger->log_hyper_parameters(module().hyper_parameters());
  }
}

// An error beside the one that ends the run, if there is one.
void Trainer::close_loggers() {
  for (const auto& logger : std::exchange(open_loggers_, {})) {
    try {
      logger->close();
    } catch (const std::exception& error) {
      log_warning("trainer: a logger could not be closed: " + error_text(error));
    }
  }
}

void Trainer::restore(FitLoop& loop, Checkpoint checkpoint) {
  const auto layers = saved_layer_choices(checkpoint.trainer);
  if (layers && *layers != layer_choices())
    log_note(fmt::format("the run goes on with {}; before it had {}", layer_choices().to_string(),
                         layers->to_string()));
  for (const auto& callback : options_.callbacks) {
    if (callback->state_key().empty()) continue;
    const StateDict state = checkpoint.trainer.extract(callback_prefix(callback->state_key()));
    const bool is_new = state.values.empty() && state.tensors.empty();
    if (!is_new) callback->load_state_dict(state);
  }
  call(&Callback::on_load_checkpoint, checkpoint);
  for (const auto& [name, weight] : checkpoint.trainer.extract(kTrainedWeights).tensors) {
    checkpoint.model.lazy.erase(name);
    checkpoint.model.tensors[name] = weight;
  }
  loop.load_checkpoint(checkpoint);
}

void Trainer::check_sanity(EvaluationTask& validation) {
  const std::int64_t batches = options_.num_sanity_val_steps;
  if (batches == 0) return;
  const GeneratorScope generators(device(), rng_state(device()));
  const ScopedValue checking(sanity_checking_, true);
  call(&Callback::on_sanity_check_start);
  run_evaluation(validation, precision_,
                 {options_.limit_val_batches, batches < 0 ? std::nullopt : std::optional(batches)},
                 evaluation_share());
  call(&Callback::on_sanity_check_end);
}

bool Trainer::validates_now(const StepMetrics& metrics, std::int64_t batches_before,
                            bool epoch_ended, const TrainingTask& task) const {
  const EpochPart& interval = options_.val_check_interval;
  if (options_.val_at_end && loop_->finished()) return true;
  if (interval.count()) return metrics.step % *interval.count() == 0;
  if (metrics.epoch % options_.check_val_every_n_epoch != 0) return false;
  if (interval.is_all()) return epoch_ended;
  const std::optional<std::int64_t> length = task.batches_per_epoch();
  if (!length) interval.batches(length, "val_check_interval");  // throws
  const auto every = std::max<std::int64_t>(
      1, static_cast<std::int64_t>(static_cast<double>(*length) * interval.share()));
  const std::int64_t now = epoch_ended ? *length : task.batch_index();
  return now / every > batches_before / every;
}

void Trainer::train(TrainingTask& task, EvaluationTask* validation) {
  TrainingModuleBase& module = task.module();
  Hooks hooks(*this, module);
  // A resumed run may be in the middle of an epoch that it has begun before.
  bool epoch_is_new = loop_->counters().step == 0 || task.batch_index() == 0;
  bool batch_was_seen = device().is_cpu();  // where the hints do not depend on it
  while (!loop_->finished() && !stop_) {
    const std::int64_t epoch = loop_->counters().epochs + 1;
    if (std::exchange(epoch_is_new, false)) {
      call(&Callback::on_train_epoch_start, epoch);
      module.on_train_epoch_start(epoch);
    }
    const std::int64_t batches_before = task.batch_index();
    StepMetrics metrics = step(hooks);
    if (!std::exchange(batch_was_seen, true)) advise(task);

    epoch_is_new = loop_->counters().epochs >= epoch;
    if (epoch_is_new) end_epoch(module, metrics);
    if (validation != nullptr && validates_now(metrics, batches_before, epoch_is_new, task))
      validate_and_report(*validation);
    call(&Callback::on_step_end, metrics);
    if (epoch_is_new) call(&Callback::on_epoch_end, epoch);
    agree_on_stop();
    stop_if_signalled();
    write_checkpoints();
  }
}

void Trainer::end_epoch(TrainingModuleBase& module, StepMetrics& last) {
  module.on_train_epoch_end(last.epoch);
  if (processes_) module.logged().add_up(*processes_);
  std::map<std::string, double> values = module.logged().take();
  if (!values.empty()) log_values(last.step, values);
  last.logged.merge(values);
}

void Trainer::remember(const std::map<std::string, double>& values) {
  for (const auto& [name, value] : values) logged_metrics_[name] = value;
}

void Trainer::log_values(std::int64_t step, const std::map<std::string, double>& values) {
  remember(values);
  if (metrics_log_) metrics_log_->append_values(step, values);
  if (values.empty()) return;
  for (const auto& logger : open_loggers_) logger->log_metrics(step, values);
}

// What stops one process stops all of them after the same step.
void Trainer::agree_on_stop() {
  signalled_ = options_.save_on_signal && run_ && interrupted();
  if (!processes_) return;
  const double signal = signalled_ ? interrupting_signal().value_or(SIGTERM) : 0;
  for (const auto& one : all_gather_numbers(*processes_, {stop_ ? 1.0 : 0.0, signal})) {
    stop_ = stop_ || one[0] != 0.0;
    if (one[1] == 0.0) continue;
    signalled_ = true;
    stop_signal_ = static_cast<int>(one[1]);
  }
}

void Trainer::stop_if_signalled() {
  if (!signalled_ || loop_->finished()) return;
  if (!stop_signal_) stop_signal_ = interrupting_signal();
  stop();
  // A program with a configuration of its own says it in its own words.
  if (options_.config_toml.empty() && is_global_zero())
    log_note(fmt::format(
        "stopped by {} after step {}, with a checkpoint in '{}'; fit() with "
        "{{.resume = true}} goes on",
        sigabbrev_np(*stop_signal_), loop_->counters().step, run_->paths().root.string()));
}

void Trainer::tell_of(const std::exception& error) {
  save_requests_.clear();  // of a step that was not finished
  call(&Callback::on_exception, error);
  module().on_exception(error);
  if (processes_) {  // who knows what the others do: they are told, and nothing more
    if (dynamic_cast<const ProcessGroupError*>(&error) == nullptr)
      processes_->report_error(error_text(error));
    return;
  }
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
  call(&Callback::on_validation_start);
  task.module().on_validation_start();
  const std::map<std::string, double> values =
      run_evaluation(task, precision_, {options_.limit_val_batches}, evaluation_share());
  log_values(loop_->counters().step, values);
  loop_->observe_validation(values);
  call(&Callback::on_validation_end, values);
  task.module().on_validation_end();
}

std::map<std::string, double> Trainer::evaluate(EvaluationTask& task, EvaluationKind kind,
                                                const EvaluationOptions& options) {
  const bool logs = kind != EvaluationKind::kPredict;
  if (loop_ == nullptr && logs) logged_metrics_.clear();
  if (loop_ == nullptr) prepare(task.module().network());
  if (!options.ckpt_path.empty()) load_into(task.module(), options.ckpt_path);
  const ScopedValue evaluated(module_, &task.module());
  if (kind == EvaluationKind::kValidation) {
    auto values =
        run_evaluation(task, precision_, {options_.limit_val_batches}, evaluation_share());
    remember(values);
    return values;
  }
  if (kind == EvaluationKind::kTest) {
    call(&Callback::on_test_start);
    auto values =
        run_evaluation(task, precision_, {options_.limit_test_batches}, evaluation_share());
    remember(values);
    call(&Callback::on_test_end, values);
    return values;
  }
  call(&Callback::on_predict_start);
  auto values = run_evaluation(task, precision_, {options_.limit_predict_batches},
                               {.weights = evaluation_share().weights});
  call(&Callback::on_predict_end);
  return values;
}

std::filesystem::path Trainer::resolved_checkpoint(const std::string& where) const {
  if (where != "best" && where != "last") return find_saved_model(where);
  if (options_.default_root_dir.empty())
    throw UserError(fmt::format(
        "trainer: expected default_root_dir to say of which run the {} checkpoint is wanted, got "
        "none; set it, or give the path of a checkpoint",
        where));
  const RunPaths run{options_.default_root_dir};
  if (where == "best" && !std::filesystem::exists(run.best()))
    throw UserError(fmt::format(
        "trainer: '{}' has no best checkpoint; train with a ModelCheckpoint that has a monitor, "
        "such as ModelCheckpointOptions{{.monitor = \"val_loss\"}}, or take \"last\"",
        run.root.string()));
  return find_saved_model(where == "best" ? run.best() : run.root);
}

SavedModel Trainer::load_into(TrainingModuleBase& module, const std::string& where) {
  SavedModel saved = load_saved_model(resolved_checkpoint(where));
  load_into(module, saved);
  return saved;
}

void Trainer::load_into(TrainingModuleBase& module, const SavedModel& saved) {
  if (loop_ == nullptr) prepare(module.network());
  note_other_layers(saved);
  load_weights(module.network(), saved);
}

void Trainer::save_checkpoint(const std::filesystem::path& folder, const KeepCheckpoints& keep) {
  HALFTONE_CHECK(loop_ != nullptr,
                 "[trainer] expected save_checkpoint() to be called from within fit()");
  const auto same = std::find_if(save_requests_.begin(), save_requests_.end(),
                                 [&](const SaveRequest& one) { return one.folder == folder; });
  if (same == save_requests_.end())
    save_requests_.push_back({folder, keep});
  else
    same->keep = either(same->keep, keep);
}

void Trainer::write_checkpoints() {
  if (save_requests_.empty()) return;
  const auto weights = loop_->sharded_weights();
  if (weights) weights->complete(/*root=*/0);  // it writes them
  Checkpoint checkpoint = loop_->checkpoint();
  save_layer_choices(layer_choices(), checkpoint.trainer);
  for (const auto& callback : options_.callbacks)
    if (!callback->state_key().empty())
      checkpoint.trainer.insert(callback_prefix(callback->state_key()), callback->state_dict());
  call(&Callback::on_save_checkpoint, checkpoint);
  // A step that a checkpoint counts must have its line, also when the power goes.
  if (metrics_log_) metrics_log_->sync();
  for (const auto& logger : open_loggers_) logger->sync();
  const std::vector<SaveRequest> requests = std::exchange(save_requests_, {});
  for (const SaveRequest& request : requests) {
    const std::filesystem::path& folder = request.folder;
    if (shards_states())
      save_checkpoint_together(*processes_, folder, checkpoint, request.keep);
    else
      on_process_zero(processes_.get(),
                      [&] { halftone::save_checkpoint(folder, checkpoint, request.keep); });
    if (run_ && folder == run_->paths().root) passed_.clear();
  }
  if (weights) weights->drop_unused();
  for (const SaveRequest& request : requests) call(&Callback::on_checkpoint_saved, request.folder);
}

}  // namespace halftone
