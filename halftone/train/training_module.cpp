// SPDX-License-Identifier: Apache-2.0
#include "halftone/train/training_module.h"

#include <fmt/format.h>

#include <cstdlib>
#include <set>
#include <sstream>

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

// Line by line: the sum and the weight as hexadecimal numbers, which lose nothing, and the name.
void LoggedValues::add_up(ProcessGroup& group) {
  std::string own;
  for (const auto& [name, sum] : sums_)
    own += fmt::format("{:a} {:a} {}\n", (sum.host.defined() ? sum.host : sum.value).item<double>(),
                       sum.weight, name);
  sums_.clear();
  for (const std::string& one : group.all_gather(own)) {
    std::istringstream lines(one);
    for (std::string line; std::getline(lines, line);) {
      char* end = nullptr;
      const double value = std::strtod(line.c_str(), &end);
      const double weight = std::strtod(end, &end);
      Sum& sum = sums_[end + 1];
      const torch::Tensor term = torch::scalar_tensor(value, torch::kDouble);
      sum.value = sum.value.defined() ? sum.value + term : term;
      sum.weight += weight;
    }
  }
}

std::map<std::string, double> LoggedValues::take() {
  std::map<std::string, double> means;
  for (const auto& [name, sum] : std::exchange(sums_, {}))
    means[name] = (sum.host.defined() ? sum.host : sum.value).item<double>() / sum.weight;
  return means;
}

void TrainingModuleBase::save_hyper_parameters(
    const std::map<std::string, StateDict::Value>& values) {
  for (const auto& [name, value] : values) hyper_parameters_.values.insert_or_assign(name, value);
}

torch::Tensor TrainingModuleBase::log_losses(
    const std::vector<std::pair<std::string, torch::Tensor>>& losses) {
  HALFTONE_CHECK(!losses.empty(), "[trainer] expected one loss at least, got none");
  torch::Tensor sum;
  std::set<std::string> names;
  for (const auto& [name, loss] : losses) {
    HALFTONE_CHECK(names.insert(name).second,
                   "[trainer] expected a loss of each name, got two of '", name, "'");
    log(name, loss);
    sum = sum.defined() ? sum + loss : loss;
  }
  return sum;
}

ManualOptimization& TrainingModuleBase::manual() const {
  HALFTONE_CHECK(manual_ != nullptr,
                 "[trainer] optimizer(), manual_backward() and gradients() are for the "
                 "training_step() of a module whose automatic_optimization() returns false, while "
                 "a Trainer trains it");
  return *manual_;
}

void TrainingModuleBase::check_default_step(const char* name) const {
  if (automatic_optimization()) return;
  throw UserError(
      std::string("trainer: the training_step() of this module steps its optimizers, so "
                  "it can't serve as ") +
      name + "(); override " + name + "()");
}

void throw_no_predict_step() {
  throw UserError(
      "trainer: predict() needs to know what this module predicts: override `Prediction "
      "predict_step(const Batch& batch, std::int64_t index)`");
}

}  // namespace halftone
