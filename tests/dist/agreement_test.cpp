// SPDX-License-Identifier: Apache-2.0
#include "halftone/dist/agreement.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "halftone/dist/join_process_group.h"
#include "support/message_of.h"
#include "support/processes.h"

namespace halftone::agreement_test {
namespace {

using Values = std::map<std::string, std::string>;

TEST(Agreement, NamesTheFirstKeyThatDiffers) {
  test::in_processes(4, [] {
    const auto group = join_process_group(find_process_place());
    const std::int64_t rank = group->rank();
    const auto error = [&](const Values& values) {
      return test::message_of<UserError>([&] { check_agreement(*group, values); });
    };
    check_agreement(*group, {});
    check_agreement(*group, {{"data", "a\0b"}, {"lr", "3e-4"}});
    EXPECT_EQ(
        error({{"lr", "3e-4"},
               {"batch_size", rank == 1 ? "16" : "8"},
               {"seed", std::to_string(rank)}}),
        "the processes differ in batch_size: 8 on processes 0, 2, 3, 16 on process 1; start all of "
        "them with the same");
    EXPECT_EQ(error(rank == 2 ? Values{{"lr", ""}} : Values{{"lr", ""}, {"task", "sft"}}),
              "the processes differ in task: sft on processes 0, 1, 3, not set on process 2; start "
              "all of them "
              "with the same");
    EXPECT_EQ(error({{"seed", std::to_string(rank)}}),
              "the processes differ in seed: 0 on process 0, 1 on process 1, 2 on process 2, 3 on "
              "process 3; "
              "start all of them with the same");
    const std::string longer = error({{"data", std::string(500, 'x') + std::to_string(rank)}});
    EXPECT_LT(longer.size(), 500U);
  });
}

}  // namespace
}  // namespace halftone::agreement_test
