// SPDX-License-Identifier: Apache-2.0
#include "halftone/optim/lr_shapes.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <utility>

#include "halftone/core/error.h"

namespace halftone {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

template <class... Functions>
struct Overloaded : Functions... {
  using Functions::operator()...;
};
template <class... Functions>
Overloaded(Functions...) -> Overloaded<Functions...>;

double half_cosine(double from, double to, double share) {
  return to + (from - to) * (1.0 + std::cos(std::numbers::pi * share)) / 2.0;
}

// Position and length of the cycle that `k` is in.
std::pair<std::int64_t, std::int64_t> in_cycle(const CosineRestartsLr& shape, std::int64_t k) {
  std::int64_t length = shape.t_0;
  if (shape.t_mult == 1) return {k % length, length};
  while (k >= length) {
    k -= length;
    length *= shape.t_mult;
  }
  return {k, length};
}

double reduced(const PlateauLr& shape, double rate, std::int64_t reductions) {
  for (std::int64_t i = 0; i < reductions; ++i) {
    const double lower = std::max(rate * shape.factor, shape.min_lr);
    if (rate - lower <= shape.eps) break;
    rate = lower;
  }
  return rate;
}

void expect(bool condition, const char* shape, const std::string& expectation) {
  if (!condition)
    throw UserError(
        fmt::format("learning-rate schedule: expected {} to have {}", shape, expectation));
}

void check(const LrShape& shape) {
  std::visit(
      Overloaded{
          [](const LrScheduleOptions&) {},
          [](const StepLr& s) {
            expect(s.step_size > 0, "StepLr", fmt::format("step_size > 0, got {}", s.step_size));
          },
          [](const MultiStepLr& s) {
            expect(std::is_sorted(s.milestones.begin(), s.milestones.end()), "MultiStepLr",
                   "milestones in ascending order");
          },
          [](const ExponentialLr& s) {
            expect(s.gamma > 0, "ExponentialLr", fmt::format("gamma > 0, got {}", s.gamma));
          },
          [](const PolynomialLr& s) {
            expect(s.total_iters > 0, "PolynomialLr",
                   fmt::format("total_iters > 0, got {}", s.total_iters));
          },
          [](const CosineAnnealingLr& s) {
            expect(s.t_max > 0, "CosineAnnealingLr", fmt::format("t_max > 0, got {}", s.t_max));
          },
          [](const CosineRestartsLr& s) {
            expect(s.t_0 > 0 && s.t_mult >= 1, "CosineRestartsLr",
                   fmt::format("t_0 > 0 and t_mult >= 1, got {} and {}", s.t_0, s.t_mult));
          },
          [](const LambdaLr& s) {
            expect(static_cast<bool>(s.factor), "LambdaLr", "a function, got none");
          },
          [](const PlateauLr& s) {
            expect(s.factor > 0 && s.factor < 1 && s.patience >= 0 && s.cooldown >= 0, "PlateauLr",
                   fmt::format("0 < factor < 1, patience >= 0 and cooldown >= 0, got {:g}, {} and "
                               "{}",
                               s.factor, s.patience, s.cooldown));
          }},
      shape);
}

}  // namespace

LrSchedule::LrSchedule(LrShape shape, LrTiming timing, int /*checked*/)
    : shape_(std::move(shape)), timing_(timing) {
  check(shape_);
  expect(timing_.warmup >= 0, "LrTiming", fmt::format("warmup >= 0, got {:g}", timing_.warmup));
  if (auto* const over_run = std::get_if<LrScheduleOptions>(&shape_))
    timing_.warmup = std::max(timing_.warmup, std::exchange(over_run->warmup, 0.0));
}

double rate_at(const LrShape& shape, double base, std::int64_t k) {
  const auto at = static_cast<double>(k);
  return std::visit(
      Overloaded{
          [&](const LrScheduleOptions&) -> double {
            HALFTONE_CHECK(false, "[lr_shapes] expected a schedule that counts updates or epochs");
            return base;
          },
          [&](const StepLr& s) {
            return base * std::pow(s.gamma, static_cast<double>(k / s.step_size));
          },
          [&](const MultiStepLr& s) {
            const auto passed = std::upper_bound(s.milestones.begin(), s.milestones.end(), k);
            return base * std::pow(s.gamma, static_cast<double>(passed - s.milestones.begin()));
          },
          [&](const ExponentialLr& s) { return base * std::pow(s.gamma, at); },
          [&](const PolynomialLr& s) {
            const auto total = static_cast<double>(s.total_iters);
            return base * std::pow(1.0 - std::min(at, total) / total, s.power);
          },
          [&](const CosineAnnealingLr& s) {
            return half_cosine(base, s.eta_min, at / static_cast<double>(s.t_max));
          },
          [&](const CosineRestartsLr& s) {
            const auto [position, length] = in_cycle(s, k);
            return half_cosine(base, s.eta_min,
                               static_cast<double>(position) / static_cast<double>(length));
          },
          [&](const LambdaLr& s) { return base * s.factor(k); },
          [&](const PlateauLr& s) { return reduced(s, base, k); }},
      shape);
}

double warmup_factor(double warmup, std::int64_t updates) {
  return std::min(1.0, static_cast<double>(updates + 1) / (warmup + 1.0));
}

void PlateauState::observe(const PlateauLr& plateau, double value) {
  const double sign = plateau.maximize ? 1.0 : -1.0;
  const double margin = plateau.relative_threshold ? best * plateau.threshold : plateau.threshold;
  const double to_beat = has_best ? best + sign * margin : -sign * kInfinity;
  if (plateau.maximize ? value > to_beat : value < to_beat) {
    best = value;
    has_best = true;
    bad = 0;
  } else {
    ++bad;
  }
  if (cooldown > 0) {
    --cooldown;
    bad = 0;
  }
  if (bad <= plateau.patience) return;
  ++reductions;
  cooldown = plateau.cooldown;
  bad = 0;
}

StateDict PlateauState::state_dict() const {
  StateDict state;
  state.values = {{"best", best},
                  {"has_best", has_best},
                  {"bad", bad},
                  {"cooldown", cooldown},
                  {"reductions", reductions}};
  return state;
}

void PlateauState::load_state_dict(const StateDict& state) {
  *this = {.best = state.get<double>("best"),
           .has_best = state.get<bool>("has_best"),
           .bad = state.get<std::int64_t>("bad"),
           .cooldown = state.get<std::int64_t>("cooldown"),
           .reductions = state.get<std::int64_t>("reductions")};
}

}  // namespace halftone
