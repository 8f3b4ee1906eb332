// SPDX-License-Identifier: Apache-2.0
#include "halftone/core/autocast.h"

#include <ATen/autocast_mode.h>
#include <gtest/gtest.h>
#include <torch/cuda.h>

#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "halftone/core/log.h"

namespace halftone {
namespace {

bool enabled() { return at::autocast::is_autocast_enabled(torch::kCPU); }
torch::ScalarType dtype() { return at::autocast::get_autocast_dtype(torch::kCPU); }
torch::ScalarType product_dtype() {
  return torch::mm(torch::ones({2, 2}), torch::ones({2, 2})).scalar_type();
}

class WarningLog {
 public:
  WarningLog() {
    set_log_sink([this](LogLevel, const std::string& message) { messages.push_back(message); });
  }
  ~WarningLog() { set_log_sink(nullptr); }
  std::vector<std::string> messages;
};

TEST(Autocast, ComputesInItsDtypeAndRestores) {
  {
    const Autocast autocast(torch::kCPU, torch::kHalf);
    EXPECT_TRUE(autocast.enabled());
    EXPECT_EQ(product_dtype(), torch::kHalf);
  }
  EXPECT_FALSE(enabled());
  EXPECT_EQ(dtype(), torch::kBFloat16);
  EXPECT_EQ(product_dtype(), torch::kFloat);
}

TEST(Autocast, DefaultDtypeOnTheCpuIsBfloat16) {
  const Autocast autocast(torch::kCPU);
  EXPECT_EQ(autocast.dtype(), torch::kBFloat16);
  EXPECT_EQ(product_dtype(), torch::kBFloat16);
}

TEST(Autocast, NestsEnabledAndDisabled) {
  const Autocast outer(torch::kCPU, torch::kBFloat16);
  {
    const Autocast off(torch::kCPU, torch::kBFloat16, /*enabled=*/false);
    EXPECT_EQ(product_dtype(), torch::kFloat);
    {
      const Autocast half(torch::kCPU, torch::kHalf);
      EXPECT_EQ(product_dtype(), torch::kHalf);
    }
    EXPECT_EQ(product_dtype(), torch::kFloat);
  }
  EXPECT_EQ(product_dtype(), torch::kBFloat16);
}

TEST(Autocast, RestoresAfterAnException) {
  try {
    const Autocast autocast(torch::kCPU, torch::kHalf, true, /*cache_enabled=*/false);
    EXPECT_FALSE(at::autocast::is_autocast_cache_enabled());
    throw std::runtime_error("left early");
  } catch (const std::runtime_error&) {
  }
  EXPECT_FALSE(enabled());
  EXPECT_EQ(dtype(), torch::kBFloat16);
  EXPECT_TRUE(at::autocast::is_autocast_cache_enabled());
  EXPECT_EQ(at::autocast::increment_nesting(), 1);  // nothing was left nested
  at::autocast::decrement_nesting();
}

TEST(Autocast, OtherDtypesOnTheCpuWarnAndSwitchOff) {
  WarningLog log;
  const Autocast autocast(torch::kCPU, torch::kFloat);
  EXPECT_FALSE(autocast.enabled());
  EXPECT_EQ(product_dtype(), torch::kFloat);
  ASSERT_EQ(log.messages.size(), 1U);
  EXPECT_NE(log.messages[0].find("bfloat16 or float16"), std::string::npos);
}

TEST(Autocast, DisabledDoesNotWarnAboutItsDtype) {
  WarningLog log;
  const Autocast autocast(torch::kCPU, torch::kDouble, /*enabled=*/false);
  EXPECT_TRUE(log.messages.empty());
}

TEST(Autocast, WithoutCudaIsOff) {
  if (torch::cuda::is_available()) GTEST_SKIP() << "there is a GPU";
  WarningLog log;
  const Autocast autocast(torch::kCUDA, torch::kHalf);
  EXPECT_FALSE(autocast.enabled());
  EXPECT_FALSE(at::autocast::is_autocast_enabled(torch::kCUDA));
  EXPECT_EQ(log.messages.size(), 1U);
}

TEST(Autocast, RefusesDevicesWithoutAutocast) {
  EXPECT_THROW(Autocast(torch::kMeta), c10::Error);
  EXPECT_FALSE(enabled());
}

TEST(Autocast, LeavesDoubleAndIntegersAlone) {
  const Autocast autocast(torch::kCPU, torch::kBFloat16);
  const torch::Tensor d = torch::ones({2, 2}, torch::kDouble);
  const torch::Tensor i = torch::ones({2, 2}, torch::kLong);
  EXPECT_EQ(torch::mm(d, d).scalar_type(), torch::kDouble);
  EXPECT_EQ(torch::mm(i, i).scalar_type(), torch::kLong);
}

TEST(Autocast, KeepsLossesInFp32) {
  const Autocast autocast(torch::kCPU, torch::kBFloat16);
  const torch::Tensor logits = torch::randn({4, 3}).to(torch::kBFloat16);
  EXPECT_EQ(at::cross_entropy_loss(logits, torch::zeros({4}, torch::kLong)).scalar_type(),
            torch::kFloat);
}

// A weight's cast is kept for the region: its use count tells.
TEST(Autocast, CastsAWeightOnceAndForgetsAtTheOutermostEnd) {
  const torch::Tensor weight = torch::ones({2, 2}, torch::requires_grad());
  torch::Tensor first;
  {
    const Autocast outer(torch::kCPU, torch::kBFloat16);
    first = at::autocast::cached_cast(torch::kBFloat16, weight, torch::kCPU);
    {
      const Autocast inner(torch::kCPU, torch::kBFloat16);
      EXPECT_TRUE(at::autocast::cached_cast(torch::kBFloat16, weight, torch::kCPU).is_same(first));
    }
    EXPECT_TRUE(at::autocast::cached_cast(torch::kBFloat16, weight, torch::kCPU).is_same(first));
    EXPECT_GT(first.use_count(), 1U);
  }
  EXPECT_EQ(first.use_count(), 1U);
}

TEST(Autocast, WithoutCacheCastsEachTime) {
  const torch::Tensor weight = torch::ones({2, 2}, torch::requires_grad());
  const Autocast autocast(torch::kCPU, torch::kBFloat16, true, /*cache_enabled=*/false);
  const torch::Tensor first = at::autocast::cached_cast(torch::kBFloat16, weight, torch::kCPU);
  EXPECT_FALSE(at::autocast::cached_cast(torch::kBFloat16, weight, torch::kCPU).is_same(first));
}

TEST(Autocast, BackwardOutsideGivesFp32Gradients) {
  const torch::Tensor weight = torch::ones({2, 2}, torch::requires_grad());
  torch::Tensor loss;
  {
    const Autocast autocast(torch::kCPU, torch::kHalf);
    loss = torch::mm(weight, torch::ones({2, 2})).sum();
  }
  loss.backward();
  EXPECT_EQ(weight.grad().scalar_type(), torch::kFloat);
  EXPECT_TRUE(torch::equal(weight.grad(), torch::full({2, 2}, 2.0F)));
}

static_assert(!std::is_copy_constructible_v<Autocast> && !std::is_move_constructible_v<Autocast>);

}  // namespace
}  // namespace halftone
