// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/optimizer/adamw.h"

#include <gtest/gtest.h>
#include <torch/utils.h>

#include <limits>

#include "halftone/kernels/common/stochastic_rounding.h"
#include "support/instruction_sets.h"
#include "support/on_devices.h"

namespace halftone::adamw_test {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

AdamWTensors random_tensors(std::int64_t size, torch::ScalarType dtype) {
  return {torch::randn({size}).to(dtype), torch::randn({size}).to(dtype), torch::randn({size}),
          torch::rand({size})};
}

AdamWTensors copy_of(const AdamWTensors& t) {
  return {t.weights.clone(), t.gradients.clone(), t.exp_avg.clone(), t.exp_avg_sq.clone()};
}

AdamWArguments arguments_for(std::int64_t step, double found_inf = 0.0) {
  return {.lr = 3e-3,
          .beta1 = 0.9,
          .beta2 = 0.95,
          .eps = 1e-8,
          .weight_decay = 0.1,
          .stochastic_rounding = false,
          .seed = 11,
          .first_index = 0,
          .step = torch::tensor(step),
          .gradient_factor = torch::tensor(0.37),
          .found_inf = torch::tensor(found_inf)};
}

// Bits, so that nan equals nan.
bool same_bits(const torch::Tensor& a, const torch::Tensor& b) {
  const auto as = a.element_size() == 2 ? torch::kShort : torch::kInt;
  return torch::equal(a.view(as), b.view(as));
}

void expect_same(const AdamWTensors& a, const AdamWTensors& b) {
  EXPECT_TRUE(same_bits(a.weights, b.weights));
  EXPECT_TRUE(same_bits(a.exp_avg, b.exp_avg));
  EXPECT_TRUE(same_bits(a.exp_avg_sq, b.exp_avg_sq));
}

TEST(AdamWKernel, HasTheBitsOfTheCompositionForEverySizeAndDtype) {
  torch::manual_seed(1);
  for (const auto dtype : {torch::kFloat, torch::kBFloat16, torch::kHalf}) {
    for (const std::int64_t size : {0, 1, 3, 7, 8, 15, 16, 17, 33, 1000, 40007}) {
      const AdamWTensors ours = random_tensors(size, dtype);
      const AdamWTensors reference = copy_of(ours);
      for (std::int64_t step = 1; step <= 3; ++step) {
        adamw_(ours, arguments_for(step));
        adamw_reference_(reference, arguments_for(step));
      }
      SCOPED_TRACE(testing::Message() << c10::toString(dtype) << " " << size);
      expect_same(ours, reference);
    }
  }
}

TEST(AdamWKernel, RoundsStochasticallyWithTheBitsOfTheComposition) {
  torch::manual_seed(2);
  const AdamWTensors ours = random_tensors(5003, torch::kBFloat16);
  const AdamWTensors reference = copy_of(ours);
  AdamWArguments arguments = arguments_for(4);
  arguments.stochastic_rounding = true;
  // Across the border where the key changes.
  arguments.first_index = (std::int64_t{1} << 32) - 1234;
  adamw_(ours, arguments);
  adamw_reference_(reference, arguments);
  expect_same(ours, reference);
}

TEST(AdamWKernel, HasTheSameBitsOnEveryInstructionSet) {
  torch::manual_seed(7);
  for (const auto dtype : {torch::kFloat, torch::kBFloat16, torch::kHalf}) {
    const AdamWTensors start = random_tensors(1009, dtype);
    const AdamWTensors reference = copy_of(start);
    AdamWArguments arguments = arguments_for(3);
    arguments.stochastic_rounding = true;
    adamw_reference_(reference, arguments);
    int tried = 0;
    test::for_each_instruction_set([&] {
      const AdamWTensors ours = copy_of(start);
      adamw_(ours, arguments);
      expect_same(ours, reference);
      ++tried;
    });
    EXPECT_GE(tried, 1);
  }
}

using AdamWKernelOff = test::OnDevices;
HALFTONE_OFF_THE_CPU(AdamWKernelOff);

TEST_P(AdamWKernelOff, EqualsTheCpu) {
  torch::manual_seed(8);
  for (const auto dtype : {torch::kFloat, torch::kBFloat16, torch::kHalf}) {
    const AdamWTensors cpu = random_tensors(1009, dtype);
    const AdamWTensors moved = {here(cpu.weights), here(cpu.gradients), here(cpu.exp_avg),
                                here(cpu.exp_avg_sq)};
    AdamWArguments arguments = arguments_for(3);
    adamw_(cpu, arguments);
    for (torch::Tensor* scalar :
         {&arguments.step, &arguments.gradient_factor, &arguments.found_inf})
      *scalar = here(*scalar);
    adamw_(moved, arguments);
    const double tolerance = dtype == torch::kFloat ? 1e-6 : 1e-2;
    EXPECT_TRUE(torch::allclose(moved.weights.cpu(), cpu.weights, tolerance, tolerance));
    EXPECT_TRUE(torch::allclose(moved.exp_avg_sq.cpu(), cpu.exp_avg_sq, 1e-6, 1e-7));
  }
}

TEST(AdamWKernel, AcceptsUnalignedStartsAndAnyCut) {
  torch::manual_seed(3);
  AdamWArguments arguments = arguments_for(2);
  arguments.stochastic_rounding = true;
  for (const auto dtype : {torch::kFloat, torch::kBFloat16}) {
    const AdamWTensors whole = random_tensors(2001, dtype);
    const AdamWTensors parts = copy_of(whole);
    arguments.first_index = 0;
    adamw_(whole, arguments);
    for (std::int64_t begin = 0; begin < 2001; begin += 667) {
      arguments.first_index = begin;
      adamw_({parts.weights.narrow(0, begin, 667), parts.gradients.narrow(0, begin, 667),
              parts.exp_avg.narrow(0, begin, 667), parts.exp_avg_sq.narrow(0, begin, 667)},
             arguments);
    }
    expect_same(whole, parts);
  }
}

TEST(AdamWKernel, DoesNotDependOnTheNumberOfThreads) {
  torch::manual_seed(4);
  AdamWArguments arguments = arguments_for(9);
  arguments.stochastic_rounding = true;
  const AdamWTensors one = random_tensors(200003, torch::kBFloat16);
  const AdamWTensors three = copy_of(one);
  const int before = torch::get_num_threads();
  torch::set_num_threads(1);
  adamw_(one, arguments);
  torch::set_num_threads(3);
  adamw_(three, arguments);
  torch::set_num_threads(before);
  expect_same(one, three);
}

TEST(AdamWKernel, ChangesNothingWhereInfWasFound) {
  for (const auto step : {adamw_, adamw_reference_}) {
    const AdamWTensors tensors = random_tensors(37, torch::kFloat);
    const AdamWTensors before = copy_of(tensors);
    step(tensors, arguments_for(1, 2.0));
    expect_same(tensors, before);
  }
}

TEST(AdamWKernel, CarriesInfAndNanAsTheCompositionDoes) {
  const torch::Tensor special = torch::tensor({kInf, -kInf, NAN, 0.0F, 1e-45F, 3.4e38F, 1.0F});
  for (const auto dtype : {torch::kFloat, torch::kBFloat16, torch::kHalf}) {
    for (const bool in_gradient : {true, false}) {
      AdamWTensors ours = random_tensors(7, dtype);
      (in_gradient ? ours.gradients : ours.weights) = special.to(dtype);
      const AdamWTensors reference = copy_of(ours);
      adamw_(ours, arguments_for(1));
      adamw_reference_(reference, arguments_for(1));
      EXPECT_TRUE(torch::equal(ours.weights.isnan(), reference.weights.isnan()));
      EXPECT_TRUE(torch::equal(ours.weights.nan_to_num(), reference.weights.nan_to_num()));
      EXPECT_TRUE(torch::equal(ours.exp_avg_sq.nan_to_num(), reference.exp_avg_sq.nan_to_num()));
    }
  }
}

TEST(AdamWKernel, RefusesWhatItCannotDo) {
  const AdamWArguments arguments = arguments_for(1);
  AdamWTensors tensors = random_tensors(8, torch::kDouble);
  EXPECT_THROW(adamw_(tensors, arguments), c10::Error);
  tensors = random_tensors(8, torch::kBFloat16);
  tensors.gradients = tensors.gradients.to(torch::kHalf);
  EXPECT_THROW(adamw_(tensors, arguments), c10::Error);
  tensors = random_tensors(8, torch::kFloat);
  tensors.exp_avg = torch::zeros({9});
  EXPECT_THROW(adamw_(tensors, arguments), c10::Error);
  tensors = random_tensors(8, torch::kFloat);
  tensors.exp_avg_sq = torch::zeros({8}, torch::kHalf);
  EXPECT_THROW(adamw_(tensors, arguments), c10::Error);
}

TEST(StochasticRounding, KeepsTheMeanAndRoundsToNeighbours) {
  constexpr std::int64_t kDraws = 1000000;
  const float below = 1.0F;
  const float above = 1.0078125F;  // the next bfloat16
  for (const double share : {0.1, 0.5, 0.75}) {
    const auto value = static_cast<float>(below + share * (above - below));
    const torch::Tensor rounded =
        round_stochastically(torch::full({kDraws}, value), 5, torch::tensor(std::int64_t{1}), 0)
            .to(torch::kFloat);
    EXPECT_TRUE((rounded.eq(below) | rounded.eq(above)).all().item<bool>());
    // Six standard deviations of a binomial share.
    const double spread = 6 * std::sqrt(share * (1 - share) / kDraws);
    EXPECT_NEAR(rounded.eq(above).to(torch::kDouble).mean().item<double>(), share, spread);
    const torch::Tensor negative =
        round_stochastically(torch::full({kDraws}, -value), 5, torch::tensor(std::int64_t{2}), 0)
            .to(torch::kFloat);
    EXPECT_NEAR(negative.eq(-above).to(torch::kDouble).mean().item<double>(), share, spread);
  }
}

TEST(StochasticRounding, LeavesExactAndSpecialValuesAlone) {
  const torch::Tensor values = torch::tensor({0.0F, -1.5F, kInf, -kInf, 3.0e38F});
  const torch::Tensor bits = values.to(torch::kBFloat16).to(torch::kFloat);
  for (std::int64_t step = 1; step < 50; ++step) {
    const torch::Tensor rounded =
        round_stochastically(bits, 1, torch::tensor(step), 0).to(torch::kFloat);
    EXPECT_TRUE(torch::equal(rounded, bits));
  }
  const torch::Tensor nan = torch::tensor({NAN});
  EXPECT_TRUE(round_stochastically(nan, 1, torch::tensor(std::int64_t{1}), 0).isnan().item<bool>());
}

TEST(StochasticRounding, DiffersBetweenStepsSeedsAndPlaces) {
  const torch::Tensor values = torch::full({4096}, 1.00390625F);  // halfway
  const auto draw = [&](std::uint64_t seed, std::int64_t step, std::int64_t first) {
    return round_stochastically(values, seed, torch::tensor(step), first).to(torch::kFloat);
  };
  const torch::Tensor base = draw(1, 1, 0);
  EXPECT_TRUE(torch::equal(base, draw(1, 1, 0)));
  for (const torch::Tensor& other :
       {draw(2, 1, 0), draw(1, 2, 0), draw(1, 1, 4096), draw(1, 1, std::int64_t{1} << 32)}) {
    const double agreement = base.eq(other).to(torch::kDouble).mean().item<double>();
    EXPECT_NEAR(agreement, 0.5, 6 * 0.5 / 64);
  }
  EXPECT_TRUE(torch::equal(base.slice(0, 100), draw(1, 1, 100).slice(0, 0, 3996)));
}

}  // namespace
}  // namespace halftone::adamw_test
