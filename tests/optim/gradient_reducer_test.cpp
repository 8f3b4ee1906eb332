// SPDX-License-Identifier: Apache-2.0
#include "halftone/optim/gradient_reducer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <algorithm>
#include <limits>
#include <set>

#include "halftone/optim/adamw.h"
#include "halftone/optim/loose_gradient_reducer.h"
#include "support/message_of.h"
#include "support/thread_group.h"

namespace halftone::gradient_reducer_test {
namespace {

using testing::HasSubstr;
using torch::Tensor;

std::vector<std::pair<std::string, Tensor>> parameters_of_sizes(
    const std::vector<std::int64_t>& sizes, torch::ScalarType dtype = torch::kFloat) {
  std::vector<std::pair<std::string, Tensor>> named;
  for (std::size_t i = 0; i < sizes.size(); ++i)
    named.emplace_back(
        "p" + std::to_string(i),
        torch::full({sizes[i]}, 0.01 * static_cast<double>(i + 1), dtype).set_requires_grad(true));
  return named;
}

Tensor noise(std::int64_t size, std::uint64_t seed) {
  auto generator = torch::make_generator<torch::CPUGeneratorImpl>(seed);
  return torch::randn({size}, generator);
}

// Those with even numbers, and those with odd ones: ((0 + 2) + (1 + 3)).
Tensor tree_sum(const std::vector<Tensor>& terms) {
  if (terms.size() == 1) return terms.front();
  std::vector<Tensor> halves[2];
  for (std::size_t i = 0; i < terms.size(); ++i) halves[i % 2].push_back(terms[i]);
  return tree_sum(halves[0]) + tree_sum(halves[1]);
}

TEST(GradientBuckets, CoverEachBufferOnceFromTheLastParameterOn) {
  AdamW optimizer(parameters_of_sizes({70000, 3, 100000, 40, 1, 65536}),
                  {.bucket_bytes = 4 * 50000});
  for (const std::int64_t processes : {1, 2, 3, 8}) {
    const auto buckets = gradient_buckets(optimizer.arena(), processes);
    ASSERT_GE(buckets.size(), 3U);
    EXPECT_EQ(buckets.front().parameters.back(), 5U);
    std::int64_t end = optimizer.arena().buffers()[0].weights.numel();
    for (const GradientBucket& bucket : buckets) {
      EXPECT_EQ(bucket.range.end, end);
      ASSERT_EQ(std::ssize(bucket.pieces), processes);
      std::int64_t at = bucket.range.begin;
      for (const Range& piece : bucket.pieces) {
        EXPECT_EQ(piece.begin, at);
        EXPECT_LE(piece.begin, piece.end);
        at = piece.end;
      }
      EXPECT_EQ(at, bucket.range.end);
      end = bucket.range.begin;
    }
    EXPECT_EQ(end, 0);
  }
}

TEST(GradientBuckets, HavePiecesThatMeetWhereStatisticsDo) {
  AdamW optimizer(parameters_of_sizes({200000, 3, 100000}));
  std::set<std::int64_t> cuts;
  for (std::size_t i = 0; i < 3; ++i) {
    const Range range = optimizer.arena().place(i).range;
    for (std::int64_t at = range.begin; at < range.end; at += kGradientStatsChunk) cuts.insert(at);
  }
  for (const GradientBucket& bucket : gradient_buckets(optimizer.arena(), 4))
    for (const Range& piece : bucket.pieces)
      EXPECT_TRUE(piece.begin == piece.end || cuts.contains(piece.begin)) << piece.begin;
}

class Reduced : public testing::TestWithParam<std::int64_t> {};

TEST_P(Reduced, IsTheTreeOfSumsOnEachProcess) {
  const std::int64_t processes = GetParam();
  const std::vector<std::int64_t> sizes{40000, 5, 70001, 1, 300};
  run_as_group(processes, [&](ProcessGroup& group) {
    AdamW optimizer(parameters_of_sizes(sizes));
    GradientReducer reducer({&optimizer.arena()}, group);
    for (std::uint64_t step = 0; step < 3; ++step) {
      optimizer.zero_grad();
      const auto gradient = [&](std::size_t i, std::int64_t rank) {
        return noise(sizes[i], 100 * step + 10 * i + static_cast<std::uint64_t>(rank));
      };
      Tensor loss = torch::zeros({});
      for (std::size_t i = 0; i < sizes.size(); ++i)
        loss = loss + (optimizer.parameter(i) * gradient(i, group.rank())).sum();
      reducer.begin();
      loss.backward();
      reducer.finish();
      for (std::size_t i = 0; i < sizes.size(); ++i) {
        std::vector<Tensor> all;
        for (std::int64_t rank = 0; rank < processes; ++rank) all.push_back(gradient(i, rank));
        EXPECT_TRUE(optimizer.parameter(i).grad().equal(tree_sum(all))) << i;
      }
    }
  });
}
INSTANTIATE_TEST_SUITE_P(Processes, Reduced, testing::Values(1, 2, 3, 4, 7));

TEST(GradientTree, HasTheSameBitsForAnyShareOfTheMicroBatches) {
  constexpr std::int64_t kSize = 3000;
  std::vector<Tensor> terms;
  for (std::uint64_t m = 0; m < 8; ++m) terms.push_back(noise(kSize, m));
  const Tensor expected = tree_sum(terms);
  for (const std::int64_t processes : {1, 2, 4, 8}) {
    run_as_group(processes, [&](ProcessGroup& group) {
      AdamW optimizer(parameters_of_sizes({kSize}));
      GradientTree tree({&optimizer.arena()});
      GradientReducer reducer({&optimizer.arena()}, group, GradientTransport::kExact, &tree);
      for (int step = 0; step < 2; ++step) {
        optimizer.zero_grad();
        const std::vector<std::int64_t> order = tree_order(8 / processes);
        for (const std::int64_t i : order) {
          const auto m = static_cast<std::size_t>(i * processes + group.rank());
          const Tensor loss = (optimizer.parameter(0) * terms[m]).sum();
          const bool is_last = i == order.back();
          if (is_last) reducer.begin();
          loss.backward();
          if (!is_last) tree.set_aside();
        }
        reducer.finish();
        EXPECT_TRUE(optimizer.parameter(0).grad().equal(expected)) << processes;
      }
    });
  }
  EXPECT_FALSE(expected.equal(torch::stack(terms).sum(0))) << "the order does not matter here";
}

TEST(GradientTree, AddsAnyNumberUpInOneProcess) {
  for (const std::int64_t count : {1, 2, 3, 5, 6, 7}) {
    AdamW optimizer(parameters_of_sizes({4}));
    GradientTree tree({&optimizer.arena()});
    std::vector<std::int64_t> order = tree_order(count), sorted = order;
    std::sort(sorted.begin(), sorted.end());
    for (std::int64_t i = 0; i < count; ++i) EXPECT_EQ(sorted[static_cast<std::size_t>(i)], i);
    for (const std::int64_t i : order) {
      (optimizer.parameter(0) * static_cast<double>(i + 1)).sum().backward();
      if (i != order.back()) tree.set_aside();
    }
    tree.finish();
    const auto total = static_cast<double>(count * (count + 1) / 2);
    EXPECT_TRUE(optimizer.parameter(0).grad().equal(torch::full({4}, total))) << count;
  }
}

TEST(GradientReducer, GivesAllProcessesTheGradientOfOne) {
  run_as_group(3, [](ProcessGroup& group) {
    AdamW optimizer(parameters_of_sizes({10, 20, 30}));
    GradientReducer reducer({&optimizer.arena()}, group);
    optimizer.zero_grad();
    reducer.begin();
    if (group.rank() == 1) (optimizer.parameter(0) * 3.0).sum().backward();
    if (group.rank() == 2) (optimizer.parameter(2) * 2.0).sum().backward();
    reducer.finish();
    EXPECT_TRUE(optimizer.arena().has_gradient(0));
    EXPECT_FALSE(optimizer.arena().has_gradient(1)) << "takes no part on any";
    EXPECT_TRUE(optimizer.parameter(0).grad().equal(torch::full({10}, 3.0)));
    EXPECT_TRUE(optimizer.parameter(2).grad().equal(torch::full({30}, 2.0)));
  });
}

TEST(GradientReducer, TakesGradientsThatWereReplacedAndSendsThemWithoutABackwardPass) {
  run_as_group(2, [](ProcessGroup& group) {
    AdamW optimizer(parameters_of_sizes({10}));
    GradientReducer reducer({&optimizer.arena()}, group);
    Tensor parameter = optimizer.parameter(0);
    parameter.mutable_grad() = torch::full({10}, 1.0 + static_cast<double>(group.rank()));
    reducer.finish();
    EXPECT_TRUE(parameter.grad().equal(torch::full({10}, 3.0)));
  });
}

TEST(GradientReducer, CarriesInfinitiesAndNan) {
  run_as_group(2, [](ProcessGroup& group) {
    AdamW optimizer(parameters_of_sizes({4}));
    GradientReducer reducer({&optimizer.arena()}, group);
    const double inf = std::numeric_limits<double>::infinity();
    const Tensor own = group.rank() == 0 ? torch::tensor({1.0, inf, inf, 2.0})
                                         : torch::tensor({2.0, 1.0, -inf, 3.0});
    reducer.begin();
    (optimizer.parameter(0) * own).sum().backward();
    reducer.finish();
    const Tensor sum = optimizer.parameter(0).grad();
    EXPECT_EQ(sum[0].item<float>(), 3.0F);
    EXPECT_TRUE(std::isinf(sum[1].item<float>()));
    EXPECT_TRUE(std::isnan(sum[2].item<float>()));
    EXPECT_EQ(optimizer.gradient_stats().non_finite[0].item<std::int64_t>(), 2);
  });
}

TEST(GradientReducer, AddsHalvesInFp32) {
  run_as_group(4, [](ProcessGroup& group) {
    AdamW optimizer(parameters_of_sizes({8}, torch::kBFloat16));
    GradientReducer reducer({&optimizer.arena()}, group);
    // 1 + 3 * 2^-9 is above the tie at 1 + 2^-8; added up in bf16 the small ones would be lost.
    const double own = group.rank() == 0 ? 1.0 : std::exp2(-9);
    reducer.begin();
    (optimizer.parameter(0) * own).sum().backward();
    reducer.finish();
    EXPECT_TRUE(optimizer.parameter(0).grad().equal(
        torch::full({8}, 1.0 + std::exp2(-7), torch::kBFloat16)));
  });
}

TEST(GradientReducer, RoundsTwiceWithinItsBoundInBFloat16) {
  constexpr std::int64_t kSize = 5000;
  run_as_group(3, [](ProcessGroup& group) {
    AdamW optimizer(parameters_of_sizes({kSize}));
    GradientReducer reducer({&optimizer.arena()}, group, GradientTransport::kBFloat16);
    reducer.begin();
    (optimizer.parameter(0) * noise(kSize, static_cast<std::uint64_t>(group.rank())))
        .sum()
        .backward();
    reducer.finish();
    Tensor exact = torch::zeros({kSize}, torch::kDouble), sizes = exact.clone();
    for (std::uint64_t rank = 0; rank < 3; ++rank) {
      exact += noise(kSize, rank);
      sizes += noise(kSize, rank).abs();
    }
    const Tensor sum = optimizer.parameter(0).grad();
    const Tensor error = (sum - exact).abs();
    // The second rounding is of a sum that the first one has moved.
    const double unit = std::exp2(-8);
    EXPECT_TRUE((error <= unit * (sizes + exact.abs() + unit * sizes)).all().item<bool>());
    EXPECT_GT(error.max().item<double>(), 0.0);
    EXPECT_TRUE(sum.equal(sum.to(torch::kBFloat16).to(torch::kFloat)));
  });
}

TEST(GradientReducer, RefusesASecondBackwardPass) {
  const std::string message = test::message_of<c10::Error>([] {
    run_as_group(1, [](ProcessGroup& group) {
      AdamW optimizer(parameters_of_sizes({4}));
      GradientReducer reducer({&optimizer.arena()}, group);
      reducer.begin();
      for (int pass = 0; pass < 2; ++pass) optimizer.parameter(0).sum().backward();
    });
  });
  EXPECT_THAT(message, HasSubstr("the gradient of 'p0' came twice"));
}

TEST(GradientReducer, ReducesTwoOptimizersInOneOrder) {
  run_as_group(2, [](ProcessGroup& group) {
    AdamW first(parameters_of_sizes({100})), second(parameters_of_sizes({200}));
    GradientReducer reducer({&first.arena(), &second.arena()}, group);
    reducer.begin();
    // The processes complete them in opposite orders.
    AdamW& a = group.rank() == 0 ? first : second;
    AdamW& b = group.rank() == 0 ? second : first;
    a.parameter(0).sum().backward();
    b.parameter(0).sum().backward();
    reducer.finish();
    EXPECT_TRUE(first.parameter(0).grad().equal(torch::full({100}, 2.0)));
    EXPECT_TRUE(second.parameter(0).grad().equal(torch::full({200}, 2.0)));
  });
}

TEST(LooseGradients, AreAddedUpByDtypeAndGivenToThoseThatHaveNone) {
  run_as_group(2, [](ProcessGroup& group) {
    std::vector<Tensor> parameters{torch::zeros({3, 5}).set_requires_grad(true),
                                   torch::zeros({7}, torch::kDouble).set_requires_grad(true),
                                   torch::zeros({2}).set_requires_grad(true),
                                   torch::zeros({4}).set_requires_grad(true)};
    const auto own = static_cast<double>(group.rank() + 1);
    parameters[0].mutable_grad() = torch::full({5, 3}, own).t();
    parameters[1].mutable_grad() = torch::full({7}, 10.0 * own, torch::kDouble);
    if (group.rank() == 1) parameters[2].mutable_grad() = torch::full({2}, 5.0);
    reduce_gradients(parameters, group);
    EXPECT_TRUE(parameters[0].grad().equal(torch::full({3, 5}, 3.0)));
    EXPECT_TRUE(parameters[1].grad().equal(torch::full({7}, 30.0, torch::kDouble)));
    EXPECT_TRUE(parameters[2].grad().equal(torch::full({2}, 5.0)));
    EXPECT_FALSE(parameters[3].grad().defined());
  });
}

}  // namespace
}  // namespace halftone::gradient_reducer_test
