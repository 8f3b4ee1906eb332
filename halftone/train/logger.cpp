// SPDX-License-Identifier: Apache-2.0
#include "halftone/train/logger.h"

#include <optional>
#include <utility>

namespace halftone {
namespace {

std::map<std::string, double> always_there(const StepMetrics& m) {
  return {{"epoch", static_cast<double>(m.epoch)},
          {"loss", m.loss},
          {"lr", m.lr},
          {"skipped", m.skipped ? 1.0 : 0.0},
          {"step_ms", m.step_ms}};
}

std::map<std::string, std::optional<double>> sometimes_there(const StepMetrics& m) {
  const auto tokens = [&](auto value) {
    return m.tokens_total > 0 ? std::optional(static_cast<double>(value)) : std::nullopt;
  };
  return {{"grad_norm", m.grad_norm},
          {"scale", m.scale},
          {"underflow_share", m.underflow_share},
          {"tokens", tokens(m.tokens)},
          {"tokens_total", tokens(m.tokens_total)},
          {"tokens_per_s", tokens(m.tokens_per_s)},
          {"rss_mib", m.rss_mib},
          {"cuda_mib", m.cuda_mib},
          {"weights_mib", m.weights_mib},
          {"gradients_mib", m.gradients_mib},
          {"states_mib", m.states_mib},
          {"tensors_mib", m.tensors_mib}};
}

}  // namespace

std::map<std::string, double> metric_values(const StepMetrics& metrics) {
  std::map<std::string, double> values = always_there(metrics);
  const std::map<std::string, std::optional<double>> others = sometimes_there(metrics);
  for (const auto& [name, value] : others)
    if (value) values.emplace(name, *value);
  // The keys of a line that are no number, or are given beside it, are taken, too.
  for (const auto& [name, value] : metrics.logged)
    if (name != "step" && name != "overflow" && !others.contains(name)) values.emplace(name, value);
  return values;
}

}  // namespace halftone
