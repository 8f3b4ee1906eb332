// SPDX-License-Identifier: Apache-2.0
#include "halftone/train/model_checkpoint.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "halftone/core/error.h"
#include "halftone/core/log.h"
#include "halftone/train/trainer.h"

namespace halftone {
namespace {

constexpr const char* kTop = "top.";  // and the step
constexpr const char* kMaximize = "maximize";

}  // namespace

ModelCheckpoint::ModelCheckpoint(ModelCheckpointOptions options)
    : options_(std::move(options)), looked_at_(options_.monitor, options_.mode) {
  if (options_.save_top_k < -1)
    throw UserError(fmt::format("model_checkpoint: expected save_top_k >= -1 (-1: all), got {}",
                                options_.save_top_k));
}

void ModelCheckpoint::setup(const Trainer& trainer) {
  top_.clear();
  looked_at_ = Monitor(options_.monitor, options_.mode);
  if (trainer.options().default_root_dir.empty())
    throw UserError(
        "model_checkpoint: expected a folder to save into, got none; set the Trainer's "
        "default_root_dir");
  if (!options_.monitor.empty() && !trainer.validates())
    throw UserError(missing_validation("model_checkpoint", options_.monitor));
}

// What is known of the best checkpoints holds for those that stand in this run.
void ModelCheckpoint::forget_missing(const Trainer& trainer) {
  if (trainer.run_directory() == nullptr) return;
  const std::vector<std::int64_t> there = checkpoint_steps(trainer.run_directory()->paths().best());
  // An older run knows the best value, not its step.
  if (const auto older = top_.extract(-1); older && there.size() == 1)
    top_[there.front()] = older.mapped();
  std::erase_if(top_, [&](const auto& one) {
    return std::find(there.begin(), there.end(), one.first) == there.end();
  });
}

void ModelCheckpoint::on_fit_start(Trainer& trainer) {
  forget_missing(trainer);
  saved_step_ = trainer.loop().counters().step;
  saved_seconds_ = trainer.loop().counters().seconds;
}

void ModelCheckpoint::save(Trainer& trainer) {
  const std::int64_t step = trainer.loop().counters().step;
  if (std::exchange(saved_step_, step) == step) return;
  saved_seconds_ = trainer.loop().counters().seconds;
  trainer.save_checkpoint(trainer.run_directory()->paths().root, {.last = options_.keep_last});
}

void ModelCheckpoint::on_step_end(Trainer& trainer, const StepMetrics& metrics) {
  const bool by_steps = options_.every_n_steps > 0 && metrics.step % options_.every_n_steps == 0;
  const double seconds = trainer.loop().counters().seconds - saved_seconds_;
  const bool by_time =
      options_.train_time_interval > 0.0 && seconds >= options_.train_time_interval;
  if (by_steps || by_time) save(trainer);
}

void ModelCheckpoint::on_epoch_end(Trainer& trainer, std::int64_t epoch) {
  if (options_.every_n_epochs > 0 && epoch % options_.every_n_epochs == 0) save(trainer);
}

void ModelCheckpoint::on_validation_end(Trainer& trainer,
                                        const std::map<std::string, double>& values) {
  if (options_.monitor.empty() || trainer.sanity_checking()) return;
  const double value = looked_at_.value_in(values);
  if (std::isfinite(value))
    keep_if_best(trainer, value);
  else
    log_warning_once(
        fmt::format("model_checkpoint: {} is {} in validation, which is never the best",
                    options_.monitor, value));
}

bool ModelCheckpoint::is_better(double value, double other) const {
  return options_.mode == MonitorMode::kMin ? value < other : value > other;
}

std::optional<ModelCheckpoint::Best> ModelCheckpoint::best() const {
  std::optional<Best> found;
  for (const auto& [step, value] : top_)
    if (!found || is_better(value, found->value)) found = Best{step, value};
  return found;
}

// A value that is as good as the worst that is kept comes too late. A resumed run may keep fewer.
void ModelCheckpoint::keep_if_best(Trainer& trainer, double value) {
  const std::int64_t most = options_.save_top_k;
  if (most == 0) return;
  std::vector<std::pair<std::int64_t, double>> best(top_.begin(), top_.end());
  std::stable_sort(best.begin(), best.end(),
                   [this](const auto& a, const auto& b) { return is_better(a.second, b.second); });
  if (most > 0 && std::ssize(best) >= most) {
    best.resize(static_cast<std::size_t>(most));
    if (!is_better(value, best.back().second)) return;
    best.pop_back();
  }
  std::vector<std::int64_t> others;
  for (const auto& [step, kept] : best) others.push_back(step);
  top_ = std::map<std::int64_t, double>(best.begin(), best.end());
  top_[trainer.loop().counters().step] = value;
  trainer.save_checkpoint(trainer.run_directory()->paths().best(), {.steps = std::move(others)});
}

StateDict ModelCheckpoint::state_dict() const {
  StateDict state = looked_at_.state_dict();
  state.values[kMaximize] = options_.mode == MonitorMode::kMax;
  for (const auto& [step, value] : top_) state.values[kTop + std::to_string(step)] = value;
  return state;
}

void ModelCheckpoint::load_state_dict(const StateDict& state) {
  looked_at_.load_state_dict(state);
  top_.clear();
  for (const auto& [step, value] : state.extract(kTop).values)
    top_[std::stoll(step)] = std::get<double>(value);
  if (top_.empty() && looked_at_.best()) top_[-1] = *looked_at_.best();
}

std::optional<std::filesystem::path> best_checkpoint(const std::filesystem::path& where) {
  const std::filesystem::path folder = where.has_filename() ? where : where.parent_path();
  const RunPaths run{folder.parent_path()};
  if (folder != run.best() || !std::filesystem::exists(run.config())) return std::nullopt;
  const StateDict state =
      load_latest_model(folder).trainer.extract(callback_prefix(ModelCheckpoint::kStateKey));
  const StateDict top = state.extract(kTop);
  if (top.values.empty()) return std::nullopt;
  const double sign = state.get<bool>(kMaximize) ? 1.0 : -1.0;
  std::map<std::int64_t, double> values;
  for (const auto& [step, value] : top.values)
    values[std::stoll(step)] = sign * std::get<double>(value);
  const auto best = std::max_element(  // the first of those that are as good
      values.begin(), values.end(),
      [](const auto& a, const auto& b) { return a.second < b.second; });
  return checkpoint_folder(folder, best->first);
}

void ModelCheckpoint::on_train_end(Trainer& trainer) { save(trainer); }

void ModelCheckpoint::on_checkpoint_saved(Trainer& trainer, const std::filesystem::path& folder) {
  if (options_.on_saved && folder == trainer.run_directory()->paths().root)
    options_.on_saved(folder, trainer.loop().counters().step);
}

void ModelCheckpoint::on_fit_end(Trainer& trainer) {
  if (!options_.monitor.empty() && trainer.loop().finished() && !looked_at_.has_looked())
    log_warning(unused_monitor("model_checkpoint", options_.monitor));
}

}  // namespace halftone
