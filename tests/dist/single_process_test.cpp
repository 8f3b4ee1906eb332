// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "halftone/dist/agreement.h"
#include "halftone/dist/join_process_group.h"

namespace halftone::single_process_test {
namespace {

TEST(SingleProcess, GivesBackWhatItIsGiven) {
  const auto group = join_process_group({});
  EXPECT_EQ(group->rank(), 0);
  EXPECT_EQ(group->size(), 1);
  const torch::Tensor sent = torch::arange(6, torch::kBFloat16).view({2, 3});
  torch::Tensor received = torch::zeros_like(sent), all = torch::zeros_like(sent);
  group->all_to_all(received, sent)->wait();
  group->all_gather(all, sent)->wait();
  EXPECT_TRUE(torch::equal(received, sent));
  EXPECT_TRUE(torch::equal(all, sent));
  group->all_gather(all, all)->wait();
  group->broadcast(all, 0)->wait();
  EXPECT_TRUE(torch::equal(all, sent));
  EXPECT_EQ(group->all_gather("text"), std::vector<std::string>{"text"});
  check_agreement(*group, {{"key", "value"}});
}

TEST(SingleProcess, TakesNoTensors) {
  const auto group = join_process_group({});
  torch::Tensor none = torch::empty({0, 3}), nothing = torch::empty({0, 3});
  group->all_to_all(none, nothing)->wait();
  group->all_gather(none, nothing)->wait();
  group->broadcast(none, 0)->wait();
}

TEST(SingleProcess, ChecksTensors) {
  const auto group = join_process_group({});
  const torch::Tensor a = torch::zeros({4, 4});
  EXPECT_THROW(group->all_to_all(a, a.t()), c10::Error);
  EXPECT_THROW(group->all_to_all(a, torch::zeros({4, 4}, torch::kLong)), c10::Error);
  EXPECT_THROW(group->all_to_all(a, torch::zeros({16})), c10::Error);
  EXPECT_THROW(group->all_gather(a, torch::zeros({3})), c10::Error);
  EXPECT_THROW(group->broadcast(a, 1), c10::Error);
  EXPECT_THROW(group->broadcast(torch::Tensor(), 0), c10::Error);
}

}  // namespace
}  // namespace halftone::single_process_test
