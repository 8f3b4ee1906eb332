// SPDX-License-Identifier: Apache-2.0
// The matmuls below the formats on every device: by the kernel on the CPU, by the definition
// elsewhere, each against fp64. formats_on_devices_test has the formats.
#include <gtest/gtest.h>
#include <torch/types.h>

#include "halftone/kernels/common/simd_impl.h"
#include "halftone/kernels/gemm/gemm32.h"
#include "halftone/kernels/gemm/gemm_half.h"
#include "halftone/kernels/gemm/int8_gemm.h"
#include "halftone/kernels/gemm/matvec.h"
#include "support/on_devices.h"

namespace halftone::gemm_on_devices_test {
namespace {

using torch::ScalarType;
using torch::Tensor;

double relative_error(const Tensor& got, const Tensor& exact) {
  return ((got.cpu().to(torch::kDouble) - exact).norm() / exact.norm()).item<double>();
}

Tensor exact_product(const Tensor& a, const Tensor& b) {
  return a.to(torch::kDouble).mm(b.to(torch::kDouble));
}

class GemmOn : public test::OnDevices {
 protected:
  void SetUp() override {
    test::OnDevices::SetUp();
    torch::manual_seed(5);
  }
};

TEST_P(GemmOn, MultipliesFp32) {
  const torch::NoGradGuard no_grad;
  const Tensor a = torch::randn({37, 129}), b = torch::randn({53, 129}).t();
  const Tensor exact = exact_product(a, b);
  const Tensor left = here(a), right = here(b.t().contiguous()).t();
  EXPECT_EQ(gemm32(left, right).device().type(), device().type());
  EXPECT_LT(relative_error(gemm32(left, right), exact), 2e-6);
  const Tensor sum = here(torch::ones({37, 53}));
  gemm32_add(sum, left, right, 0.5);
  EXPECT_LT(relative_error(sum, 1 + 0.5 * exact), 2e-6);
}

TEST_P(GemmOn, MultipliesHalves) {
  const torch::NoGradGuard no_grad;
  for (const ScalarType dtype : {torch::kBFloat16, torch::kHalf}) {
    const Tensor a = torch::randn({37, 129}).to(dtype), b = torch::randn({129, 53}).to(dtype);
    const Tensor product = gemm_half(here(a), here(b), dtype, GemmBackend::kNative);
    EXPECT_EQ(product.scalar_type(), dtype);
    EXPECT_LT(relative_error(product, exact_product(a, b)), dtype == torch::kHalf ? 1e-3 : 8e-3);
  }
}

TEST_P(GemmOn, MultipliesInt8) {
  const torch::NoGradGuard no_grad;
  const Tensor x = torch::randn({32, 64}), w = torch::randn({40, 64});  // cuBLAS takes these sizes
  const Tensor product = int8_gemm(quantize_left(here(x), {}), quantize_right(here(w), {}));
  EXPECT_EQ(product.device().type(), device().type());
  EXPECT_LT(relative_error(product, exact_product(x, w.t())), 0.03);
  const Tensor sum = here(torch::ones({32, 40}));
  int8_gemm(quantize_left(here(x), {}), quantize_right(here(w), {}), sum);
  EXPECT_LT(relative_error(sum - 1, product.cpu().to(torch::kDouble)), 1e-5);
}

TEST_P(GemmOn, MultipliesFewRows) {
  const torch::NoGradGuard no_grad;
  if (device().is_cpu() && !has_simd_kernels()) GTEST_SKIP() << "neither AVX2 nor NEON";
  const Tensor x = torch::randn({3, 65}), first = torch::randn({7, 65}), second = first + 1;
  const Tensor y = matvec(here(x), {here(first), here(second)}, torch::kFloat);
  EXPECT_LT(relative_error(y, exact_product(x, torch::cat({first, second}).t())), 2e-6);
}

HALFTONE_ON_DEVICES(GemmOn);

}  // namespace
}  // namespace halftone::gemm_on_devices_test
