// SPDX-License-Identifier: Apache-2.0
// The bytes of each of several processes against those of optimizers that share.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <algorithm>
#include <string>
#include <tuple>

#include "halftone/core/error.h"
#include "halftone/optim/adamw.h"
#include "halftone/optim/adamw_share.h"
#include "halftone/plan/run_plan.h"
#include "support/message_of.h"
#include "support/thread_group.h"

namespace halftone::shared_plan_test {
namespace {

using torch::Tensor;

const std::vector<AdamWOptions>& options_to_try() {
  static const std::vector<AdamWOptions> all{
      {},
      {.moments = MomentStorage::kInt8},
      {.stochastic_rounding = true, .moments = MomentStorage::kInt8, .fp32_gradients = true},
      {.master = MasterWeights::kSplit16, .moments = MomentStorage::kBFloat16}};
  return all;
}

/// Several buckets, one matrix larger than a bucket, norms between them.
std::vector<std::pair<std::string, Tensor>> parameters(torch::ScalarType dtype) {
  const std::vector<std::vector<std::int64_t>> shapes{{3000, 801}, {801},       {900, 1200}, {1},
                                                      {1200, 900}, {700, 1303}, {0},         {70}};
  std::vector<std::pair<std::string, Tensor>> named;
  for (const std::vector<std::int64_t>& shape : shapes)
    named.emplace_back("p" + std::to_string(named.size()),
                       torch::zeros(shape, dtype).set_requires_grad(true));
  return named;
}

/// Options, processes, how much is shared beside the states, dtype.
enum class Beside { kNothing, kGradients, kWeights };
class Shared : public testing::TestWithParam<
                   std::tuple<std::size_t, std::int64_t, Beside, torch::ScalarType>> {};

TEST_P(Shared, IsWhatEachProcessAllocates) {
  const auto& [which, processes, beside, dtype] = GetParam();
  const AdamWOptions& options = options_to_try()[which];
  const AdamWShare share{.processes = processes,
                         .states = true,
                         .gradients = beside != Beside::kNothing,
                         .weights = beside == Beside::kWeights,
                         .block_of = std::vector<std::int64_t>(parameters(dtype).size(), -1)};
  const std::vector<AdamWShareBytes> planned =
      adamw_share_bytes(shapes_of(tied_parameters(parameters(dtype))), options, share);
  ASSERT_EQ(std::ssize(planned), processes);
  run_as_group(processes, [&](ProcessGroup& group) {
    AdamWOptions own = options;
    own.shard_over = {&group, [](ProcessGroup*) {}};
    own.shard_gradients = share.gradients;
    own.shard_weights = share.weights;
    const AdamW optimizer(parameters(dtype), own);
    EXPECT_EQ(planned[static_cast<std::size_t>(group.rank())].optimizer, optimizer.bytes());
  });
}

INSTANTIATE_TEST_SUITE_P(Layouts, Shared,
                         testing::Combine(testing::Values<std::size_t>(0, 1, 2, 3),
                                          testing::Values<std::int64_t>(2, 3, 8),
                                          testing::Values(Beside::kNothing, Beside::kGradients,
                                                          Beside::kWeights),
                                          testing::Values(torch::kFloat, torch::kBFloat16)));

constexpr std::int64_t kMatrix = 4096 * 1024;  // elements: 16 MiB in fp32, a bucket by itself

std::vector<ParameterShape> four_buckets() {
  return std::vector<ParameterShape>(4, {.sizes = {4096, 1024}});
}

TEST(SharedBytes, CountTheCopiesOfTwoBuckets) {
  const auto share = [](GradientTransport transport) {
    return adamw_share_bytes(four_buckets(), {}, {.processes = 4, .transport = transport}).front();
  };
  const AdamWShareBytes exact = share(GradientTransport::kExact);
  EXPECT_EQ(exact.buckets, 4);
  EXPECT_EQ(exact.under_way, 2 * 2 * 4 * kMatrix);  // sent and received
  EXPECT_EQ(exact.gradients_in_transit, 4 * 4 * kMatrix);
  EXPECT_EQ(exact.last_bucket, 4 * kMatrix);
  EXPECT_EQ(exact.unsent, 0);
  const AdamWShareBytes bf16 = share(GradientTransport::kBFloat16);
  EXPECT_EQ(bf16.under_way, 2 * 2 * 2 * kMatrix + 4 * kMatrix);  // and the sum in fp32
  EXPECT_EQ(bf16.gradients_in_transit, 4 * 2 * kMatrix);
}

TEST(SharedBytes, AreAQuarterOfTheStatesInEachOfFour) {
  const AdamWShare share{.processes = 4, .states = true, .gradients = true};
  for (const AdamWShareBytes& own : adamw_share_bytes(four_buckets(), {}, share)) {
    EXPECT_EQ(own.optimizer.weights, 4 * 4 * kMatrix);
    EXPECT_EQ(own.optimizer.moments, 8 * kMatrix);
    EXPECT_EQ(own.optimizer.gradients, 4 * kMatrix);
    EXPECT_EQ(own.unsent, 2 * 4 * kMatrix);
  }
}

// The first is in use all the time, the others are blocks, each with a bucket of its own; a block's
// weights come while the one before it runs.
TEST(SharedBytes, CountTheWeightsInUse) {
  const AdamWShare share{.processes = 4,
                         .states = true,
                         .gradients = true,
                         .weights = true,
                         .block_of = {-1, 0, 1, 2}};
  for (const AdamWShareBytes& own : adamw_share_bytes(four_buckets(), {}, share)) {
    EXPECT_EQ(own.optimizer.weights, 4 * kMatrix);
    EXPECT_EQ(own.in_use, 3 * 3 * kMatrix);
    EXPECT_EQ(own.weights_behind, 4 * kMatrix);
    EXPECT_EQ(own.weights_in_transit, 3 * 4 * kMatrix);
  }
}

PlanRequest request(const AdamWShare& share) {
  return {.model = {.dim = 512, .n_layers = 8, .n_heads = 8, .vocab_size = 4000},
          .shape = {.batch_size = 1, .predictions = 32},
          .precision = "32-true",
          .memory = {},
          .budget_bytes = std::uint64_t{1} << 40U,
          .share = share};
}

TEST(SharedPlan, HoldsLessTheMoreIsShared) {
  const auto bytes = [](const AdamWShare& share) { return plan_memory(request(share), 0).bytes; };
  const MemoryBytes one = bytes({});
  const MemoryBytes none = bytes({.processes = 4});
  const MemoryBytes states = bytes({.processes = 4, .states = true});
  const MemoryBytes all = bytes({.processes = 4, .states = true, .gradients = true});
  EXPECT_EQ(none.states, one.states);
  EXPECT_EQ(none.gradients, one.gradients);
  EXPECT_GT(none.workspace, one.workspace + (std::uint64_t{32} << 20U));
  EXPECT_NEAR(static_cast<double>(states.states) / static_cast<double>(one.states), 0.25, 0.01);
  EXPECT_EQ(states.gradients, one.gradients);
  EXPECT_EQ(all.states, states.states);
  EXPECT_LT(all.gradients, one.gradients / 2);
  EXPECT_EQ(all.weights, one.weights);
}

TEST(SharedPlan, LeavesOutWhatSeveralProcessesCanNotDo) {
  const MachineSpeed speed{.matmuls = {{ComputeType::kFloat32, 1e11},
                                       {ComputeType::kBFloat16, 1e11},
                                       {ComputeType::kFloat16, 1e11},
                                       {ComputeType::kInt8, 1e11},
                                       {ComputeType::kFloat8Rows, 1e11},
                                       {ComputeType::kFloat8, 1e11}},
                           .memory = 1e10};
  const auto has_leanest = [&](const AdamWShare& share) {
    const RunPlan plan = plan_run(request(share), speed, 0);
    return std::any_of(plan.recipes.begin(), plan.recipes.end(),
                       [](const RecipePlan& one) { return one.memory == "leanest"; });
  };
  EXPECT_TRUE(has_leanest({}));
  EXPECT_FALSE(has_leanest({.processes = 2}));
  PlanRequest leanest = request({.processes = 2});
  leanest.memory.memory = "leanest";
  EXPECT_NE(test::message_of<UserError>([&] { plan_memory(leanest, 0); }).find("memory lean"),
            std::string::npos);
}

}  // namespace
}  // namespace halftone::shared_plan_test
