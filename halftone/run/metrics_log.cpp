// SPDX-License-Identifier: Apache-2.0
#include "halftone/run/metrics_log.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <nlohmann/json.hpp>
#include <string_view>

#include "halftone/core/log.h"
#include "halftone/system/json_reader_impl.h"

namespace halftone {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

ordered_json number(std::optional<double> value) {
  return value && std::isfinite(*value) ? ordered_json(*value) : ordered_json(nullptr);
}

// A name that a line has already keeps its own value.
void say_left_out(const std::string& name) {
  log_warning_once(
      fmt::format("metrics: what is logged as '{}' is not written, because each line has a '{}' of "
                  "its own; log it under another name",
                  name, name));
}

ordered_json to_json(const StepMetrics& m) {
  const bool counts_tokens = m.tokens_total > 0;
  const auto tokens = [&](auto value) {
    return counts_tokens ? ordered_json(value) : ordered_json(nullptr);
  };
  ordered_json line = {{"step", m.step}, {"epoch", m.epoch}, {"loss", number(m.loss)}};
  for (const auto& [name, value] : m.logged) line.emplace(name, number(value));
  const ordered_json rest = {{"lr", number(m.lr)},
                             {"grad_norm", number(m.grad_norm)},
                             {"scale", number(m.scale)},
                             {"skipped", m.skipped},
                             {"overflow", m.overflow},
                             {"underflow_share", number(m.underflow_share)},
                             {"tokens", tokens(m.tokens)},
                             {"tokens_total", tokens(m.tokens_total)},
                             {"tokens_per_s", tokens(m.tokens_per_s)},
                             {"step_ms", number(m.step_ms)},
                             {"rss_mib", number(m.rss_mib)},
                             {"cuda_mib", number(m.cuda_mib)},
                             {"weights_mib", number(m.weights_mib)},
                             {"gradients_mib", number(m.gradients_mib)},
                             {"states_mib", number(m.states_mib)},
                             {"tensors_mib", number(m.tensors_mib)}};
  for (const auto& [name, value] : m.logged)
    if (rest.contains(name) || name == "step" || name == "epoch" || name == "loss")
      say_left_out(name);
  line.update(rest);
  return line;
}

std::string to_line(const ordered_json& object) {
  return object.dump(-1, ' ', false, json::error_handler_t::replace) + "\n";
}

// The step of a line; -1 for one that is torn.
std::int64_t step_of(std::string_view line) {
  const json object = parse_json_if_valid(line).value_or(nullptr);
  if (!object.is_object()) return -1;
  const auto step = object.find("step");
  return step != object.end() && step->is_number_integer() ? step->get<std::int64_t>() : -1;
}

// Bytes of the leading lines that are whole and of steps up to `last_step`.
std::uint64_t bytes_to_keep(const File& file, std::int64_t last_step) {
  std::string text(file.size(), '\0');
  file.read_at(0, text.data(), text.size());
  std::size_t kept = 0;
  for (std::size_t end = 0; (end = text.find('\n', kept)) != std::string::npos; kept = end + 1) {
    const std::int64_t step = step_of(std::string_view(text).substr(kept, end - kept));
    if (step < 0 || step > last_step) break;
  }
  return kept;
}

}  // namespace

MetricsLog::MetricsLog(const std::filesystem::path& path, std::int64_t last_step)
    : file_(path, O_RDWR | O_CREAT | O_APPEND) {
  const std::uint64_t kept = last_step > 0 ? bytes_to_keep(file_, last_step) : 0;
  if (::ftruncate(file_.descriptor(), static_cast<off_t>(kept)) != 0 && errno != EINVAL)
    throw_file_error("write", path, errno);
}

void MetricsLog::append(const StepMetrics& metrics) { write_line(to_line(to_json(metrics))); }

void MetricsLog::append_values(std::int64_t step, const std::map<std::string, double>& values) {
  ordered_json line = {{"step", step}};
  for (const auto& [name, value] : values)
    if (name == "loss" || !line.emplace(name, number(value)).second)  // a loss makes it a step's
      say_left_out(name);
  write_line(to_line(line));
}

void MetricsLog::write_line(const std::string& line) { file_.write(line.data(), line.size()); }

}  // namespace halftone
