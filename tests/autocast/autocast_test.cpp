// SPDX-License-Identifier: Apache-2.0
#include "halftone/autocast/autocast.h"

#include <ATen/autocast_mode.h>
#include <gtest/gtest.h>
#include <torch/cuda.h>

#include <stdexcept>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

#include "halftone/core/log.h"

namespace halftone::autocast_test {
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

// LibTorch's cache would hand the inner region the outer one's cast.
TEST(Autocast, NestedRegionsOfTwoDtypesCastAWeightForEach) {
  const torch::Tensor weight = torch::ones({2, 2}, torch::requires_grad());
  const auto product = [&] { return torch::mm(weight, weight).scalar_type(); };
  const Autocast outer(torch::kCPU, torch::kBFloat16);
  EXPECT_EQ(product(), torch::kBFloat16);
  {
    const Autocast inner(torch::kCPU, torch::kHalf);
    EXPECT_EQ(product(), torch::kHalf);
    {
      const Autocast off(torch::kCPU, torch::kHalf, /*enabled=*/false);
      EXPECT_EQ(product(), torch::kFloat);
    }
    EXPECT_EQ(product(), torch::kHalf);
  }
  EXPECT_EQ(product(), torch::kBFloat16);
}

TEST(Autocast, StateAndDtypeAreTheThreadsOwn) {
  const Autocast autocast(torch::kCPU, torch::kHalf);
  torch::ScalarType elsewhere = torch::kDouble;
  torch::ScalarType elsewhere_inside = torch::kDouble;
  std::thread([&] {
    elsewhere = product_dtype();
    const Autocast own(torch::kCPU, torch::kBFloat16);
    elsewhere_inside = product_dtype();
  }).join();
  EXPECT_EQ(elsewhere, torch::kFloat);
  EXPECT_EQ(elsewhere_inside, torch::kBFloat16);
  EXPECT_EQ(product_dtype(), torch::kHalf);
}

TEST(Autocast, ThreadsWithRegionsOfTheirOwnAndOneWeight) {
  const torch::Tensor weight = torch::ones({4, 4}, torch::requires_grad());
  const auto wrong_products = [&](bool two_dtypes) {
    std::vector<int> wrong(4);
    std::vector<std::thread> threads;
    for (std::size_t i = 0; i < wrong.size(); ++i)
      threads.emplace_back([&, i] {
        const auto own = two_dtypes && i % 2 == 0 ? torch::kHalf : torch::kBFloat16;
        for (int k = 0; k < 100; ++k) {
          const Autocast autocast(torch::kCPU, own, true, /*cache_enabled=*/!two_dtypes);
          wrong[i] += torch::mm(weight, weight).scalar_type() != own;
        }
      });
    for (std::thread& thread : threads) thread.join();
    return wrong;
  };
  EXPECT_EQ(wrong_products(/*two_dtypes=*/false), std::vector<int>(4));
  EXPECT_EQ(wrong_products(/*two_dtypes=*/true), std::vector<int>(4));
}

// What was begun in the forward is finished in a thread that never saw the region.
TEST(Autocast, BackwardOfTorchsOperationsInAnotherThread) {
  const torch::Tensor weight = torch::rand({3, 3}, torch::requires_grad());
  const torch::Tensor x = torch::rand({3, 3});
  const auto gradient = [&](bool in_another_thread) {
    weight.mutable_grad() = torch::Tensor();
    torch::Tensor loss;
    {
      const Autocast autocast(torch::kCPU, torch::kHalf);
      loss = torch::mm(torch::mm(x, weight), weight).to(torch::kFloat).sum();
    }
    if (in_another_thread) {
      std::thread([&] { loss.backward(); }).join();
    } else {
      loss.backward();
    }
    return weight.grad().clone();
  };
  EXPECT_TRUE(gradient(true).equal(gradient(false)));
}

static_assert(!std::is_copy_constructible_v<Autocast> && !std::is_move_constructible_v<Autocast>);

}  // namespace
}  // namespace halftone::autocast_test
