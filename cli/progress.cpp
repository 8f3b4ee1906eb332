// SPDX-License-Identifier: Apache-2.0
#include "cli/progress.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>

#include "cli/program.h"
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

/// The first `count` columns; the characters drawn here are one column wide.
std::string first_columns(const std::string& line, std::size_t count) {
  std::size_t end = 0;
  for (std::size_t seen = 0; end < line.size(); ++end)
    if ((line[end] & 0xC0) != 0x80 && seen++ == count) break;
  return line.substr(0, end);
}

void draw_line(const std::string& line) {
  say(fmt::format("\r\x1b[K{}", first_columns(line, terminal_width() - 1)));
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

bool Pace::due() {
  constexpr auto kInterval = std::chrono::milliseconds(50);
  const auto now = std::chrono::steady_clock::now();
  if (now < next_) return false;
  next_ = now + kInterval;
  return true;
}

ShareProgress::ShareProgress(std::string what)
    : what_(std::move(what)), terminal_(isatty(STDERR_FILENO) == 1) {}

void ShareProgress::show(double share) {
  if (!terminal_ || !pace_.due()) return;
  draw_line(fmt::format("{} ▕{}▏ {:3.0f}%", what_, bar(share, 20), 100 * share));
  drawn_ = true;
}

void ShareProgress::clear() {
  if (drawn_) say("\r\x1b[K");
  drawn_ = false;
}

TrainingProgress::TrainingProgress(std::int64_t log_every)
    : log_every_(log_every), terminal_(isatty(STDERR_FILENO) == 1) {}

void TrainingProgress::preparation(const std::string& stage, double share) {
  if (terminal_) {
    if (share >= 1 || stage != stage_ || pace_.due())
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
  print(fmt::format(
      "data       {} tokens, {} an epoch", short_count(static_cast<double>(plan.training_tokens)),
      counted(static_cast<std::uint64_t>(plan.batches_per_epoch), "batch", "batches")));
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
  // The mean of the first ten steps, then a moving one: a short run's loss does not lag behind.
  const double weight = std::max(0.1, 1.0 / static_cast<double>(++steps_));
  if (std::isfinite(metrics.loss)) smoothed_loss_ += weight * (metrics.loss - smoothed_loss_);
  tokens_per_s_ += weight * (metrics.tokens_per_s - tokens_per_s_);
  if (metrics.skipped)
    print(fmt::format("step {}: overflow in {}; update skipped{}", metrics.step,
                      overflow_names(metrics.overflow),
                      metrics.scale ? fmt::format(", loss scale was {:g}", *metrics.scale) : ""));
  if (terminal_) {
    if (first || progress >= 1 || pace_.due()) redraw(status(metrics, progress));
  } else if (metrics.step == 1 || metrics.step % log_every_ == 0 || progress >= 1) {
    print(status(metrics, progress));
  }
}

std::string TrainingProgress::status(const StepMetrics& metrics, double progress) const {
  const double done = progress - first_progress_;
  const std::string left =
      done > 0 ? "  " + format_seconds(seconds_ * (1 - progress) / done) + " left" : "";
  const std::string steps = total_steps_ ? fmt::format("{}/{}", metrics.step, *total_steps_)
                                         : fmt::format("{}", metrics.step);
  const std::string before = fmt::format("step {} ", steps);
  std::string lr = fmt::format("  lr {:.2e}", metrics.lr);
  std::string scale = metrics.scale ? fmt::format("  scale {:g}", *metrics.scale) : "";
  const std::string loss = fmt::format("{:3.0f}%  loss {:.3f}", 100 * progress, smoothed_loss_);
  const std::string speed = fmt::format("  {} tok/s{}", short_count(tokens_per_s_), left);
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
  return before + (terminal_ ? fmt::format("▕{}▏ ", bar(progress, cells)) : "") + loss + lr +
         scale + speed;
}

void TrainingProgress::checkpoint(const std::string& run, std::int64_t step) {
  if (!terminal_) print(fmt::format("saved step {} in {}", step, run));
}

void TrainingProgress::finish() {
  if (drawn_) std::fputc('\n', stderr);
  drawn_ = false;
}

void TrainingProgress::redraw(const std::string& line) {
  draw_line(line);
  drawn_ = true;
}

void TrainingProgress::print(const std::string& line) {
  if (drawn_) say("\r\x1b[K");
  drawn_ = false;
  say(fmt::format("{}\n", line));
}

}  // namespace halftone::cli
