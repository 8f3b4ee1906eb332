// SPDX-License-Identifier: Apache-2.0
#include "halftone/pretrain/run_weights.h"

#include <fmt/format.h>

#include <system_error>

#include "halftone/core/error.h"
#include "halftone/run/run_directory.h"
#include "halftone/train/model_checkpoint.h"

namespace halftone {
namespace fs = std::filesystem;
namespace {

bool is_run(const fs::path& folder) {
  std::error_code error;
  return fs::exists(RunPaths{folder}.config(), error) &&
         fs::exists(RunPaths{folder}.checkpoints(), error);
}

void check_has_best(const fs::path& run) {
  if (checkpoint_steps(RunPaths{run}.best()).empty())
    throw UserError(fmt::format(
        "'{}' has no best checkpoint: a run has one once a validation has given a finite loss "
        "(--val-split, --val-data); name the run for its newest checkpoint",
        run.string()));
}

// Without a separator at the end, so that parents are those of the folder.
fs::path whole_path(const fs::path& where) {
  const fs::path path = fs::absolute(where).lexically_normal();
  return path.has_filename() ? path : path.parent_path();
}

}  // namespace

Checkpoint RunWeights::load() const {
  return checkpoint.empty() ? load_latest_model(run) : load_model_of(checkpoint);
}

std::optional<RunWeights> find_run_weights(const fs::path& where) {
  if (where.empty()) return std::nullopt;
  if (is_run(where)) return RunWeights{.run = where, .checkpoint = {}};
  const fs::path folder = whole_path(where);
  const fs::path above = folder.parent_path();
  if (folder == RunPaths{above}.best() && is_run(above)) check_has_best(above);
  if (const auto best = best_checkpoint(folder))
    return RunWeights{.run = above, .checkpoint = *best};
  if (!is_checkpoint(folder)) return std::nullopt;
  const fs::path root = above.parent_path();
  for (const fs::path& run : {root, root.parent_path()})
    if (is_run(run) && (run == root || root == RunPaths{run}.best()))
      return RunWeights{.run = run, .checkpoint = folder};
  return std::nullopt;
}

}  // namespace halftone
