// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/linear/weight_cache.h"

#include <gtest/gtest.h>

#include "halftone/autocast/autocast.h"
#include "halftone/kernels/linear/int8_linear.h"
#include "halftone/kernels/linear/linear.h"

namespace halftone::weight_cache_test {
namespace {

using torch::Tensor;

TEST(WeightCache, AreConvertedOnceInARegionAndAnewWhenTheyChange) {
  const Tensor weight = torch::ones({3, 4});
  int conversions = 0;
  const auto rounded = [&] {
    return cached_cast({weight}, torch::kBFloat16, [&] {
      ++conversions;
      return weight.to(torch::kBFloat16);
    });
  };
  rounded();
  rounded();
  EXPECT_EQ(conversions, 2);  // no region
  {
    const WeightCache region;
    rounded();
    rounded();
    EXPECT_EQ(conversions, 3);
    weight.add_(1);
    EXPECT_TRUE(rounded().equal(torch::full({3, 4}, 2.0F).to(torch::kBFloat16)));
    EXPECT_EQ(conversions, 4);
    cached_cast({weight}, torch::kHalf, [&] { return weight.to(torch::kHalf); });
    EXPECT_EQ(rounded().scalar_type(), torch::kBFloat16);
    EXPECT_EQ(conversions, 4);
  }
  rounded();
  EXPECT_EQ(conversions, 5);
}

TEST(WeightCache, ChangeNoBitOfAnyLayer) {
  torch::manual_seed(1);
  const Tensor x = torch::randn({6, 5});
  const Tensor g = torch::randn({6, 7});
  for (const bool int8 : {false, true}) {
    const auto gradients = [&](bool keep) {
      std::vector<Tensor> all;
      const Tensor buffer = torch::ones({7, 5});
      const Tensor a = buffer.narrow(0, 0, 4).detach().requires_grad_();
      const Tensor b = buffer.narrow(0, 4, 3).detach().requires_grad_();
      std::optional<WeightCache> region;
      if (keep) region.emplace();
      for (std::uint64_t pass = 0; pass < 3; ++pass) {
        const Tensor input = x.detach().requires_grad_();
        Tensor y;
        {
          const Autocast autocast(torch::kCPU, torch::kBFloat16, /*enabled=*/!int8);
          const Int8Matmul matmul({.seed = 1, .step = pass, .enabled = int8});
          y = merged_linear(input, {a, b});
        }
        y.backward(g.to(y.scalar_type()));
        all.insert(all.end(), {y, input.grad(), a.grad().clone(), b.grad().clone()});
        torch::NoGradGuard no_grad;
        if (pass == 1) a.mul_(3);
      }
      return all;
    };
    const auto kept = gradients(true), fresh = gradients(false);
    for (std::size_t i = 0; i < fresh.size(); ++i) EXPECT_TRUE(kept[i].equal(fresh[i])) << i;
  }
}

}  // namespace
}  // namespace halftone::weight_cache_test
