// SPDX-License-Identifier: Apache-2.0
#include "halftone/train/progress_bar.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "halftone/core/text.h"
#include "halftone/train/trainer.h"

namespace halftone {
namespace {

std::string overflow_names(const std::vector<std::string>& names) {
  if (names.empty()) return "";
  const std::string first = names.front();
  return names.size() == 1 ? first : fmt::format("{} and {} more", first, names.size() - 1);
}

/// Weight of the newest of `count` values: the mean of the first ten, then a moving one, so that a
/// short run's values do not lag behind.
double newest_weight(std::int64_t count) { return std::max(0.1, 1.0 / static_cast<double>(count)); }

}  // namespace

ProgressBar::ProgressBar(std::int64_t log_every)
    : log_every_(log_every), terminal_(stderr_is_terminal()) {}

void ProgressBar::on_fit_start(Trainer& trainer) {
  shown_ = trainer.is_global_zero();
  total_steps_ = trainer.loop().length().total_steps();
}

void ProgressBar::on_step_end(Trainer& trainer, const StepMetrics& metrics) {
  if (shown_) step(metrics, trainer.loop().progress());
}

void ProgressBar::on_validation_end(Trainer& trainer, const std::map<std::string, double>& values) {
  if (!shown_) return;
  std::string text = fmt::format("step {}", trainer.loop().counters().step);
  for (const auto& [name, value] : values) text += fmt::format("  {} {:.4f}", name, value);
  line_.print(text);
}

void ProgressBar::on_fit_end(Trainer& /*trainer*/) { finish(); }

void ProgressBar::on_exception(Trainer& /*trainer*/, const std::exception& /*error*/) { finish(); }

void ProgressBar::step(const StepMetrics& metrics, double progress) {
  const bool first = first_progress_ < 0;
  if (first) first_progress_ = progress;  // the share after this step: its time does not count
  if (!first) seconds_ += metrics.step_ms / 1e3;
  note_loss(metrics.loss);
  const double weight = newest_weight(++steps_);
  tokens_per_s_ += weight * (metrics.tokens_per_s - tokens_per_s_);
  steps_per_s_ += weight * (1e3 / metrics.step_ms - steps_per_s_);
  if (metrics.skipped)
    line_.print(fmt::format(
        "step {}: overflow in {}; update skipped{}", metrics.step, overflow_names(metrics.overflow),
        metrics.scale ? fmt::format(", loss scale was {:g}", *metrics.scale) : ""));
  if (terminal_) {
    if (first || progress >= 1 || pace_.due()) line_.redraw(status(metrics, progress));
  } else if (metrics.step == 1 || metrics.step % log_every_ == 0 || progress >= 1) {
    line_.print(status(metrics, progress));
  }
}

// One inf would stay in the mean for good; a run whose losses are all so has none.
void ProgressBar::note_loss(double loss) {
  if (!std::isfinite(loss)) return;
  if (++finite_losses_ == 1) smoothed_loss_ = loss;
  smoothed_loss_ += newest_weight(finite_losses_) * (loss - smoothed_loss_);
}

std::string ProgressBar::status(const StepMetrics& metrics, double progress) const {
  const double done = progress - first_progress_;
  const std::string left = done > 0 && progress < 1
                               ? "  " + format_seconds(seconds_ * (1 - progress) / done) + " left"
                               : "";
  const std::string steps = total_steps_ ? fmt::format("{}/{}", metrics.step, *total_steps_)
                                         : fmt::format("{}", metrics.step);
  const std::string before = fmt::format("step {} ", steps);
  std::string lr = fmt::format("  lr {:.2e}", metrics.lr);
  std::string scale = metrics.scale ? fmt::format("  scale {:g}", *metrics.scale) : "";
  const std::string loss = fmt::format("{:3.0f}%  loss {:.3f}", 100 * progress, smoothed_loss_);
  const std::string speed =
      (metrics.tokens_total > 0 ? fmt::format("  {} tok/s", short_count(tokens_per_s_))
                                : fmt::format("  {} steps/s", short_count(steps_per_s_))) +
      left;
  // Columns for the cells of the bar, less its ends and a space, and the one at the edge.
  const auto room = [&] {
    return static_cast<std::int64_t>(terminal_width()) - 4 -
           static_cast<std::int64_t>(before.size() + loss.size() + lr.size() + scale.size() +
                                     speed.size());
  };
  constexpr std::int64_t kShortestBar = 8;
  for (std::string* part : {&lr, &scale})  // what gives way in a narrow terminal
    if (terminal_ && room() < kShortestBar) part->clear();
  const auto cells = static_cast<int>(std::clamp<std::int64_t>(room(), kShortestBar, 20));
  return before + (terminal_ ? fmt::format("▕{}▏ ", progress_bar(progress, cells)) : "") + loss +
         lr + scale + speed;
}

}  // namespace halftone
