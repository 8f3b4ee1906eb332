// SPDX-License-Identifier: Apache-2.0
// The history of a run from metrics.jsonl, in bounded memory. The file may have any length and
// state: torn, damaged and foreign lines are counted and skipped.
#pragma once

#include <compare>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "halftone/run/layer_history.h"
#include "halftone/run/step_history.h"

namespace halftone {

/// A step whose gradients overflowed.
struct SkippedStep {
  std::int64_t step = 0;
  std::optional<double> scale;
  std::vector<std::string> tensors;  ///< that overflowed: the first few of them
  std::int64_t tensor_count = 0;     ///< of all
};

struct RunTotals {
  std::int64_t steps = 0;
  std::int64_t skipped = 0;
  std::int64_t broken_losses = 0;  ///< steps whose loss was not finite
  std::optional<StepValue> first_loss, last_loss;
  std::optional<StepValue> best_validation;
  double tokens = 0;   ///< 0: none were counted
  double seconds = 0;  ///< in training steps
  double peak_rss_mib = 0, peak_cuda_mib = 0;
};

/// Which lines of metrics.jsonl a value stood in.
enum class LineKind {
  kStep,     ///< those of steps
  kBetween,  ///< those of a validation or of the end of an epoch
};

/// A value that the module or a callback has logged.
struct LoggedName {
  LineKind kind;
  std::string name;
  auto operator<=>(const LoggedName&) const = default;
};

class RunHistory {
 public:
  /// At most so many logged values are kept, those that come first; their names are at most so
  /// long, in bytes.
  static constexpr std::size_t kKeptNames = 64;
  static constexpr std::size_t kLongestName = 200;
  /// At most so many skipped steps are kept from the start, and as many from the end.
  static constexpr std::size_t kKeptSkips = 15;

  /// One line of metrics.jsonl, without its end.
  void add_line(std::string_view line);
  /// A line that was too long to be read.
  void pass_over_line() { ++unusable_lines_; }

  const StepHistory& steps() const { return steps_; }
  /// val_loss of the lines between those of steps.
  const ValueHistory& validation() const { return validation_; }
  /// The statistics of layers in the lines of steps (run/layer_metrics.h).
  const LayerHistory& layers() const { return layers_; }
  /// All other numbers but those that StepField, `epoch` and the tokens name.
  const std::map<LoggedName, ValueHistory>& logged() const { return logged_; }
  /// How many logged values were left out because there are too many or their name is too long;
  /// from some thousands on, at least so many.
  std::size_t names_left_out() const { return left_out_.size(); }
  const RunTotals& totals() const { return totals_; }
  const std::vector<SkippedStep>& first_skips() const { return first_skips_; }
  /// Those after first_skips().
  const std::vector<SkippedStep>& last_skips() const { return last_skips_; }
  /// How often each tensor overflowed.
  const std::map<std::string, std::int64_t>& overflows() const { return overflows_; }
  std::int64_t unusable_lines() const { return unusable_lines_; }

 private:
  void add_step(const StepNumbers& numbers, double tokens_total);
  void add_skip(SkippedStep skip);
  bool add_validation(const StepValue& loss);
  ValueHistory* history_of(const LoggedName& name, bool is_number);
  bool add_logged(const LoggedName& name, const StepValue& value);
  bool add_layer(const LoggedName& name, const StepValue& value);

  StepHistory steps_;
  ValueHistory validation_;
  LayerHistory layers_;
  std::map<LoggedName, ValueHistory> logged_;
  std::set<LoggedName> left_out_;
  RunTotals totals_;
  std::vector<SkippedStep> first_skips_, last_skips_;
  std::map<std::string, std::int64_t> overflows_;
  std::int64_t unusable_lines_ = 0;
  std::int64_t last_step_ = 0, last_between_ = 0;
};

/// Follows a metrics.jsonl that grows.
class MetricsReader {
 public:
  explicit MetricsReader(std::filesystem::path path) : path_(std::move(path)) {}

  /// Reads the whole lines that were added since the last call, and from the start a file that has
  /// become shorter. Throws UserError and SystemError when it can't be read.
  void read_on();

  const RunHistory& history() const { return history_; }
  /// Whether the file ends in a line without an end, which no call has read.
  bool ends_torn() const { return ends_torn_; }

 private:
  void take(std::string_view bytes);

  std::filesystem::path path_;
  std::uint64_t offset_ = 0;  // behind the last byte that was read
  std::string rest_;          // of a line whose end has not come yet
  bool too_long_ = false;     // and it will be passed over
  bool ends_torn_ = false;
  RunHistory history_;
};

}  // namespace halftone
