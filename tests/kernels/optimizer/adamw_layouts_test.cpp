// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <torch/utils.h>

#include <cmath>
#include <limits>
#include <tuple>

#include "halftone/kernels/optimizer/adamw.h"
#include "halftone/kernels/optimizer/moments.h"
#include "halftone/kernels/optimizer/split_master.h"
#include "support/instruction_sets.h"
#include "support/on_devices.h"

namespace halftone::adamw_layouts_test {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

struct Layout {
  torch::ScalarType weights;
  torch::ScalarType gradients;
  torch::ScalarType moments;
  int master_bits = 0;
  bool stochastic = false;
};

std::vector<Layout> layouts() {
  std::vector<Layout> all;
  for (const auto moments : {torch::kFloat, torch::kBFloat16, torch::kByte}) {
    all.push_back({torch::kFloat, torch::kFloat, moments});
    for (const auto gradients : {torch::kHalf, torch::kFloat})
      all.push_back({torch::kHalf, gradients, moments});
    for (const auto gradients : {torch::kBFloat16, torch::kFloat})
      for (const int bits : {0, 8, 16})
        for (const bool stochastic : {false, true})
          all.push_back({torch::kBFloat16, gradients, moments, bits, stochastic});
  }
  return all;
}

std::string text(const Layout& layout) {
  return c10::str(layout.weights, " weights, ", layout.gradients, " gradients, ", layout.moments,
                  " moments, ", layout.master_bits, " master bits, stochastic ", layout.stochastic);
}

AdamWTensors random_tensors(std::int64_t size, const Layout& layout) {
  AdamWTensors t{
      torch::randn({size}).to(layout.weights),
      (torch::randn({size}) * torch::pow(10.0, torch::randn({size}))).to(layout.gradients),
      torch::randn({size}), torch::rand({size})};
  if (layout.master_bits > 0)
    t.master_low = torch::randint(0, 256, {size}, torch::kByte)
                       .to(layout.master_bits == 8 ? torch::kByte : torch::kShort);
  if (layout.moments == torch::kByte) {
    const torch::Tensor first = t.exp_avg;
    const torch::Tensor second = t.exp_avg_sq;
    t.exp_avg = torch::empty({size}, torch::kByte);
    t.exp_avg_sq = torch::empty({size}, torch::kByte);
    t.exp_avg_scale = torch::empty({moment_scales(size)});
    t.exp_avg_sq_scale = torch::empty({moment_scales(size)});
    encode_moments_(first, Moment::kFirst, t.exp_avg, t.exp_avg_scale);
    encode_moments_(second, Moment::kSecond, t.exp_avg_sq, t.exp_avg_sq_scale);
  } else {
    t.exp_avg = t.exp_avg.to(layout.moments);
    t.exp_avg_sq = t.exp_avg_sq.to(layout.moments);
  }
  return t;
}

std::vector<torch::Tensor> all_of(const AdamWTensors& t) {
  return {t.weights, t.exp_avg, t.exp_avg_sq, t.exp_avg_scale, t.exp_avg_sq_scale, t.master_low};
}

torch::Tensor copy_of(const torch::Tensor& t) { return t.defined() ? t.clone() : t; }

AdamWTensors copy_of(const AdamWTensors& t) {
  return {t.weights.clone(),    t.gradients.clone(),      t.exp_avg.clone(),
          t.exp_avg_sq.clone(), copy_of(t.exp_avg_scale), copy_of(t.exp_avg_sq_scale),
          copy_of(t.master_low)};
}

torch::Tensor part(const torch::Tensor& t, std::int64_t begin, std::int64_t end) {
  return t.defined() ? t.slice(0, begin, end) : t;
}

AdamWTensors part(const AdamWTensors& t, std::int64_t begin, std::int64_t end) {
  const std::int64_t last = (end + 255) / 256;
  return {part(t.weights, begin, end),
          part(t.gradients, begin, end),
          part(t.exp_avg, begin, end),
          part(t.exp_avg_sq, begin, end),
          part(t.exp_avg_scale, begin / 256, last),
          part(t.exp_avg_sq_scale, begin / 256, last),
          part(t.master_low, begin, end)};
}

AdamWArguments arguments_for(std::int64_t step, bool stochastic, double found_inf = 0.0) {
  return {.lr = 3e-3,
          .beta1 = 0.9,
          .beta2 = 0.95,
          .eps = 1e-8,
          .weight_decay = 0.1,
          .stochastic_rounding = stochastic,
          .seed = 11,
          .first_index = 0,
          .step = torch::tensor(step),
          .gradient_factor = torch::tensor(0.37),
          .found_inf = torch::tensor(found_inf)};
}

// Bits, and any nan for a nan.
bool same(const torch::Tensor& a, const torch::Tensor& b) {
  if (!a.defined() || !b.defined()) return a.defined() == b.defined();
  if (!a.is_floating_point()) return torch::equal(a, b);
  return torch::equal(a.isnan(), b.isnan()) && torch::equal(a.nan_to_num(), b.nan_to_num()) &&
         torch::equal(a.signbit().logical_and(a.isnan().logical_not()),
                      b.signbit().logical_and(b.isnan().logical_not()));
}

void expect_same(const AdamWTensors& a, const AdamWTensors& b) {
  const std::vector<torch::Tensor> left = all_of(a);
  const std::vector<torch::Tensor> right = all_of(b);
  for (std::size_t k = 0; k < left.size(); ++k)
    EXPECT_TRUE(same(left[k], right[k])) << "tensor " << k;
}

TEST(AdamWLayouts, HaveTheBitsOfTheCompositionForEverySize) {
  torch::manual_seed(1);
  for (const Layout& layout : layouts()) {
    for (const std::int64_t size : {0, 1, 17, 255, 256, 257, 5003}) {
      SCOPED_TRACE(text(layout) + ", size " + std::to_string(size));
      const AdamWTensors ours = random_tensors(size, layout);
      const AdamWTensors reference = copy_of(ours);
      for (std::int64_t step = 1; step <= 3; ++step) {
        adamw_(ours, arguments_for(step, layout.stochastic));
        adamw_reference_(reference, arguments_for(step, layout.stochastic));
      }
      expect_same(ours, reference);
    }
  }
}

TEST(AdamWLayouts, HaveTheSameBitsOnEveryInstructionSet) {
  torch::manual_seed(2);
  for (const Layout& layout : layouts()) {
    SCOPED_TRACE(text(layout));
    const AdamWTensors start = random_tensors(1300, layout);
    const AdamWTensors reference = copy_of(start);
    adamw_reference_(reference, arguments_for(2, layout.stochastic));
    test::for_each_instruction_set([&] {
      const AdamWTensors ours = copy_of(start);
      adamw_(ours, arguments_for(2, layout.stochastic));
      expect_same(ours, reference);
    });
  }
}

TEST(AdamWLayouts, CutsAndThreadsDoNotShow) {
  torch::manual_seed(3);
  const int before = torch::get_num_threads();
  for (const Layout& layout : layouts()) {
    SCOPED_TRACE(text(layout));
    const AdamWTensors whole = random_tensors(70001, layout);
    const AdamWTensors parts = copy_of(whole);
    AdamWArguments arguments = arguments_for(7, layout.stochastic);
    torch::set_num_threads(3);
    adamw_(whole, arguments);
    torch::set_num_threads(1);
    const std::vector<std::int64_t> cuts = {0, 256, 30 * 256, 70001};
    for (std::size_t k = 0; k + 1 < cuts.size(); ++k) {
      arguments.first_index = cuts[k];
      adamw_(part(parts, cuts[k], cuts[k + 1]), arguments);
    }
    expect_same(whole, parts);
  }
  torch::set_num_threads(before);
}

// One element into a storage of its own.
torch::Tensor shifted(const torch::Tensor& t) {
  return t.defined() ? torch::cat({torch::zeros({1}, t.options()), t}).slice(0, 1) : t;
}

TEST(AdamWLayouts, AcceptUnalignedStarts) {
  torch::manual_seed(5);
  for (const Layout& layout : layouts()) {
    SCOPED_TRACE(text(layout));
    const AdamWTensors aligned = random_tensors(1111, layout);
    const AdamWTensors moved = {shifted(aligned.weights),       shifted(aligned.gradients),
                                shifted(aligned.exp_avg),       shifted(aligned.exp_avg_sq),
                                shifted(aligned.exp_avg_scale), shifted(aligned.exp_avg_sq_scale),
                                shifted(aligned.master_low)};
    adamw_(aligned, arguments_for(3, layout.stochastic));
    adamw_(moved, arguments_for(3, layout.stochastic));
    expect_same(aligned, moved);
  }
}

TEST(AdamWLayouts, CarryInfAndNanAsTheCompositionDoes) {
  for (const Layout& layout : layouts()) {
    SCOPED_TRACE(text(layout));
    const AdamWTensors ours = random_tensors(600, layout);
    const std::vector<float> special = {kInf, -kInf, NAN, 0.0F, 1e-45F, 3.4e38F};
    for (std::size_t k = 0; k < special.size(); ++k) {
      ours.gradients[static_cast<std::int64_t>(k)] = special[k];
      ours.weights[static_cast<std::int64_t>(300 + k)] = special[k];
    }
    const AdamWTensors reference = copy_of(ours);
    for (std::int64_t step = 1; step <= 2; ++step) {
      adamw_(ours, arguments_for(step, layout.stochastic));
      adamw_reference_(reference, arguments_for(step, layout.stochastic));
    }
    expect_same(ours, reference);
  }
}

TEST(AdamWLayouts, ChangeNothingWhereInfWasFound) {
  for (const Layout& layout : layouts()) {
    for (const auto step : {adamw_, adamw_reference_}) {
      const AdamWTensors tensors = random_tensors(300, layout);
      const AdamWTensors before = copy_of(tensors);
      step(tensors, arguments_for(1, layout.stochastic, 1.0));
      expect_same(tensors, before);
    }
  }
}

// bf16 weights with the lower 16 bits beside them are an fp32 AdamW, bit for bit.
TEST(AdamWLayouts, Split16IsFp32OverAThousandSteps) {
  torch::manual_seed(4);
  constexpr std::int64_t kSize = 1023;
  for (const auto moments : {torch::kFloat, torch::kBFloat16, torch::kByte}) {
    const AdamWTensors split = random_tensors(kSize, {torch::kBFloat16, torch::kBFloat16, moments});
    AdamWTensors whole = copy_of(split);
    AdamWTensors with_low = split;
    with_low.master_low = torch::zeros({kSize}, torch::kShort);
    whole.weights = split.weights.to(torch::kFloat);
    for (std::int64_t step = 1; step <= 1000; ++step) {
      with_low.gradients.copy_(torch::randn({kSize}) * 0.1);
      whole.gradients = with_low.gradients.to(torch::kFloat);
      adamw_(with_low, arguments_for(step, false));
      adamw_(whole, arguments_for(step, false));
    }
    const torch::Tensor master = joined_master({with_low.weights, with_low.master_low});
    EXPECT_TRUE(torch::equal(master.view(torch::kInt), whole.weights.view(torch::kInt)));
    EXPECT_TRUE(torch::equal(with_low.exp_avg, whole.exp_avg));
    EXPECT_TRUE(torch::equal(with_low.exp_avg_sq, whole.exp_avg_sq));
  }
}

// A gradient of constant size: exp_avg_sq goes to its square, where bf16 to nearest stops early.
TEST(AdamWLayouts, BFloat16MomentsReachTheirLimitOnAverage) {
  constexpr std::int64_t kSize = 4096;
  AdamWTensors t{torch::zeros({kSize}), torch::ones({kSize}),
                 torch::zeros({kSize}, torch::kBFloat16), torch::zeros({kSize}, torch::kBFloat16)};
  AdamWArguments arguments = arguments_for(1, false);
  arguments.beta2 = 0.999;
  arguments.gradient_factor = torch::tensor(1.0);
  torch::Tensor nearest = torch::zeros({}, torch::kBFloat16);
  for (std::int64_t step = 1; step <= 2000; ++step) {
    arguments.step = torch::tensor(step);
    adamw_(t, arguments);
    nearest = (nearest.to(torch::kFloat) * 0.999 + 0.001).to(torch::kBFloat16);
  }
  const double expected = 1 - std::pow(0.999, 2000);
  EXPECT_LT(nearest.item<float>(), 0.5 * expected);  // what this rounding is there to prevent
  EXPECT_NEAR(t.exp_avg_sq.to(torch::kDouble).mean().item<double>(), expected, 0.005);
  EXPECT_NEAR(t.exp_avg.to(torch::kDouble).mean().item<double>(), 1.0, 0.005);
}

TEST(AdamWLayouts, RefuseWhatDoesNotFitTogether) {
  const AdamWArguments arguments = arguments_for(1, false);
  AdamWTensors t = random_tensors(512, {torch::kBFloat16, torch::kBFloat16, torch::kByte, 16});
  AdamWTensors bad = t;
  bad.exp_avg_scale = torch::zeros({1});
  EXPECT_THROW(adamw_(bad, arguments), c10::Error);
  bad = t;
  bad.exp_avg_sq_scale = torch::Tensor();
  EXPECT_THROW(adamw_(bad, arguments), c10::Error);
  bad = t;
  bad.master_low = torch::zeros({512}, torch::kInt);
  EXPECT_THROW(adamw_(bad, arguments), c10::Error);
  bad = t;
  bad.weights = torch::zeros({512});
  bad.gradients = torch::zeros({512});
  EXPECT_THROW(adamw_(bad, arguments), c10::Error);  // a master beside fp32 weights
  AdamWArguments between = arguments;
  between.first_index = 64;
  EXPECT_THROW(adamw_(t, between), c10::Error);
}

using AdamWLayoutsOff = test::OnDevices;
HALFTONE_OFF_THE_CPU(AdamWLayoutsOff);

// All but a few roundings: sums that are compiled otherwise may fall to either side of a middle.
TEST_P(AdamWLayoutsOff, EqualTheCpu) {
  torch::manual_seed(12);
  for (const Layout& layout : layouts()) {
    SCOPED_TRACE(text(layout));
    const AdamWTensors cpu = random_tensors(1000, layout);
    AdamWTensors moved = copy_of(cpu);
    for (torch::Tensor* one : {&moved.weights, &moved.gradients, &moved.exp_avg, &moved.exp_avg_sq,
                               &moved.exp_avg_scale, &moved.exp_avg_sq_scale, &moved.master_low})
      *one = here(*one);
    AdamWArguments arguments = arguments_for(3, layout.stochastic);
    const torch::Tensor before = cpu.weights.clone();
    adamw_(cpu, arguments);
    for (torch::Tensor* one : {&arguments.step, &arguments.gradient_factor, &arguments.found_inf})
      *one = here(*one);
    adamw_(moved, arguments);
    EXPECT_FALSE(cpu.weights.equal(before));
    const double relative = layout.weights == torch::kFloat ? 1e-6 : 1e-2;
    EXPECT_TRUE(torch::allclose(moved.weights.cpu().to(torch::kFloat),
                                cpu.weights.to(torch::kFloat), relative, 1e-6));
    for (std::size_t i = 1; i < all_of(cpu).size(); ++i) {
      const torch::Tensor ours = all_of(moved)[i], theirs = all_of(cpu)[i];
      ASSERT_EQ(ours.defined(), theirs.defined());
      if (!theirs.defined()) continue;
      const torch::Tensor near =
          ours.cpu().to(torch::kDouble).isclose(theirs.to(torch::kDouble), 1e-5, 1e-9);
      EXPECT_GT(near.to(torch::kDouble).mean().item<double>(), 0.98) << "tensor " << i;
    }
  }
}

}  // namespace
}  // namespace halftone::adamw_layouts_test
