// SPDX-License-Identifier: Apache-2.0
// The contrastive loss against its formula, and recall against counting.
#include "halftone/nn/contrastive.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "halftone/autocast/autocast.h"

namespace halftone::contrastive_test {
namespace {

using testing::IsEmpty;
using torch::Tensor;

Tensor unit_rows(std::int64_t rows, std::int64_t width) {
  const Tensor x = torch::randn({rows, width});
  return x / x.norm(2, 1, true);
}

Tensor near_one_place(std::int64_t rows) {
  const Tensor x = torch::randn({rows, 16}) * 0.02 + 1;
  return x / x.norm(2, 1, true);
}

TEST(ContrastiveLoss, IsTheMeanOfBothCrossEntropies) {
  torch::manual_seed(1);
  const Tensor a = unit_rows(6, 5).requires_grad_(), b = unit_rows(6, 5).requires_grad_();
  const Tensor scale = torch::tensor({14.0F}).requires_grad_();
  const Tensor loss = contrastive_loss(a, b, scale);
  loss.backward();

  const auto wide = [](const Tensor& x) { return x.detach().to(torch::kDouble).requires_grad_(); };
  const Tensor a64 = wide(a), b64 = wide(b), scale64 = wide(scale);
  Tensor expected = torch::zeros({}, torch::kDouble);
  for (std::int64_t i = 0; i < 6; ++i) {
    const Tensor of_a = (b64 * a64[i]).sum(1) * scale64, of_b = (a64 * b64[i]).sum(1) * scale64;
    expected = expected - (of_a[i] - of_a.logsumexp(0) + of_b[i] - of_b.logsumexp(0)) / 12;
  }
  expected.backward();
  EXPECT_NEAR(loss.item<double>(), expected.item<double>(), 1e-5);
  EXPECT_LT((a.grad() - a64.grad()).abs().max().item<double>(), 1e-5);
  EXPECT_LT((b.grad() - b64.grad()).abs().max().item<double>(), 1e-5);
  EXPECT_NEAR(scale.grad().item<double>(), scale64.grad().item<double>(), 1e-6);
}

// At a temperature of 0.01 a step of bf16 near 1 would be a third of a nat.
TEST(ContrastiveLoss, StaysInFp32UnderAutocast) {
  torch::manual_seed(2);
  const Tensor a = unit_rows(8, 16), b = unit_rows(8, 16), scale = torch::tensor({100.0F});
  const Tensor expected = contrastive_loss(a, b, scale);
  const Autocast bf16(torch::kCPU, torch::kBFloat16, true);
  const Tensor loss = contrastive_loss(a, b, scale);
  EXPECT_EQ(loss.scalar_type(), torch::kFloat);
  EXPECT_TRUE(loss.equal(expected));
  const Tensor narrow = contrastive_loss(a.to(torch::kBFloat16), b.to(torch::kBFloat16), scale);
  EXPECT_EQ(narrow.scalar_type(), torch::kFloat);
}

/// By counting: a query finds its own row when fewer than k others are as near or nearer.
double counted_recall(std::int64_t k, const Tensor& queries, const Tensor& gallery) {
  double found = 0;
  for (std::int64_t i = 0; i < queries.size(0); ++i) {
    const auto near = [&](std::int64_t j) { return queries[i].dot(gallery[j]).item<double>(); };
    std::int64_t before = 0;
    for (std::int64_t j = 0; j < gallery.size(0); ++j)
      if (j != i && near(j) >= near(i)) ++before;
    found += before < k ? 1 : 0;
  }
  return found / static_cast<double>(queries.size(0));
}

// Small integers: products are exact, and many of them equal.
TEST(RecallAt, CountsTiesAgainstTheOwnRow) {
  torch::manual_seed(3);
  bool has_ties = false;
  for (const std::int64_t rows : {1, 2, 7, 40}) {
    const Tensor queries = torch::randint(-2, 3, {rows, 3}).to(torch::kFloat);
    const Tensor gallery = torch::randint(-2, 3, {rows, 3}).to(torch::kFloat);
    const Tensor near = queries.matmul(gallery.t());
    has_ties = has_ties || near.eq(near.diagonal().unsqueeze(1)).sum().item<std::int64_t>() > rows;
    for (const std::int64_t k : {1, 2, 10, 50})
      EXPECT_EQ(recall_at(k, queries, gallery).item<double>(), counted_recall(k, queries, gallery))
          << rows << " rows, k " << k;
  }
  EXPECT_TRUE(has_ties);
}

TEST(RecallAt, FindsNothingWhereAllIsAtOnePlace) {
  const Tensor same = torch::ones({20, 4});
  EXPECT_EQ(recall_at(10, same, same).item<double>(), 0.0);
  EXPECT_EQ(recall_at(20, same, same).item<double>(), 1.0);
  Tensor broken = torch::eye(4);
  broken[2][2] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_LT(recall_at(1, broken, broken).item<double>(), 1.0);
}

// Nearly one place, as early in a training: all cosines are one number in bf16.
TEST(RecallAt, FindsUnderAutocastWhatItFindsWithout) {
  torch::manual_seed(5);
  const Tensor gallery = near_one_place(50);
  const Autocast bf16(torch::kCPU, torch::kBFloat16, true);
  const Tensor ties = gallery.matmul(gallery.t());
  ASSERT_TRUE(ties.eq(ties[0][0]).all().item<bool>());
  EXPECT_EQ(recall_at(1, gallery, gallery).item<double>(), 1.0);
  EXPECT_TRUE(nearest_rows(1, gallery, gallery).squeeze(1).equal(torch::arange(50)));
}

TEST(NearestRows, AreThoseOfTheLargestProducts) {
  const Tensor gallery = torch::tensor({{1.0F, 0.0F}, {0.0F, 3.0F}, {2.0F, 2.0F}});
  const Tensor queries = torch::tensor({{1.0F, 0.0F}, {0.1F, 1.0F}});
  const Tensor expected = torch::tensor({{2, 0}, {1, 2}}, torch::kLong);
  EXPECT_TRUE(nearest_rows(2, queries, gallery).equal(expected));
  EXPECT_EQ(nearest_rows(0, queries, gallery).sizes(), (std::vector<std::int64_t>{2, 0}));
  EXPECT_THROW(nearest_rows(4, queries, gallery), c10::Error);
}

TEST(RetrievalRecall, SearchesEachGroupOverAllBatches) {
  torch::manual_seed(4);
  const Tensor pictures = unit_rows(30, 6);
  const Tensor names = pictures + 0.5 * torch::randn({30, 6});
  const Tensor groups = torch::arange(30) % 3 * 7;  // 0, 7, 14
  RetrievalRecall recall;
  for (std::int64_t first = 0; first < 30; first += 8) {
    const auto part = [&](const Tensor& x) {
      return x.slice(0, first, std::min<std::int64_t>(first + 8, 30));
    };
    recall.add({{"picture", part(pictures)}, {"name", part(names)}}, part(groups));
  }
  const auto found = recall.take({1, 3});
  std::vector<std::tuple<std::int64_t, std::string, std::string, std::int64_t>> which;
  for (const auto& one : found) {
    which.emplace_back(one.group, one.from, one.to, one.k);
    const Tensor members = groups.eq(one.group).nonzero().squeeze(1);
    EXPECT_EQ(one.count, 10);
    const Tensor own = (one.from == "name" ? names : pictures).index_select(0, members);
    const Tensor others = (one.from == "name" ? pictures : names).index_select(0, members);
    EXPECT_EQ(one.share.item<double>(), counted_recall(one.k, own, others));
  }
  using Which = std::tuple<std::int64_t, std::string, std::string, std::int64_t>;
  std::vector<Which> expected;
  for (const std::int64_t group : {0, 7, 14})
    for (const auto& [from, to] : {std::pair("name", "picture"), std::pair("picture", "name")})
      for (const std::int64_t k : {1, 3}) expected.emplace_back(group, from, to, k);
  EXPECT_EQ(which, expected);
  EXPECT_EQ(found.front().name(), "name_to_picture_at_1");
  EXPECT_THAT(recall.take(), IsEmpty());  // forgotten
}

TEST(RetrievalRecall, RefusesBatchesThatDoNotFitTogether) {
  RetrievalRecall recall;
  const Tensor rows = torch::ones({2, 3}), groups = torch::zeros({2}, torch::kLong);
  EXPECT_THROW(recall.add({{"a", rows}, {"b", torch::ones({3, 3})}}, groups), c10::Error);
  RetrievalRecall other;
  other.add({{"a", rows}, {"b", rows}}, groups);
  EXPECT_THROW(other.add({{"a", rows}}, groups), c10::Error);
  EXPECT_THROW(other.add({{"a", rows}, {"c", rows}}, groups), c10::Error);
}

}  // namespace
}  // namespace halftone::contrastive_test
