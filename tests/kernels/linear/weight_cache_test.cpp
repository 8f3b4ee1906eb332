// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/linear/weight_cache.h"

#include <gtest/gtest.h>

#include "halftone/autocast/autocast.h"
#include "halftone/kernels/linear/compute_context.h"
#include "halftone/kernels/linear/linear.h"
#include "support/compute_contexts.h"

namespace halftone::weight_cache_test {
namespace {

using torch::Tensor;

/// The weight as a layer in that format takes it under the present context.
Tensor rounded(const Tensor& weight, ComputeType type) {
  return weight_operand(compute_context(), type, {weight})->kept().at(0);
}

TEST(WeightCache, ConvertsOnceAndAnewWhenWeightsChange) {
  const Tensor weight = torch::ones({3, 4});
  const auto address = [&](ComputeType type = ComputeType::kBFloat16) {
    return rounded(weight, type).const_data_ptr();
  };
  const Tensor first = rounded(weight, ComputeType::kBFloat16);  // keeps its memory from the others
  EXPECT_NE(address(), first.const_data_ptr()) << "nothing is kept outside of a cache";
  const ComputeScope region(test::caching_weights());
  const Tensor kept = rounded(weight, ComputeType::kBFloat16);
  EXPECT_EQ(address(), kept.const_data_ptr());
  EXPECT_EQ(rounded(weight, ComputeType::kFloat16).scalar_type(), torch::kHalf);
  EXPECT_EQ(address(), kept.const_data_ptr()) << "formats have entries of their own";
  weight.add_(1);
  EXPECT_TRUE(rounded(weight, ComputeType::kBFloat16)
                  .equal(torch::full({3, 4}, 2.0F).to(torch::kBFloat16)));
  EXPECT_NE(address(), kept.const_data_ptr());
  const ComputeScope inner(test::caching_weights());
  EXPECT_NE(address(), rounded(weight, ComputeType::kFloat16).const_data_ptr());
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
      const ComputeScope region(test::caching_weights(keep));
      for (std::uint64_t pass = 0; pass < 3; ++pass) {
        const Tensor input = x.detach().requires_grad_();
        Tensor y;
        {
          const Autocast autocast(torch::kCPU, torch::kBFloat16, /*enabled=*/!int8);
          const ComputeScope matmul(
              test::computing_in(int8 ? ComputeType::kInt8 : ComputeType::kFloat32, 1, pass));
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
