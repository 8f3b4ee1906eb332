// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <system_error>
#include <utility>

#include "halftone/core/log.h"
#include "halftone/run/checkpoint.h"
#include "halftone/run/checkpoint_retention_impl.h"
#include "halftone/run/verified_files_impl.h"

namespace halftone {
namespace fs = std::filesystem;
namespace {

bool holds(const std::vector<std::int64_t>& steps, std::int64_t step) {
  return std::find(steps.begin(), steps.end(), step) != steps.end();
}

void remove_checkpoint(const fs::path& folder) {
  std::error_code error;
  for (const fs::directory_entry& file : fs::directory_iterator(folder, error))
    forget_verified(file.path());
  // The rename takes it out of the set at once: a kill in the middle leaves only a leftover.
  const fs::path doomed = folder.string() + ".tmp-0";
  fs::rename(folder, doomed, error);
  if (!error) fs::remove_all(doomed, error);
  if (error)
    log_warning(fmt::format("could not remove the old checkpoint '{}': {}", folder.string(),
                            error.message()));
}

}  // namespace

fs::path checkpoint_folder(const fs::path& run_dir, std::int64_t step) {
  return run_dir / "checkpoints" / fmt::format("step-{:08}", step);
}

CheckpointRetention::CheckpointRetention(fs::path run_dir, std::int64_t step, KeepCheckpoints keep,
                                         std::function<bool(const fs::path& folder)> is_whole)
    : run_dir_(std::move(run_dir)),
      step_(step),
      keep_(std::move(keep)),
      is_whole_(std::move(is_whole)) {}

bool CheckpointRetention::is_wanted(std::int64_t step) const {
  return !keep_.steps || holds(*keep_.steps, step);
}

// How many may stay beside the new one.
std::size_t CheckpointRetention::most_others() const {
  if (keep_.steps) return keep_.steps->size();
  return static_cast<std::size_t>(std::max<std::int64_t>(0, keep_.last - 1));
}

// The newest first; those of later steps come after all others. One of the same step, which the new
// one will replace, is not among them.
std::vector<std::int64_t> CheckpointRetention::others() const {
  std::vector<std::int64_t> steps = checkpoint_steps(run_dir_);
  std::erase(steps, step_);
  const auto later = std::upper_bound(steps.begin(), steps.end(), step_);
  std::rotate(steps.begin(), later, steps.end());
  std::reverse(steps.begin(), steps.end());
  return steps;
}

void CheckpointRetention::make_room() {
  std::vector<std::int64_t> steps = others();
  const std::size_t room = std::max<std::size_t>(1, most_others());
  const bool all_wanted = std::all_of(steps.begin(), steps.end(),
                                      [this](std::int64_t step) { return is_wanted(step); });
  if (steps.size() <= room && all_wanted) {  // nothing has to go, so nothing has to be read
    kept_ = steps;
    return;
  }
  std::stable_partition(steps.begin(), steps.end(),
                        [this](std::int64_t step) { return is_wanted(step); });
  for (const std::int64_t step : steps)
    if (kept_.size() < room && (kept_.empty() || is_wanted(step)) &&
        is_whole_(checkpoint_folder(run_dir_, step)))
      kept_.push_back(step);
  if (kept_.empty()) return;
  for (const std::int64_t step : steps)
    if (!holds(kept_, step)) remove_checkpoint(checkpoint_folder(run_dir_, step));
}

void CheckpointRetention::prune() const {
  std::size_t stay = 0;
  for (const std::int64_t step : others())
    if (step > step_ || !holds(kept_, step) || !is_wanted(step) || ++stay > most_others())
      remove_checkpoint(checkpoint_folder(run_dir_, step));
}

}  // namespace halftone
