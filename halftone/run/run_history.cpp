// SPDX-License-Identifier: Apache-2.0
#include "halftone/run/run_history.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>

#include "halftone/system/file.h"
#include "halftone/system/json_reader_impl.h"

namespace halftone {
namespace {

using nlohmann::json;

// What is larger is damage, what is smaller is nothing; either would leave no room for arithmetic.
constexpr double kLargestNumber = 1e100;
constexpr std::int64_t kLargestStep = std::int64_t{1} << 53;  // exact in a double
constexpr std::size_t kLongestLine = std::size_t{4} << 20;
constexpr std::size_t kShownTensors = 3;
constexpr std::size_t kMostNames = 10000;  // that are counted, of tensors and of values

constexpr std::array<std::pair<StepField, const char*>, kStepFields> kKeys{
    {{StepField::kLoss, "loss"},
     {StepField::kLr, "lr"},
     {StepField::kGradNorm, "grad_norm"},
     {StepField::kScale, "scale"},
     {StepField::kTokensPerS, "tokens_per_s"},
     {StepField::kStepMs, "step_ms"},
     {StepField::kRssMib, "rss_mib"},
     {StepField::kCudaMib, "cuda_mib"},
     {StepField::kWeightsMib, "weights_mib"},
     {StepField::kGradientsMib, "gradients_mib"},
     {StepField::kStatesMib, "states_mib"},
     {StepField::kTensorsMib, "tensors_mib"}}};

// nan for what is no number, or none that can be drawn.
double number_of(const json& field) {
  if (!field.is_number()) return StepNumbers::kNone;
  const auto value = field.get<double>();
  if (std::abs(value) < 1 / kLargestNumber) return 0;
  return std::abs(value) <= kLargestNumber ? value : StepNumbers::kNone;
}

double number_in(const json& line, const char* key) {
  const auto found = line.find(key);
  return found == line.end() ? StepNumbers::kNone : number_of(*found);
}

// Whether each step's line has `key` of its own, and what it says is told elsewhere or of no use.
bool is_own_key(const std::string& key) {
  constexpr std::array<std::string_view, 4> kOthers{"step", "epoch", "tokens", "tokens_total"};
  return std::find(kOthers.begin(), kOthers.end(), key) != kOthers.end() ||
         std::any_of(kKeys.begin(), kKeys.end(),
                     [&](const auto& own) { return own.second == key; });
}

// 0 where there is none.
std::int64_t step_in(const json& line) {
  const auto found = line.find("step");
  if (found == line.end() || !found->is_number_integer()) return 0;
  const auto step = found->get<std::int64_t>();
  return step <= kLargestStep ? std::max<std::int64_t>(step, 0) : 0;
}

bool is_skipped(const json& line) {
  const auto found = line.find("skipped");
  return found != line.end() && found->is_boolean() && found->get<bool>();
}

std::vector<std::string> overflow_in(const json& line) {
  std::vector<std::string> names;
  const auto found = line.find("overflow");
  if (found == line.end() || !found->is_array()) return names;
  for (const json& name : *found)
    if (name.is_string())
      names.push_back(name.get<std::string>().substr(0, RunHistory::kLongestName));
  return names;
}

std::optional<double> as_optional(double value) {
  return std::isnan(value) ? std::nullopt : std::optional(value);
}

// Whether `value` is of a later step than those before it; else it is passed over. A history begins
// with a number: what has none is no curve.
bool add_in_order(ValueHistory& history, const StepValue& value) {
  if (history.empty() ? std::isnan(value.value) : value.step <= history.last_step())
    return history.empty();
  history.add(value);
  return true;
}

}  // namespace

void RunHistory::add_line(std::string_view line) {
  const json object = parse_json_if_valid(line).value_or(nullptr);
  const std::int64_t step = object.is_object() ? step_in(object) : 0;
  const bool is_step = step > 0 && object.contains("loss");
  // Several lines may stand between those of two steps, but none twice.
  if (step == 0 || (is_step ? step <= last_step_ : step < last_between_)) {
    ++unusable_lines_;
    return;
  }
  bool is_new = true;
  for (const auto& [key, field] : object.items()) {
    const bool is_value = field.is_number() || field.is_null();
    if (!is_value || key == "step" || (is_step && is_own_key(key))) continue;
    const StepValue value{step, number_of(field)};
    const bool is_loss = !is_step && key == "val_loss";
    const LineKind kind = is_step ? LineKind::kStep : LineKind::kBetween;
    if (is_step && add_layer({kind, key}, value)) continue;
    is_new = (is_loss ? add_validation(value) : add_logged({kind, key}, value)) && is_new;
  }
  if (!is_new) ++unusable_lines_;
  if (!is_step) {
    last_between_ = step;
    return;
  }
  StepNumbers numbers;
  numbers.step = step;
  numbers.skipped = is_skipped(object);
  for (const auto& [field, key] : kKeys) numbers[field] = number_in(object, key);
  add_step(numbers, number_in(object, "tokens_total"));
  if (!numbers.skipped) return;
  std::vector<std::string> names = overflow_in(object);
  for (const std::string& name : names)
    if (overflows_.size() < kMostNames || overflows_.contains(name)) ++overflows_[name];
  const std::int64_t count = std::ssize(names);
  names.resize(std::min(names.size(), kShownTensors));
  add_skip({step, as_optional(numbers[StepField::kScale]), std::move(names), count});
}

void RunHistory::add_step(const StepNumbers& numbers, double tokens_total) {
  last_step_ = numbers.step;
  steps_.add(numbers);
  ++totals_.steps;
  if (numbers.skipped) ++totals_.skipped;
  const double loss = numbers[StepField::kLoss];
  if (std::isnan(loss)) {
    ++totals_.broken_losses;
  } else {
    totals_.last_loss = StepValue{numbers.step, loss};
    if (!totals_.first_loss) totals_.first_loss = totals_.last_loss;
  }
  // std::max keeps its first argument where the second is nan.
  totals_.tokens = std::max(totals_.tokens, tokens_total);
  totals_.seconds += std::max(0.0, numbers[StepField::kStepMs]) / 1e3;
  totals_.peak_rss_mib = std::max(totals_.peak_rss_mib, numbers[StepField::kRssMib]);
  totals_.peak_cuda_mib = std::max(totals_.peak_cuda_mib, numbers[StepField::kCudaMib]);
}

void RunHistory::add_skip(SkippedStep skip) {
  if (first_skips_.size() < kKeptSkips) {
    first_skips_.push_back(std::move(skip));
    return;
  }
  if (last_skips_.size() == kKeptSkips) last_skips_.erase(last_skips_.begin());
  last_skips_.push_back(std::move(skip));
}

bool RunHistory::add_validation(const StepValue& loss) {
  if (!add_in_order(validation_, loss)) return false;
  const bool is_best =
      !totals_.best_validation || loss.value < totals_.best_validation->value;  // no nan is
  if (!std::isnan(loss.value) && is_best) totals_.best_validation = loss;
  return true;
}

// Nothing where there is no room for the name, or no use of it yet.
ValueHistory* RunHistory::history_of(const LoggedName& name, bool is_number) {
  const auto known = logged_.find(name);
  if (known != logged_.end()) return &known->second;
  if (!is_number) return nullptr;
  if (logged_.size() < kKeptNames && name.name.size() <= kLongestName) return &logged_[name];
  if (left_out_.size() < kMostNames)
    left_out_.insert({name.kind, name.name.substr(0, kLongestName)});
  return nullptr;
}

// Whether the value is one of a layer.
bool RunHistory::add_layer(const LoggedName& name, const StepValue& value) {
  const auto key = parse_layer_key(name.name);
  if (!key) return false;
  const bool is_kept =
      name.name.size() <= kLongestName &&
      layers_.add(value.step, {key->statistic, std::string(key->parameter)}, value.value);
  if (!is_kept && left_out_.size() < kMostNames)
    left_out_.insert({name.kind, name.name.substr(0, kLongestName)});
  return true;
}

bool RunHistory::add_logged(const LoggedName& name, const StepValue& value) {
  ValueHistory* const history = history_of(name, !std::isnan(value.value));
  return history == nullptr || add_in_order(*history, value);
}

void MetricsReader::read_on() {
  constexpr std::uint64_t kReadBytes = 1 << 16;
  const File file = File::open_regular(path_);
  const std::uint64_t size = file.size();
  if (size < offset_) *this = MetricsReader(path_);
  std::string bytes;
  while (offset_ < size) {
    bytes.resize(std::min(kReadBytes, size - offset_));
    file.read_at(offset_, bytes.data(), bytes.size());
    offset_ += bytes.size();
    take(bytes);
  }
  ends_torn_ = too_long_ || !rest_.empty();
}

void MetricsReader::take(std::string_view bytes) {
  while (!bytes.empty()) {
    const std::size_t end = bytes.find('\n');
    const std::string_view part = bytes.substr(0, end);
    if (!too_long_) rest_ += part;
    too_long_ = too_long_ || rest_.size() > kLongestLine;
    if (too_long_) rest_.clear();
    if (end == std::string_view::npos) return;
    bytes.remove_prefix(end + 1);
    if (std::exchange(too_long_, false))
      history_.pass_over_line();
    else
      history_.add_line(rest_);
    rest_.clear();
  }
}

}  // namespace halftone
