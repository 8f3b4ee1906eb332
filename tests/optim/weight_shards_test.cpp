// SPDX-License-Identifier: Apache-2.0
#include "halftone/optim/weight_shards.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "halftone/optim/adamw.h"
#include "support/thread_group.h"

namespace halftone::weight_shards_test {
namespace {

using torch::Tensor;

constexpr std::int64_t kSize = 50000;  // of a parameter, which is a bucket

Tensor value_of(std::size_t index) {
  auto generator = torch::make_generator<torch::CPUGeneratorImpl>(10 + index);
  return torch::randn({kSize}, generator);
}

std::vector<std::pair<std::string, Tensor>> parameters() {
  std::vector<std::pair<std::string, Tensor>> named;
  for (std::size_t i = 0; i < 4; ++i)
    named.emplace_back("p" + std::to_string(i), value_of(i).set_requires_grad(true));
  return named;
}

/// An arena of four parameters, each a bucket of its own.
class Weights {
 public:
  explicit Weights(ProcessGroup& group)
      : rank_(group.rank()),
        optimizer_(parameters(), {.bucket_bytes = 4 * kSize}),
        shards_(optimizer_.arena(), group) {
    for (const GradientBucket& bucket : gradient_buckets(optimizer_.arena(), group.size()))
      pieces_[bucket.parameters.front()] = bucket.pieces[static_cast<std::size_t>(rank_)];
  }

  WeightShards& shards() { return shards_; }
  Tensor weight(std::size_t index) const { return optimizer_.parameter(index).detach(); }
  /// The part of a flat parameter that is this process's.
  Tensor own(const Tensor& flat, std::size_t index) const {
    const std::int64_t first = optimizer_.arena().place(index).range.begin;
    const Range piece = pieces_.at(index);
    return flat.narrow(0, piece.begin - first, piece.end - piece.begin);
  }
  bool is_complete(std::size_t index) const { return weight(index).equal(value_of(index)); }
  /// Whether the own part is there, and nothing else.
  bool is_own_alone(std::size_t index) const {
    Tensor expected = torch::zeros({kSize});
    own(expected, index).copy_(own(value_of(index), index));
    return weight(index).equal(expected);
  }

 private:
  std::int64_t rank_;
  AdamW optimizer_;
  WeightShards shards_;
  std::map<std::size_t, Range> pieces_;
};

class Shards : public testing::TestWithParam<std::int64_t> {};

TEST_P(Shards, AreCompleteWhileTheyAreInUse) {
  run_as_group(GetParam(), [](ProcessGroup& group) {
    Weights weights(group);
    for (std::size_t i = 0; i < 4; ++i) EXPECT_TRUE(weights.is_complete(i));
    weights.shards().unshard({1, 2});
    weights.shards().reshard({1, 2});
    EXPECT_TRUE(weights.is_complete(0));
    EXPECT_TRUE(weights.is_own_alone(1));
    EXPECT_TRUE(weights.is_own_alone(2));
    EXPECT_TRUE(weights.is_complete(3));
    weights.shards().unshard({2});
    weights.shards().unshard({2, 3});
    weights.shards().reshard({2});
    EXPECT_TRUE(weights.is_own_alone(1));
    EXPECT_TRUE(weights.is_complete(2)) << "used by one more";
    weights.shards().reshard({2, 3});
    EXPECT_TRUE(weights.is_own_alone(2));
    EXPECT_TRUE(weights.is_own_alone(3));
  });
}

TEST_P(Shards, BringWhatTheirOwnersHaveUpdated) {
  run_as_group(GetParam(), [](ProcessGroup& group) {
    const torch::NoGradGuard no_grad;
    Weights weights(group);
    weights.shards().unshard({1});
    weights.shards().reshard({1});
    for (const std::size_t i : {0U, 1U}) weights.own(weights.weight(i), i).add_(1);
    weights.shards().refresh();
    EXPECT_TRUE(weights.weight(0).equal(value_of(0) + 1));
    weights.shards().unshard({1});
    EXPECT_TRUE(weights.weight(1).equal(value_of(1) + 1));
  });
}

TEST_P(Shards, ComeBeforeTheyAreNeeded) {
  run_as_group(GetParam(), [&](ProcessGroup& group) {
    Weights weights(group);
    weights.shards().unshard({0, 1, 2});
    weights.shards().reshard({0, 1, 2});
    weights.shards().unshard({0, 1});
    weights.shards().prefetch({1, 2});
    weights.shards().reshard({0, 1});
    EXPECT_TRUE(weights.is_own_alone(0));
    EXPECT_TRUE(weights.is_complete(1)) << "kept for those to whom it comes";
    weights.shards().unshard({1, 2});
    EXPECT_TRUE(weights.is_complete(1));
    EXPECT_TRUE(weights.is_complete(2));
    weights.shards().prefetch({0});
    weights.shards().reshard({1, 2});
    EXPECT_TRUE(weights.is_own_alone(1));
    EXPECT_TRUE(weights.is_own_alone(2));
    weights.shards().unshard({3});  // something else
    EXPECT_TRUE(weights.is_own_alone(0));
    weights.shards().prefetch({1});
    weights.shards().drop_prefetched();
    EXPECT_TRUE(weights.is_own_alone(1));
  });
}

TEST_P(Shards, AreCompleteOnOneProcessOrOnAllUntilTheyAreDropped) {
  run_as_group(GetParam(), [&](ProcessGroup& group) {
    Weights weights(group);
    weights.shards().unshard({0, 1});
    weights.shards().reshard({0, 1});
    weights.shards().complete(0);
    for (const std::size_t i : {0U, 1U})
      EXPECT_TRUE(group.rank() == 0 ? weights.is_complete(i) : weights.is_own_alone(i));
    weights.shards().drop_unused();
    EXPECT_TRUE(weights.is_own_alone(0));
    weights.shards().complete();
    weights.shards().unshard({0});
    weights.shards().reshard({0});
    EXPECT_TRUE(weights.is_complete(0)) << "kept until it is dropped";
    weights.shards().drop_unused();
    EXPECT_TRUE(weights.is_own_alone(0));
    EXPECT_TRUE(weights.is_complete(2));
  });
}
INSTANTIATE_TEST_SUITE_P(Processes, Shards, testing::Values(1, 2, 3, 5));

}  // namespace
}  // namespace halftone::weight_shards_test
