// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/gemm/gemm32.h"

#include <gtest/gtest.h>

#include <limits>
#include <vector>

#include "support/gemm_config_scope.h"

namespace halftone::gemm32_test {
namespace {

using torch::Tensor;

double relative_error(const Tensor& got, const Tensor& exact) {
  return ((got.to(torch::kDouble) - exact).norm() / exact.norm()).item<double>();
}

// Both libraries, whatever the machine's own choice is.
class Gemm32 : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    if (GetParam() == "onednn" && !has_onednn_gemm32()) GTEST_SKIP() << "needs AVX-512";
    torch::manual_seed(1);
  }
  test::GemmConfigScope scope_{GetParam()};
};

// Above and below the size from which oneDNN is asked, with sizes that fill no vector.
TEST_P(Gemm32, EqualsTheProductInFp64InEveryLayout) {
  const std::vector<std::vector<std::int64_t>> sizes{
      {257, 129, 131}, {1, 2049, 2053}, {2051, 2049, 1}, {2053, 1, 2050}, {5, 7, 3}};
  for (const auto& s : sizes) {
    for (const bool a_transposed : {false, true}) {
      for (const bool b_transposed : {false, true}) {
        const Tensor a = a_transposed ? torch::randn({s[1], s[0]}).t() : torch::randn({s[0], s[1]});
        const Tensor b = b_transposed ? torch::randn({s[2], s[1]}).t() : torch::randn({s[1], s[2]});
        const Tensor exact = a.to(torch::kDouble).mm(b.to(torch::kDouble));
        EXPECT_LT(relative_error(gemm32(a, b), exact), 2e-6) << a.sizes() << b.sizes();
        Tensor out = torch::full({s[0], s[2]}, std::numeric_limits<float>::quiet_NaN());
        gemm32_out(out, a, b);
        EXPECT_TRUE(out.equal(gemm32(a, b)));
        const Tensor base = torch::randn({s[0], s[2]});
        Tensor sum = base.clone();
        gemm32_add(sum, a, b, 0.5);
        EXPECT_LT(relative_error(sum, base.to(torch::kDouble) + 0.5 * exact), 2e-6);
      }
    }
  }
}

TEST_P(Gemm32, TakesViewsWithGapsAndOddAddresses) {
  const Tensor a = torch::randn({300, 400}).narrow(1, 3, 200);
  const Tensor b = torch::randn({200 * 300 + 1}).narrow(0, 1, 200 * 300).view({200, 300});
  const Tensor exact = a.to(torch::kDouble).mm(b.to(torch::kDouble));
  EXPECT_LT(relative_error(gemm32(a, b), exact), 2e-6);
  const Tensor wide = torch::zeros({300, 500});
  gemm32_out(wide.narrow(1, 100, 300), a, b);
  EXPECT_LT(relative_error(wide.narrow(1, 100, 300), exact), 2e-6);
  EXPECT_EQ(wide.narrow(1, 0, 100).abs().max().item<float>(), 0.0F);
  EXPECT_EQ(wide.narrow(1, 400, 100).abs().max().item<float>(), 0.0F);
  const Tensor every_second = torch::randn({400, 400}).slice(1, 0, 400, 2);
  EXPECT_LT(relative_error(gemm32(every_second, b),
                           every_second.to(torch::kDouble).mm(b.to(torch::kDouble))),
            2e-6);
}

TEST_P(Gemm32, CarriesInfAndNanToTheirRows) {
  Tensor a = torch::rand({300, 200}) + 0.5;
  const Tensor b = torch::rand({200, 300}) + 0.5;
  a[7][3] = std::numeric_limits<float>::infinity();
  a[9][4] = std::numeric_limits<float>::quiet_NaN();
  const Tensor product = gemm32(a, b);
  EXPECT_TRUE(product[7].isinf().all().item<bool>());
  EXPECT_TRUE(product[9].isnan().all().item<bool>());
  EXPECT_EQ(product.isfinite().sum().item<std::int64_t>(), 298 * 300);
}

TEST_P(Gemm32, EmptyProductsAreZeroOrEmpty) {
  EXPECT_EQ(gemm32(torch::randn({0, 5}), torch::randn({5, 3})).sizes(),
            (std::vector<std::int64_t>{0, 3}));
  EXPECT_TRUE(gemm32(torch::randn({4, 0}), torch::randn({0, 3})).equal(torch::zeros({4, 3})));
  EXPECT_THROW(gemm32(torch::randn({4, 5}), torch::randn({4, 3})), c10::Error);
}

INSTANTIATE_TEST_SUITE_P(Libraries, Gemm32, testing::Values("blas", "onednn"),
                         [](const auto& library) { return library.param; });

// Or the choice would be of no consequence, and the tests above of one library twice.
TEST(Gemm32Libraries, AreTwo) {
  if (!has_onednn_gemm32()) GTEST_SKIP() << "needs AVX-512";
  torch::manual_seed(2);
  const Tensor a = torch::randn({512, 1408}), b = torch::randn({1408, 512});
  const auto product = [&](const char* library) {
    const test::GemmConfigScope scope(library);
    return gemm32(a, b);
  };
  EXPECT_TRUE(product("blas").equal(torch::mm(a, b)));
  EXPECT_FALSE(product("onednn").equal(product("blas")));
}

}  // namespace
}  // namespace halftone::gemm32_test
