// SPDX-License-Identifier: Apache-2.0
#include "halftone/train/training_module.h"

#include "halftone/core/error.h"

namespace halftone {

void LoggedValues::add(const std::string& name, const torch::Tensor& value, double weight) {
  HALFTONE_CHECK(value.defined() && value.numel() == 1, "[trainer] expected a scalar to log as '",
                 name, "', got ", value.defined() ? c10::str(value.sizes()) : "nothing");
  if (weight == 0.0) return;  // 0 times nan is nan
  const torch::Tensor wide = value.detach().reshape({}).to(torch::kDouble) * weight;
  Sum& sum = sums_[name];
  sum.value = sum.value.defined() ? sum.value + wide : wide;
  sum.host = torch::Tensor();
  sum.weight += weight;
}

void LoggedValues::start_reading() {
  for (auto& [name, sum] : sums_) sum.host = sum.value.to(torch::kCPU, /*non_blocking=*/true);
}

std::map<std::string, double> LoggedValues::take() {
  std::map<std::string, double> means;
  for (const auto& [name, sum] : std::exchange(sums_, {}))
    means[name] = (sum.host.defined() ? sum.host : sum.value).item<double>() / sum.weight;
  return means;
}

}  // namespace halftone
