// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/gemm/brgemm_bf16.h"

#include <ATen/Context.h>
#include <gtest/gtest.h>
#include <torch/types.h>

#include "support/fused_op.h"

namespace halftone::brgemm_bf16_test {
namespace {

using torch::Tensor;

const std::uint16_t* bits(const Tensor& bf16) {
  return static_cast<const std::uint16_t*>(bf16.const_data_ptr());
}

// (k, n) -> (k / 2, n, 2)
Tensor pairs_of(const Tensor& right) {
  return right.unflatten(0, {-1, 2}).transpose(1, 2).contiguous();
}

TEST(BrgemmBf16, MultipliesAndAddsInFp32) {
  if (!has_brgemm_bf16()) GTEST_SKIP() << "no bf16 matmuls on this machine";
  torch::manual_seed(1);
  const BrgemmBf16Region region;
  for (const SgemmSize& size : {SgemmSize{1, 1, 2}, SgemmSize{5, 7, 6}, SgemmSize{32, 32, 64},
                                SgemmSize{17, 33, 130}, SgemmSize{128, 64, 32}}) {
    const Tensor a = torch::randn({size.m, size.k}).to(torch::kBFloat16);
    const Tensor b = torch::randn({size.k, size.n}).to(torch::kBFloat16);
    const Tensor pairs = pairs_of(b), c = torch::full({size.m, size.n + 3}, 5.0F);
    const Tensor exact = a.to(torch::kDouble).mm(b.to(torch::kDouble));
    for (const bool add : {false, true}) {
      brgemm_bf16(size, {bits(a), size.k}, {bits(pairs), size.n}, add, c.data_ptr<float>(),
                  size.n + 3);
      const double times = add ? 2.0 : 1.0;
      EXPECT_LT(test::relative_error(c.narrow(1, 0, size.n), times * exact), 1e-6) << size.k;
    }
    EXPECT_TRUE(c.narrow(1, size.n, 3).eq(5.0F).all().item<bool>()) << "beyond the columns";
  }
}

TEST(BrgemmBf16, IsNotThereWithoutOneDnn) {
  at::globalContext().setUserEnabledMkldnn(false);
  EXPECT_FALSE(has_brgemm_bf16());
  at::globalContext().setUserEnabledMkldnn(true);
}

}  // namespace
}  // namespace halftone::brgemm_bf16_test
