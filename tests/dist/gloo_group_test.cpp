// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <thread>

#include "halftone/dist/join_process_group.h"
#include "support/processes.h"

namespace halftone::gloo_group_test {
namespace {

const std::vector<torch::ScalarType> kDtypes{torch::kFloat,  torch::kBFloat16, torch::kHalf,
                                             torch::kDouble, torch::kLong,     torch::kInt,
                                             torch::kChar,   torch::kByte,     torch::kBool};

// What process `from` has for process `to`: (columns), different for every pair.
torch::Tensor piece(std::int64_t from, std::int64_t to, std::int64_t columns,
                    torch::ScalarType dtype) {
  const torch::Tensor bits = torch::arange(columns) * 7 + from * 3 + to * 5;
  return dtype == torch::kBool ? (bits % 3).to(torch::kBool) : (bits % 100).to(dtype);
}

void expect_all_to_all(ProcessGroup& group, std::int64_t columns, torch::ScalarType dtype) {
  std::vector<torch::Tensor> sent, expected;
  for (std::int64_t other = 0; other < group.size(); ++other) {
    sent.push_back(piece(group.rank(), other, columns, dtype));
    expected.push_back(piece(other, group.rank(), columns, dtype));
  }
  torch::Tensor received = torch::zeros({group.size(), columns}, dtype);
  group.all_to_all(received, torch::stack(sent))->wait();
  EXPECT_TRUE(torch::equal(received, torch::stack(expected))) << dtype << " of " << columns;
}

void expect_all_gather(ProcessGroup& group, std::int64_t columns, torch::ScalarType dtype) {
  std::vector<torch::Tensor> pieces;
  for (std::int64_t rank = 0; rank < group.size(); ++rank)
    pieces.push_back(piece(rank, 0, columns, dtype));
  const torch::Tensor expected = torch::stack(pieces);
  torch::Tensor all = torch::zeros_like(expected);
  group.all_gather(all, pieces[group.rank()])->wait();
  EXPECT_TRUE(torch::equal(all, expected)) << dtype << " of " << columns;
  torch::Tensor in_place = torch::zeros_like(expected);
  in_place[group.rank()].copy_(pieces[group.rank()]);
  group.all_gather(in_place, in_place[group.rank()])->wait();
  EXPECT_TRUE(torch::equal(in_place, expected)) << dtype << " of " << columns << ", in place";
}

void expect_broadcast(ProcessGroup& group, std::int64_t columns, torch::ScalarType dtype) {
  for (std::int64_t root = 0; root < group.size(); ++root) {
    torch::Tensor tensor = piece(group.rank(), 1, columns, dtype);
    group.broadcast(tensor, root)->wait();
    EXPECT_TRUE(torch::equal(tensor, piece(root, 1, columns, dtype))) << dtype << " from " << root;
  }
}

void expect_several_under_way(ProcessGroup& group) {
  constexpr std::int64_t kCount = 20, kColumns = 10'001;
  std::vector<torch::Tensor> gathered, exchanged;
  std::vector<ProcessGroup::Pending> pending;
  for (std::int64_t i = 0; i < kCount; ++i) {
    gathered.push_back(torch::zeros({group.size(), kColumns}));
    pending.push_back(
        group.all_gather(gathered[i], torch::full({kColumns}, 100. * i + group.rank())));
    exchanged.push_back(torch::zeros({group.size(), 3}, torch::kLong));
    pending.push_back(group.all_to_all(
        exchanged[i],
        torch::arange(group.size()).view({-1, 1}).expand({-1, 3}).contiguous() + 50 * i));
  }
  for (const auto& work : pending) work->wait();
  const torch::Tensor ranks = torch::arange(group.size()).view({-1, 1});
  for (std::int64_t i = 0; i < kCount; ++i) {
    EXPECT_TRUE(
        torch::equal(gathered[i], (ranks + 100. * i).to(torch::kFloat).expand({-1, kColumns})))
        << i;
    EXPECT_TRUE(exchanged[i].eq(group.rank() + 50 * i).all().item<bool>()) << i;
  }
}

void expect_strings(ProcessGroup& group) {
  std::vector<std::string> expected;
  for (std::int64_t rank = 0; rank < group.size(); ++rank)
    expected.push_back(std::string(rank * 1000, static_cast<char>('a' + rank)) +
                       std::string(1, '\0'));
  EXPECT_EQ(group.all_gather(expected[group.rank()]), expected);
  EXPECT_EQ(group.all_gather(std::string()), std::vector<std::string>(group.size()));
}

void expect_all_operations() {
  const auto joined = join_process_group(find_process_place());
  ProcessGroup& group = *joined;
  for (const torch::ScalarType dtype : kDtypes) {
    for (const std::int64_t columns : {0, 1, 7, 1031}) {
      expect_all_to_all(group, columns, dtype);
      expect_all_gather(group, columns, dtype);
      expect_broadcast(group, columns, dtype);
    }
  }
  expect_all_to_all(group, 1'000'003, torch::kFloat);
  expect_several_under_way(group);
  expect_strings(group);
}

// One group on each of two threads, in orders that differ between the processes.
TEST(GlooGroup, HasATwinForAnotherThread) {
  test::in_processes(3, [] {
    const auto group = join_process_group(find_process_place());
    const auto twin = group->twin(), second = group->twin();
    const auto exchange_often = [](ProcessGroup& one, std::int64_t base) {
      for (std::int64_t i = 0; i < 50; ++i) {
        torch::Tensor all = torch::zeros({one.size()}, torch::kLong);
        one.all_gather(all, torch::tensor({base + 10 * i + one.rank()}))->wait();
        ASSERT_TRUE(all.equal(torch::arange(one.size()) + base + 10 * i)) << base;
      }
    };
    std::thread other([&] { exchange_often(*twin, 1'000'000); });
    exchange_often(*group, 0);
    other.join();
    exchange_often(*second, 5'000);
    expect_strings(*twin);
  });
}

TEST(GlooGroup, ExchangesInTwo) { test::in_processes(2, expect_all_operations); }

TEST(GlooGroup, ExchangesInFour) { test::in_processes(4, expect_all_operations); }

}  // namespace
}  // namespace halftone::gloo_group_test
