// SPDX-License-Identifier: Apache-2.0
#include "halftone/train/trainer_options.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include "halftone/core/error.h"
#include "halftone/system/terminal.h"
#include "halftone/train/batch_weight.h"
#include "halftone/train/early_stopping.h"
#include "halftone/train/learning_rate_monitor.h"
#include "halftone/train/model_checkpoint.h"
#include "halftone/train/progress_bar.h"
#include "halftone/train/run_report.h"
#include "halftone/train/saved_model.h"

namespace halftone {
namespace {

void expect(bool condition, const std::string& expectation) {
  if (!condition) throw UserError("trainer: expected " + expectation);
}

template <class Value>
void check_limit(const char* name, const std::optional<Value>& value) {
  expect(!value || *value > 0, fmt::format("{} to be positive, got {}; leave it out for no limit",
                                           name, value.value_or(Value{})));
}

void check_batches(const char* name, const EpochPart& limit) {
  const double share = limit.share();
  expect(limit.count().value_or(1) >= 0 && share >= 0.0 && share <= 1.0,
         fmt::format("{} to be a number of batches or a share from 0.0 to 1.0, got {}", name,
                     limit.count() ? static_cast<double>(*limit.count()) : share));
}

void check_validation(const TrainerOptions& options) {
  const EpochPart& interval = options.val_check_interval;
  expect(interval.count().value_or(1) > 0 && interval.share() > 0.0 && interval.share() <= 1.0,
         fmt::format("val_check_interval to be a number of steps from 1 on or a share of an epoch "
                     "above 0.0 and up to 1.0, got {}",
                     interval.count() ? static_cast<double>(*interval.count()) : interval.share()));
  expect(options.check_val_every_n_epoch > 0,
         fmt::format("check_val_every_n_epoch >= 1, got {}", options.check_val_every_n_epoch));
  if (interval.count() && options.check_val_every_n_epoch > 1)
    throw UserError(
        "trainer: check_val_every_n_epoch goes with validation by epochs, but val_check_interval "
        "is a "
        "number of steps over the run; give it as a share of an epoch, such as 1.0, or leave one "
        "of "
        "them out");
  expect(options.num_sanity_val_steps >= -1,
         fmt::format("num_sanity_val_steps >= -1 (-1: all batches), got {}",
                     options.num_sanity_val_steps));
}

void check(const TrainerOptions& options) {
  check_limit("max_epochs", options.max_epochs);
  check_limit("max_steps", options.max_steps);
  check_limit("max_time", options.max_time);
  expect(options.accumulate_grad_batches >= 1,
         fmt::format("accumulate_grad_batches >= 1, got {}", options.accumulate_grad_batches));
  expect(options.gradient_clip_algorithm == "norm" || options.gradient_clip_algorithm == "value",
         fmt::format("gradient_clip_algorithm \"norm\" or \"value\", got \"{}\"",
                     options.gradient_clip_algorithm));
  expect(
      options.gradient_clip_val >= 0,
      fmt::format("gradient_clip_val >= 0 (0: no clipping), got {:g}", options.gradient_clip_val));
  expect(options.log_every_n_steps >= 1,
         fmt::format("log_every_n_steps >= 1, got {}", options.log_every_n_steps));
  expect(options.fast_dev_run >= 0,
         fmt::format("fast_dev_run >= 0 (0: off), got {}", options.fast_dev_run));
  expect(options.loggers.empty() || !options.default_root_dir.empty() || options.fast_dev_run > 0,
         "default_root_dir to say where `loggers` write, got none");
  expect(options.devices >= 0,
         fmt::format("devices >= 0 (0: all that were started), got {}", options.devices));
  expect(options.gradient_sum == "sequential" || options.gradient_sum == "tree",
         fmt::format("gradient_sum \"sequential\" or \"tree\", got \"{}\"", options.gradient_sum));
  expect(options.reduce_dtype == "fp32" || options.reduce_dtype == "bf16",
         fmt::format("reduce_dtype \"fp32\" or \"bf16\", got \"{}\"", options.reduce_dtype));
  const std::vector<std::string>& shards = shard_names();
  expect(std::find(shards.begin(), shards.end(), options.shard) != shards.end(),
         fmt::format("shard to be one of {}, got \"{}\"", fmt::join(shards, ", "), options.shard));
  expect(options.shard != "parameters" || options.memory.recompute != "none",
         "shard parameters with blocks that are computed again in the backward pass, got recompute "
         "none; leave recompute out");
  check_validation(options);
  check_batches("limit_train_batches", options.limit_train_batches);
  check_batches("limit_val_batches", options.limit_val_batches);
  check_batches("limit_test_batches", options.limit_test_batches);
  check_batches("limit_predict_batches", options.limit_predict_batches);
  check_batches("overfit_batches", options.overfit_batches);
  parse_loss_average(options.loss_average);
}

std::string without_alias(const std::string& precision) {
  static const std::map<std::string, std::string> aliases = {
      {"16", "16-mixed"}, {"bf16", "bf16-mixed"}, {"32", "32-true"}};
  const auto found = aliases.find(precision);
  return found == aliases.end() ? precision : found->second;
}

template <class... Kinds>
void remove_callbacks(std::vector<std::shared_ptr<Callback>>& callbacks) {
  std::erase_if(callbacks, [](const std::shared_ptr<Callback>& callback) {
    return (... || (dynamic_cast<const Kinds*>(callback.get()) != nullptr));
  });
}

template <class Kind>
void add_unless_there(std::vector<std::shared_ptr<Callback>>& callbacks) {
  const auto is_kind = [](const auto& callback) {
    return dynamic_cast<const Kind*>(callback.get()) != nullptr;
  };
  if (std::none_of(callbacks.begin(), callbacks.end(), is_kind))
    callbacks.push_back(std::make_shared<Kind>());
}

void become_fast_dev_run(TrainerOptions& options) {
  const std::int64_t steps = options.fast_dev_run;
  options.max_steps = steps;
  options.max_epochs = 1;
  options.num_sanity_val_steps = 0;
  options.val_check_interval = 1.0;
  options.check_val_every_n_epoch = 1;
  options.limit_train_batches = steps * options.accumulate_grad_batches;
  options.limit_val_batches = options.limit_test_batches = options.limit_predict_batches = steps;
  options.default_root_dir.clear();
  options.loggers.clear();
  remove_callbacks<ModelCheckpoint, EarlyStopping, LearningRateMonitor, RunReport>(
      options.callbacks);
}

}  // namespace

const std::vector<std::string>& shard_names() {
  static const std::vector<std::string> names{"none", "optimizer", "gradients", "parameters"};
  return names;
}

TrainerOptions resolved_options(TrainerOptions options) {
  check(options);
  options.precision = without_alias(options.precision);
  if (options.accelerator == "gpu") options.accelerator = "cuda";
  if (options.shard == "parameters") options.memory.recompute = "blocks";
  if (!options.overfit_batches.is_none())
    options.limit_train_batches = options.limit_val_batches = options.overfit_batches;
  if (options.fast_dev_run > 0) become_fast_dev_run(options);
  if (!options.default_root_dir.empty()) {
    add_unless_there<ModelCheckpoint>(options.callbacks);
    add_unless_there<RunReport>(options.callbacks);
  }
  if (options.enable_progress_bar.value_or(stderr_is_terminal()))
    add_unless_there<ProgressBar>(options.callbacks);
  return options;
}

TrainerOptions options_of(const SavedModel& saved) {
  TrainerOptions options;
  if (!saved.precision.empty()) options.precision = saved.precision;
  if (saved.layers) {
    options.keep_fp32 = saved.layers->keep_fp32;
    options.layer_precision = saved.layers->layer_precision;
  }
  return options;
}

}  // namespace halftone
