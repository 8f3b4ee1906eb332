// SPDX-License-Identifier: Apache-2.0
#include "halftone/train/run_config.h"

#include <fmt/format.h>

#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>

#include "halftone/precision/policy.h"

namespace halftone {
namespace {

// TOML takes JSON's strings, numbers and arrays as they are; a float has a point or an exponent.
template <class Value>
std::string line(const std::string& key, const Value& value) {
  return fmt::format("{} = {}\n", key, nlohmann::json(value).dump());
}

std::string limits(const TrainerOptions& options) {
  std::string lines;
  if (options.max_steps) lines += line("max_steps", *options.max_steps);
  if (options.max_epochs) lines += line("max_epochs", *options.max_epochs);
  if (options.max_time) lines += line("max_time", fmt::format("{}s", *options.max_time));
  return lines;
}

std::string clipping(const TrainerOptions& options) {
  if (options.gradient_clip_algorithm == "norm")
    return line("grad_clip", options.gradient_clip_val);
  return fmt::format("grad_clip = 0.0  # by {} instead, at {}\n", options.gradient_clip_algorithm,
                     options.gradient_clip_val);
}

std::string memory(const MemoryOptions& choice) {
  return line("memory", choice.memory) + line("master_weights", choice.master_weights) +
         line("gradients", choice.gradients) + line("moments", choice.moments) +
         line("recompute", choice.recompute) + line("release_gradients", choice.release_gradients) +
         line("clip_mode", choice.clip_mode) + line("rounding", choice.rounding) +
         line("offload", choice.offload);
}

// TOML has signed integers.
std::string seed(std::uint64_t value) {
  constexpr std::uint64_t kMost = std::numeric_limits<std::int64_t>::max();
  return value <= kMost ? line("seed", value) : fmt::format("# seed {}\n", value);
}

std::string scaler(const GradScalerOptions& options) {
  return "\n[scaler]\n" + line("init_scale", options.init_scale) +
         line("growth_factor", options.growth_factor) +
         line("backoff_factor", options.backoff_factor) +
         line("growth_interval", options.growth_interval) + line("hysteresis", options.hysteresis) +
         line("min_scale", options.min_scale) + line("max_scale", options.max_scale);
}

}  // namespace

std::map<std::string, std::string> config_values(const std::string& toml) {
  std::map<std::string, std::string> values;
  std::istringstream lines(toml);
  std::string section;
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("[") && line.ends_with("]"))
      section = line.substr(1, line.size() - 2) + ".";
    const std::size_t equals = line.find(" = ");
    if (equals == std::string::npos || line.starts_with("#")) continue;
    values[section + line.substr(0, equals)] = line.substr(equals + 3);
  }
  for (const char* own : {"threads", "device"}) values.erase(own);
  return values;
}

std::string run_config(const TrainerOptions& options) {
  std::string toml = "# What a halftone::Trainer was told; the keys are those of docs/config.md.\n";
  toml += line("precision", options.precision) + line("device", options.accelerator);
  toml += line("accumulate", options.accumulate_grad_batches) + line("shard", options.shard) +
          line("gradient_sum", options.gradient_sum) + line("reduce_dtype", options.reduce_dtype) +
          line("loss_average", options.loss_average) + clipping(options) + limits(options);
  if (options.val_check_interval.count())
    toml += fmt::format("# validated every {} steps\n", *options.val_check_interval.count());
  else if (!options.val_check_interval.is_all())
    toml += fmt::format("# validated at each {} of an epoch\n", options.val_check_interval.share());
  toml += memory(options.memory) + line("keep_fp32", options.keep_fp32) +
          line("layer_precision", options.layer_precision) + seed(options.seed);
  if (options.detect_anomaly) toml += line("detect_anomaly", "first");
  if (!parse_precision(options.precision).loss_scaling) return toml;
  toml += line("loss_scale", options.scaler.adaptive ? "adaptive" : "dynamic");
  return toml + scaler(options.scaler);
}

}  // namespace halftone
