// SPDX-License-Identifier: Apache-2.0
// Optimizers whose states are shared over processes, beside one that has all of them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "halftone/optim/adamw.h"
#include "halftone/optim/arena_shards.h"
#include "halftone/optim/gradient_reducer.h"
#include "halftone/optim/state_parts.h"
#include "support/message_of.h"
#include "support/thread_group.h"

namespace halftone::adamw_shards_test {
namespace {

using testing::HasSubstr;
using torch::Tensor;

// Of the group's own threads: somebody else owns it.
std::shared_ptr<ProcessGroup> shared(ProcessGroup& group) {
  return {&group, [](ProcessGroup*) {}};
}

struct Layout {
  const char* name;
  torch::ScalarType weights;
  AdamWOptions options;
};

const std::vector<Layout>& layouts() {
  static const std::vector<Layout> all{
      {"fp32", torch::kFloat, {}},
      {"bf16Moments", torch::kFloat, {.moments = MomentStorage::kBFloat16}},
      {"int8Moments", torch::kFloat, {.moments = MomentStorage::kInt8}},
      {"bf16Rounded", torch::kBFloat16, {.stochastic_rounding = true, .fp32_gradients = true}},
      {"split8AndInt8",
       torch::kBFloat16,
       {.stochastic_rounding = true,
        .master = MasterWeights::kSplit8,
        .moments = MomentStorage::kInt8}},
      {"split16", torch::kBFloat16, {.master = MasterWeights::kSplit16}}};
  return all;
}

// The third is never used.
std::vector<std::pair<std::string, Tensor>> parameters(torch::ScalarType dtype) {
  auto generator = torch::make_generator<torch::CPUGeneratorImpl>(5);
  std::vector<std::pair<std::string, Tensor>> named;
  const std::vector<std::vector<std::int64_t>> shapes{{300, 301}, {70},       {80, 90},
                                                      {1},        {128, 600}, {0}};
  for (std::size_t i = 0; i < shapes.size(); ++i)
    named.emplace_back(
        "p" + std::to_string(i),
        torch::randn(shapes[i], generator).mul(0.1).to(dtype).set_requires_grad(true));
  return named;
}

void step(AdamW& optimizer, std::uint64_t number, double found_inf = 0.0) {
  auto generator = torch::make_generator<torch::CPUGeneratorImpl>(100 + number);
  optimizer.zero_grad();
  for (const std::size_t i : {0U, 1U, 3U, 4U}) {
    const Tensor& parameter = optimizer.parameter(i);
    if (i == 3 && number == 2) continue;  // misses a step
    parameter.mutable_grad().add_(
        torch::randn(parameter.sizes(), generator).to(parameter.grad().scalar_type()));
  }
  optimizer.step_scaled(torch::scalar_tensor(0.5), torch::scalar_tensor(found_inf));
}

void expect_equal_states(const StateDict& a, const StateDict& b) {
  ASSERT_EQ(a.tensors.size(), b.tensors.size());
  for (const auto& [name, tensor] : b.tensors)
    EXPECT_TRUE(a.tensor(name).flatten().equal(b.tensor(name).flatten())) << name;
  EXPECT_EQ(a.values, b.values);
}

StateDict gathered(ProcessGroup& group, const StateDict& own, std::vector<StateDict>& board) {
  board[static_cast<std::size_t>(group.rank())] = own;
  group.all_gather(std::string());
  StateDict all;
  for (const StateDict& one : board) all.insert("", one);
  group.all_gather(std::string());
  return whole_states(all);
}

class Sharded : public testing::TestWithParam<std::tuple<std::size_t, std::int64_t>> {};

TEST_P(Sharded, HasTheBitsOfOneProcessAndAPartOfTheStates) {
  const Layout& layout = layouts()[std::get<0>(GetParam())];
  const std::int64_t processes = std::get<1>(GetParam());
  AdamW whole(parameters(layout.weights), layout.options);
  for (std::uint64_t number = 0; number < 4; ++number) step(whole, number);
  step(whole, 4, /*found_inf=*/1.0);
  std::vector<StateDict> board(static_cast<std::size_t>(processes));
  run_as_group(processes, [&](ProcessGroup& group) {
    AdamWOptions options = layout.options;
    options.shard_over = shared(group);
    AdamW own(parameters(layout.weights), options);
    for (std::uint64_t number = 0; number < 4; ++number) step(own, number);
    step(own, 4, /*found_inf=*/1.0);
    for (std::size_t i = 0; i < 6; ++i)
      EXPECT_TRUE(own.parameter(i).equal(whole.parameter(i))) << i;
    const std::int64_t part = own.bytes().moments + own.bytes().master;
    const std::int64_t all = whole.bytes().moments + whole.bytes().master;
    EXPECT_LE(part, all / processes + all / 3) << "of " << all;
    expect_equal_states(gathered(group, own.state_dict(), board), whole.state_dict());
  });
}

TEST_P(Sharded, GoesOnFromTheStatesOfAnyNumberOfProcesses) {
  const Layout& layout = layouts()[std::get<0>(GetParam())];
  AdamW whole(parameters(layout.weights), layout.options);
  for (std::uint64_t number = 0; number < 3; ++number) step(whole, number);
  const StateDict saved = whole.state_dict();
  std::vector<Tensor> weights;
  for (std::size_t i = 0; i < 6; ++i) weights.push_back(whole.parameter(i).detach().clone());
  StateDict kept{.values = saved.values};
  for (const auto& [name, tensor] : saved.tensors) kept.tensors[name] = tensor.clone();
  step(whole, 3);
  run_as_group(std::get<1>(GetParam()), [&](ProcessGroup& group) {
    AdamWOptions options = layout.options;
    options.shard_over = shared(group);
    AdamW own(parameters(layout.weights), options);
    {
      const torch::NoGradGuard no_grad;
      for (std::size_t i = 0; i < 6; ++i) own.parameter(i).copy_(weights[i]);
    }
    own.load_state_dict(kept);
    step(own, 3);
    for (std::size_t i = 0; i < 6; ++i)
      EXPECT_TRUE(own.parameter(i).equal(whole.parameter(i))) << i;
  });
}
INSTANTIATE_TEST_SUITE_P(Layouts, Sharded,
                         testing::Combine(testing::Range<std::size_t>(0, 6),
                                          testing::Values(1, 2, 3, 4)),
                         [](const auto& tested) {
                           return layouts()[std::get<0>(tested.param)].name +
                                  std::to_string(std::get<1>(tested.param));
                         });

TEST(ArenaShards, AddUpStatisticsToTheBit) {
  AdamW whole(parameters(torch::kFloat));
  for (std::size_t i = 0; i < 6; ++i)
    if (i != 2) whole.parameter(i).mutable_grad().copy_(whole.parameter(i));
  whole.parameter(4).mutable_grad()[127][599] = INFINITY;
  whole.parameter(0).mutable_grad()[0][0] = NAN;
  const GradientStats expected = whole.gradient_stats();
  run_as_group(3, [&](ProcessGroup& group) {
    AdamWOptions options;
    options.shard_over = shared(group);
    options.shard_gradients = true;
    AdamW own(parameters(torch::kFloat), options);
    for (std::size_t i = 0; i < 6; ++i)
      if (i != 2) own.parameter(i).mutable_grad().copy_(whole.parameter(i).grad());
    const GradientStats stats = own.gradient_stats();
    EXPECT_TRUE(stats.non_finite.equal(expected.non_finite));
    EXPECT_TRUE(std::isnan(stats.norm_squared.item<double>()) ||
                std::isinf(stats.norm_squared.item<double>()));
    own.parameter(4).mutable_grad()[127][599] = 1.0;
    own.parameter(0).mutable_grad()[0][0] = 2.0;
    AdamW finite(parameters(torch::kFloat));
    for (std::size_t i = 0; i < 6; ++i)
      if (i != 2) finite.parameter(i).mutable_grad().copy_(own.parameter(i).grad());
    EXPECT_EQ(own.gradient_stats().norm_squared.item<double>(),
              finite.gradient_stats().norm_squared.item<double>());
  });
}

TEST(StateParts, BecomeWholeTensorsThatAreReadLate) {
  StateDict parts;
  parts.tensors[part_name("w", 3, 2)] = torch::tensor({4.0, 5.0});
  parts.tensors[part_name("w", 0, 3)] = torch::tensor({1.0, 2.0, 3.0});
  parts.tensors["b"] = torch::tensor({7.0});
  const StateDict whole = whole_states(parts);
  EXPECT_TRUE(whole.meta("w").is_meta());
  EXPECT_TRUE(whole.tensor("w").equal(torch::tensor({1.0, 2.0, 3.0, 4.0, 5.0})));
  EXPECT_TRUE(whole.tensor("b").equal(torch::tensor({7.0})));
  parts.tensors.erase(part_name("w", 0, 3));
  EXPECT_THAT(test::message_of<UserError>([&] { whole_states(parts); }),
              HasSubstr("no elements from 0 on of 'w'"));
}

}  // namespace
}  // namespace halftone::adamw_shards_test
