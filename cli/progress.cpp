// SPDX-License-Identifier: Apache-2.0
#include "cli/progress.h"

#include <fmt/format.h>

#include <utility>

#include "cli/program.h"
#include "halftone/core/text.h"
#include "halftone/train/trainer.h"

namespace halftone::cli {
namespace {

std::string share_line(const std::string& what, double share) {
  return fmt::format("{} ▕{}▏ {:3.0f}%", what, progress_bar(share, 20), 100 * share);
}

}  // namespace

ShareProgress::ShareProgress(std::string what)
    : what_(std::move(what)), terminal_(stderr_is_terminal()) {}

void ShareProgress::show(double share) {
  if (terminal_ && pace_.due()) line_.redraw(share_line(what_, share));
}

StageProgress::StageProgress() : terminal_(stderr_is_terminal()) {}

void StageProgress::show(const std::string& stage, double share) {
  if (terminal_ && (stage != stage_ || pace_.due())) line_.redraw(share_line(stage, share));
  stage_ = stage;
}

void TrainingProgress::preparation(const std::string& stage, double share) {
  if (on_terminal()) {
    if (share >= 1 || stage != stage_ || pace_.due()) line().redraw(share_line(stage, share));
    if (share >= 1) finish();
  } else if (stage != stage_) {
    line().print(stage);
  }
  stage_ = stage;
}

void TrainingProgress::start(const RunSummary& plan) {
  const std::string trained =
      plan.trained_parameters < plan.parameters
          ? fmt::format(", of which {} are trained",
                        short_count(static_cast<double>(plan.trained_parameters)))
          : "";
  line().print(fmt::format("model      {} parameters{}, vocabulary {}",
                           short_count(static_cast<double>(plan.parameters)), trained,
                           plan.vocab_size));
  line().print(fmt::format(
      "data       {} tokens, {} an epoch", short_count(static_cast<double>(plan.training_tokens)),
      counted(static_cast<std::uint64_t>(plan.batches_per_epoch), "batch", "batches")));
  if (plan.validation_tokens > 0)
    line().print(fmt::format(
        "validation {} tokens, {}the last step",
        short_count(static_cast<double>(plan.validation_tokens)),
        plan.validation_every
            ? fmt::format("every {} and at ", *plan.validation_every == 1
                                                  ? "step"
                                                  : fmt::format("{} steps", *plan.validation_every))
            : "at "));
  line().print(fmt::format(
      "precision  {} on {}{}{}", plan.precision, plan.device,
      plan.device == "cpu" ? fmt::format(", {} threads", plan.threads) : "",
      plan.matmul_paths.empty() ? "" : fmt::format(" (matmuls: {})", plan.matmul_paths)));
  line().print(
      fmt::format("run        {}{}", plan.run.string(),
                  plan.first_step > 1 ? fmt::format(", resumed at step {}", plan.first_step) : ""));
}

void TrainingProgress::on_checkpoint_saved(Trainer& trainer, const std::filesystem::path& folder) {
  if (!on_terminal())
    line().print(
        fmt::format("saved step {} in {}", trainer.loop().counters().step, folder.string()));
}

}  // namespace halftone::cli
