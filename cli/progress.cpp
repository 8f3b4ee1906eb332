// SPDX-License-Identifier: Apache-2.0
#include "cli/progress.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>

#include "halftone/core/text.h"

namespace halftone::cli {
namespace {

std::size_t terminal_width() {
  winsize size{};
  return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 20 ? size.ws_col : 100;
}

/// A bar of `cells` characters with eighths, for a share of 0..1.
std::string bar(double share, int cells) {
  constexpr std::array<const char*, 8> kEighths = {" ", "▏", "▎", "▍", "▌", "▋", "▊", "▉"};
  const int eighths = static_cast<int>(std::lround(std::clamp(share, 0.0, 1.0) * cells * 8));
  std::string text;
  for (int cell = 0; cell < cells; ++cell) {
    const int filled = std::clamp(eighths - cell * 8, 0, 8);
    text += filled == 8 ? "█" : kEighths[static_cast<std::size_t>(filled)];
  }
  return text;
}

std::string short_count(double value) {
  if (value >= 1e9) return fmt::format("{:.1f}B", value / 1e9);
  if (value >= 1e6) return fmt::format("{:.1f}M", value / 1e6);
  if (value >= 1e4) return fmt::format("{:.1f}k", value / 1e3);
  return fmt::format("{:.0f}", value);
}

std::string overflow_names(const std::vector<std::string>& names) {
  if (names.empty()) return "";
  const std::string first = names.front();
  return names.size() == 1 ? first : fmt::format("{} and {} more", first, names.size() - 1);
}

}  // namespace

TrainingProgress::TrainingProgress(std::int64_t log_every)
    : log_every_(log_every), terminal_(isatty(STDERR_FILENO) == 1) {}

void TrainingProgress::preparation(const std::string& stage, double share) {
  if (terminal_) {
    redraw(fmt::format("{} ▕{}▏ {:3.0f}%", stage, bar(share, 20), 100 * share));
    if (share >= 1) finish();
  } else if (stage != stage_) {
    print(stage);
  }
  stage_ = stage;
}

void TrainingProgress::start(const PretrainPlan& plan) {
  total_steps_ = plan.total_steps;
  print(fmt::format("model      {} parameters, vocabulary {}",
                    short_count(static_cast<double>(plan.parameters)), plan.vocab_size));
  print(fmt::format("data       {} tokens, {} batches an epoch",
                    short_count(static_cast<double>(plan.training_tokens)),
                    plan.batches_per_epoch));
  print(fmt::format(
      "precision  {} on {}{}{}", plan.precision, plan.device,
      plan.device == "cpu" ? fmt::format(", {} threads", plan.threads) : "",
      plan.matmul_paths.empty() ? "" : fmt::format(" (matmuls: {})", plan.matmul_paths)));
  print(
      fmt::format("run        {}{}", plan.run.string(),
                  plan.first_step > 1 ? fmt::format(", resumed at step {}", plan.first_step) : ""));
}

void TrainingProgress::step(const StepMetrics& metrics, double progress) {
  const bool first = first_progress_ < 0;
  if (first) first_progress_ = progress;  // the share after this step: its time does not count
  if (!first) seconds_ += metrics.step_ms / 1e3;
  const double weight = first ? 1.0 : 0.1;
  if (std::isfinite(metrics.loss))
    smoothed_loss_ += (first ? 1.0 : weight) * (metrics.loss - (first ? 0.0 : smoothed_loss_));
  tokens_per_s_ += weight * (metrics.tokens_per_s - (first ? 0.0 : tokens_per_s_));
  const std::string line = status(metrics, progress);
  if (metrics.skipped)
    print(fmt::format("step {}: overflow in {}; update skipped{}", metrics.step,
                      overflow_names(metrics.overflow),
                      metrics.scale ? fmt::format(", loss scale was {:g}", *metrics.scale) : ""));
  if (terminal_) {
    redraw(line);
  } else if (metrics.step == 1 || metrics.step % log_every_ == 0 || progress >= 1) {
    print(line);
  }
}

std::string TrainingProgress::status(const StepMetrics& metrics, double progress) const {
  const double done = progress - first_progress_;
  const std::string left =
      done > 0 ? format_seconds(seconds_ * (1 - progress) / done) + " left" : "";
  const std::string steps = total_steps_ ? fmt::format("{}/{}", metrics.step, *total_steps_)
                                         : fmt::format("{}", metrics.step);
  std::string line = fmt::format("step {} ", steps);
  if (terminal_) line += fmt::format("▕{}▏ ", bar(progress, 20));
  line +=
      fmt::format("{:3.0f}%  loss {:.3f}  lr {:.2e}", 100 * progress, smoothed_loss_, metrics.lr);
  if (metrics.scale) line += fmt::format("  scale {:g}", *metrics.scale);
  line += fmt::format("  {} tok/s  {}", short_count(tokens_per_s_), left);
  return line;
}

void TrainingProgress::checkpoint(const std::string& run, std::int64_t step) {
  if (!terminal_) print(fmt::format("saved step {} in {}", step, run));
}

void TrainingProgress::finish() {
  if (drawn_) std::fputc('\n', stderr);
  drawn_ = false;
}

void TrainingProgress::redraw(const std::string& line) {
  // Characters beyond ASCII take three bytes and one column here.
  const auto wide = static_cast<std::size_t>(
      std::count_if(line.begin(), line.end(), [](char c) { return (c & 0xC0) == 0x80; }));
  const std::size_t columns = line.size() - wide;
  fmt::print(stderr, "\r\x1b[K{}",
             columns < terminal_width() ? line : line.substr(0, terminal_width() - 1));
  std::fflush(stderr);
  drawn_ = true;
}

void TrainingProgress::print(const std::string& line) {
  if (drawn_) fmt::print(stderr, "\r\x1b[K");
  drawn_ = false;
  fmt::print(stderr, "{}\n", line);
}

}  // namespace halftone::cli
