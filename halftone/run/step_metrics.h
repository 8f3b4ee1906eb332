// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace halftone {

/// One optimizer step: a line of metrics.jsonl.
struct StepMetrics {
  std::int64_t step = 0;   // from 1; skipped steps count
  std::int64_t epoch = 0;  // from 1
  double loss = 0;         // mean over the step's micro-batches, auxiliary loss included, unscaled
  std::map<std::string, double> logged;  // what the module logged, and what callbacks added
  double lr = 0;                         // of the first optimizer's first group
  std::optional<double> grad_norm;       // before clipping, without the scale
  std::optional<double> scale;           // loss scale that this step used
  bool skipped = false;
  std::vector<std::string> overflow;  // tensors with gradients that are not finite
  std::optional<double> underflow_share;
  std::int64_t tokens = 0;        // of this step, over all processes; 0: the module counts none
  std::int64_t tokens_total = 0;  // since the run began
  double tokens_per_s = 0;
  double step_ms = 0;
  std::optional<double> rss_mib;
  std::optional<double> cuda_mib;
  std::optional<double> weights_mib;  // this and the next two: of optimizers that tell
  std::optional<double> gradients_mib;
  std::optional<double> states_mib;
  std::optional<double> tensors_mib;  // all other large CPU tensors at their most in this step
};

}  // namespace halftone
