// SPDX-License-Identifier: Apache-2.0
#include "halftone/optim/lr_scheduler.h"

#include <fmt/format.h>

#include <utility>

#include "halftone/core/error.h"

namespace halftone {
namespace {

constexpr const char* kPlateau = "plateau.";

std::string base_rate_key(std::size_t group) { return fmt::format("base_lr.{}", group); }

}  // namespace

std::vector<double> learning_rates(const torch::optim::Optimizer& optimizer) {
  std::vector<double> rates;
  for (const auto& group : optimizer.param_groups()) rates.push_back(group.options().get_lr());
  return rates;
}

void set_learning_rates(torch::optim::Optimizer& optimizer, const std::vector<double>& base_rates,
                        const std::function<double(double base)>& rate_of) {
  auto& groups = optimizer.param_groups();
  for (std::size_t g = 0; g < groups.size() && g < base_rates.size(); ++g)
    groups[g].options().set_lr(rate_of(base_rates[g]));
}

LrScheduler::LrScheduler(torch::optim::Optimizer& optimizer, LrScheduleOptions options,
                         std::int64_t total_steps)
    : optimizer_(optimizer),
      schedule_(options),
      total_steps_(total_steps),
      base_rates_(learning_rates(optimizer)) {
  warn_of_long_warmup(options.warmup, total_steps);
  set_rates();
}

LrScheduler::LrScheduler(torch::optim::Optimizer& optimizer, LrSchedule schedule)
    : optimizer_(optimizer),
      schedule_(std::move(schedule)),
      total_steps_(0),
      base_rates_(learning_rates(optimizer)) {
  HALFTONE_CHECK(schedule_.over_run() == nullptr,
                 "[lr_scheduler] expected total_steps for a schedule over the run");
  set_rates();
}

void LrScheduler::set_rates() {
  const std::int64_t counted = schedule_.plateau() != nullptr ? plateau_.reductions : position_;
  set_learning_rates(optimizer_, base_rates_, [&](double base) {
    if (schedule_.over_run() == nullptr)
      return warmup_factor(schedule_.warmup(), position_) *
             rate_at(schedule_.shape(), base, counted);
    LrScheduleOptions options = *schedule_.over_run();
    options.lr = base;
    options.warmup = schedule_.warmup();
    return learning_rate(options, static_cast<double>(position_),
                         static_cast<double>(total_steps_));
  });
}

void LrScheduler::step() {
  HALFTONE_CHECK(schedule_.plateau() == nullptr,
                 "[lr_scheduler] expected step(value) of a PlateauLr, which needs the value of a "
                 "validation");
  ++position_;
  set_rates();
}

void LrScheduler::step(double value) {
  HALFTONE_CHECK(schedule_.plateau() != nullptr,
                 "[lr_scheduler] expected step() without a value: only a PlateauLr takes one");
  ++position_;
  plateau_.observe(*schedule_.plateau(), value);
  set_rates();
}

StateDict LrScheduler::state_dict() const {
  StateDict state;
  state.values["position"] = position_;
  if (schedule_.plateau() != nullptr) state.insert(kPlateau, plateau_.state_dict());
  for (std::size_t g = 0; g < base_rates_.size(); ++g)
    state.values[base_rate_key(g)] = base_rates_[g];
  return state;
}

void LrScheduler::load_state_dict(const StateDict& state) {
  const auto position = state.get<std::int64_t>("position");
  std::vector<double> rates;
  for (std::size_t g = 0; g < base_rates_.size(); ++g)
    rates.push_back(state.get<double>(base_rate_key(g)));
  if (state.values.contains(base_rate_key(rates.size())))
    throw UserError(fmt::format(
        "saved learning-rate scheduler has more than {} parameter groups: load it for the "
        "optimizer that it was saved with",
        rates.size()));
  if (schedule_.plateau() != nullptr) plateau_.load_state_dict(state.extract(kPlateau));
  position_ = position;
  base_rates_ = std::move(rates);
  set_rates();
}

}  // namespace halftone
