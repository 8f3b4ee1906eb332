// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/gemm/fast_cpu_gemms.h"

#include <ATen/Functions.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "support/gemm_config_scope.h"
#include "support/message_of.h"

namespace halftone::fast_cpu_gemms_test {
namespace {

using at::indexing::Slice;
using test::conversions_in;
using test::GemmConfigScope;
using testing::HasSubstr;
using torch::ScalarType;
using torch::Tensor;

constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

std::vector<ScalarType> halves() { return {torch::kBFloat16, torch::kHalf}; }

/// Half a unit in the last place of the format, with room for the order of fp32 sums.
double rounding_of(ScalarType dtype) { return dtype == torch::kBFloat16 ? 0x1p-8 : 0x1p-11; }

/// `actual` against the exact result and the sum of the magnitudes that went into it.
void expect_close(const Tensor& actual, const Tensor& exact, const Tensor& magnitude) {
  ASSERT_EQ(actual.sizes(), exact.sizes());
  const Tensor bound = exact.abs() * rounding_of(actual.scalar_type()) + magnitude * 1e-6 + 1e-7;
  const Tensor error = (actual.to(torch::kDouble) - exact).abs();
  EXPECT_TRUE((error <= bound).all().item<bool>()) << error.max().item<double>();
}

Tensor wide(const Tensor& tensor) { return tensor.to(torch::kDouble); }

/// A matrix (or a batch of them) with the same values in another place of memory.
struct Layout {
  const char* name;
  std::function<Tensor(const Tensor&)> apply;
};

std::vector<Layout> layouts() {
  return {{"contiguous", [](const Tensor& x) { return x.clone(); }},
          {"transposed",
           [](const Tensor& x) {
             return x.transpose(-1, -2).clone(at::MemoryFormat::Contiguous).transpose(-1, -2);
           }},
          {"padded rows",
           [](const Tensor& x) {
             return at::cat({x, x}, -1).narrow(-1, 0, x.size(-1));
           }},
          {"every second element",
           [](const Tensor& x) {
             return at::stack({x, x}, -1).select(-1, 1);
           }},
          {"unaligned", [](const Tensor& x) {
             const Tensor memory = at::empty({x.numel() + 3}, x.options());
             return memory.narrow(0, 3, x.numel()).view(x.sizes()).copy_(x);
           }}};
}

class FastCpuGemms : public test::FastCpuGemmsTest {};

INSTANTIATE_TEST_SUITE_P(Ways, FastCpuGemms, testing::Values("native", "upcast"),
                         [](const auto& instance) { return instance.param; });

TEST_P(FastCpuGemms, MmEqualsTheDefinitionInEverySizeAndLayout) {
  const std::int64_t sizes[][3] = {{1, 1, 1},    {1, 700, 9},  {700, 1, 9},    {9, 700, 1},
                                   {17, 33, 19}, {64, 64, 64}, {65, 129, 131}, {1, 300, 300}};
  for (const ScalarType dtype : halves()) {
    for (const auto& [m, k, n] : sizes) {
      const Tensor a = at::randn({m, k}).to(dtype);
      const Tensor b = at::randn({k, n}).to(dtype);
      const Tensor exact = wide(a).mm(wide(b));
      const Tensor magnitude = wide(a).abs().mm(wide(b).abs());
      for (const Layout& left : layouts()) {
        for (const Layout& right : layouts()) {
          SCOPED_TRACE(std::string(left.name) + " x " + right.name);
          expect_close(at::mm(left.apply(a), right.apply(b)), exact, magnitude);
        }
      }
    }
  }
}

TEST_P(FastCpuGemms, TakesTheWayThatIsInForce) {
  for (const ScalarType dtype : halves()) {
    const Tensor a = at::randn({32, 40}).to(dtype);
    const Tensor b = at::randn({40, 24}).to(dtype);
    const Tensor bias = at::randn({24}).to(dtype);
    Tensor out = at::empty({32, 24}, a.options());
    const int factors = upcasts() ? 2 : 0;
    EXPECT_EQ(conversions_in([&] { at::mm(a, b); }), upcasts() ? 3 : 0);
    EXPECT_EQ(conversions_in([&] { at::mm_out(out, a, b); }), factors);
    EXPECT_EQ(conversions_in([&] { at::addmm(bias, a, b); }), upcasts() ? 4 : 0);
    EXPECT_EQ(conversions_in([&] { out.addmm_(a, b); }), upcasts() ? 3 : 0);
    EXPECT_EQ(conversions_in([&] {
                at::bmm(a.view({1, 32, 40}), b.view({1, 40, 24}));
              }),
              upcasts() ? 3 : 0);
    // Small matmuls, and one row times the rows of a weight, are left to LibTorch.
    EXPECT_EQ(conversions_in([&] { at::mm(a.narrow(0, 0, 4), b); }), 0);
    EXPECT_EQ(conversions_in([&] {
                at::mm(at::ones({1, 500}, dtype), at::ones({90, 500}, dtype).t());
              }),
              0);
    const OriginalCpuGemms original;
    EXPECT_EQ(conversions_in([&] { at::mm(a, b); }), 0);
  }
}

TEST(FastCpuGemmsChoice, EachLayoutTakesTheWayOfItsDirection) {
  ASSERT_TRUE(use_fast_cpu_gemms());
  const Tensor x = at::randn({32, 40}).to(torch::kBFloat16);
  const Tensor w = at::randn({24, 40}).to(torch::kBFloat16);
  const Tensor g = at::randn({32, 24}).to(torch::kBFloat16);
  for (const char* upcast : {"forward", "input_gradient", "weight_gradient"}) {
    const GemmConfigScope scope(std::string("native,bf16.") + upcast + "=upcast");
    const auto takes = [&](const Tensor& a, const Tensor& b) {
      return conversions_in([&] { at::mm(a, b); }) > 0;
    };
    EXPECT_EQ(takes(x, w.t()), std::string(upcast) == "forward");
    EXPECT_EQ(takes(g, w), std::string(upcast) == "input_gradient");
    EXPECT_EQ(takes(g.t(), x), std::string(upcast) == "weight_gradient");
    EXPECT_FALSE(takes(x.to(torch::kHalf), w.t().to(torch::kHalf)));
  }
}

TEST_P(FastCpuGemms, AddmmTakesEveryBiasAlphaAndBeta) {
  const std::pair<at::Scalar, at::Scalar> factors[] = {{1, 1}, {0.5, 2}, {0, 1},   {-1.25, 0.75},
                                                       {2, 0}, {0, 0},   {true, 3}};
  for (const ScalarType dtype : halves()) {
    const Tensor a = at::randn({33, 20}).to(dtype);
    const Tensor b = at::randn({20, 18}).to(dtype);
    const Tensor product = wide(a).mm(wide(b));
    const Tensor magnitude = wide(a).abs().mm(wide(b).abs());
    for (const auto& [beta, alpha] : factors) {
      for (const Tensor& self :
           {at::randn({18}), at::randn({1, 18}), at::randn({33, 1}), at::randn({33, 18}),
            at::randn({18, 33}).t(), at::randn({}), at::randn({1})}) {
        const Tensor bias = self.to(dtype);
        const Tensor exact = beta.toDouble() * wide(bias) + alpha.toDouble() * product;
        const Tensor size =
            std::abs(alpha.toDouble()) * magnitude + std::abs(beta.toDouble()) * wide(bias).abs();
        expect_close(at::addmm(bias, a, b, beta, alpha), exact, size);
        Tensor out = at::empty({18, 33}, a.options()).t();
        expect_close(at::addmm_out(out, bias, a, b, beta, alpha), exact, size);
        EXPECT_EQ(out.stride(0), 1);
        if (bias.sizes() != exact.sizes()) continue;
        Tensor self_too = bias.clone();
        EXPECT_TRUE(self_too.addmm_(a, b, beta, alpha).is_same(self_too));
        expect_close(self_too, exact, size);
      }
    }
  }
}

TEST_P(FastCpuGemms, BetaZeroIgnoresWhatSelfHolds) {
  for (const ScalarType dtype : halves()) {
    const Tensor a = at::ones({16, 32}, dtype);
    const Tensor b = at::ones({32, 16}, dtype);
    const Tensor nans = at::full({16, 16}, kNan, dtype);
    EXPECT_TRUE((at::addmm(nans, a, b, 0) == 32).all().item<bool>());
    EXPECT_TRUE((nans.clone().addmm_(a, b, 0) == 32).all().item<bool>());
    EXPECT_TRUE((at::baddbmm(nans[0], a.view({1, 16, 32}), b.view({1, 32, 16}), 0) == 32)
                    .all()
                    .item<bool>());
    EXPECT_TRUE(at::addmm(nans, a, b, 1).isnan().all().item<bool>());
  }
}

TEST_P(FastCpuGemms, ASumWithSelfIsRoundedOnce) {
  // 257 is no bf16 and 2049 no fp16: rounded before the sum, they would leave 0.
  const std::pair<ScalarType, double> cases[] = {{torch::kBFloat16, 256}, {torch::kHalf, 2048}};
  for (const auto& [dtype, even] : cases) {
    Tensor a = at::zeros({32, 64}, dtype);
    a.index_put_({Slice(), 0}, even);
    a.index_put_({Slice(), 1}, 1.0);
    const Tensor b = at::ones({64, 32}, dtype);
    const Tensor self = at::full({32, 32}, -even, dtype);
    if (upcasts()) {
      EXPECT_TRUE((at::addmm(self, a, b) == 1).all().item<bool>());
      EXPECT_TRUE((at::baddbmm(self, a.unsqueeze(0), b.unsqueeze(0)) == 1).all().item<bool>());
    }
    EXPECT_TRUE((at::mm(a, b) == even).all().item<bool>());  // ties to even
  }
}

TEST_P(FastCpuGemms, BmmAndBaddbmmEqualTheDefinition) {
  for (const ScalarType dtype : halves()) {
    const Tensor a = at::randn({3, 17, 20}).to(dtype);
    const Tensor b = at::randn({3, 20, 19}).to(dtype);
    const Tensor exact = wide(a).bmm(wide(b));
    const Tensor magnitude = wide(a).abs().bmm(wide(b).abs());
    for (const Layout& left : layouts()) {
      for (const Layout& right : layouts()) {
        SCOPED_TRACE(std::string(left.name) + " x " + right.name);
        const Tensor x = left.apply(a);
        const Tensor y = right.apply(b);
        expect_close(at::bmm(x, y), exact, magnitude);
        Tensor out = at::empty({0}, a.options());
        expect_close(at::bmm_out(out, x, y), exact, magnitude);
        for (const Tensor& self : {at::randn({19}), at::randn({17, 1}), at::randn({3, 17, 19})}) {
          const Tensor bias = self.to(dtype);
          const Tensor sum = 0.5 * wide(bias) - 2 * exact;
          const Tensor size = 0.5 * wide(bias).abs() + 2 * magnitude;
          expect_close(at::baddbmm(bias, x, y, 0.5, -2), sum, size);
          expect_close(at::baddbmm_out(out, bias, x, y, 0.5, -2), sum, size);
          if (bias.dim() == 3) expect_close(bias.clone().baddbmm_(x, y, 0.5, -2), sum, size);
        }
      }
    }
    const Tensor one = at::randn({20, 19}).to(dtype);
    expect_close(at::bmm(a, one.expand({3, 20, 19})), wide(a).matmul(wide(one)),
                 wide(a).abs().matmul(wide(one).abs()));
  }
}

TEST_P(FastCpuGemms, ExpandedOperandsHaveTheirValues) {
  for (const ScalarType dtype : halves()) {
    const Tensor row = at::randn({1, 40}).to(dtype);
    const Tensor column = at::randn({40, 1}).to(dtype);
    const Tensor b = at::randn({40, 30}).to(dtype);
    expect_close(at::mm(row.expand({20, 40}), b), wide(row).expand({20, 40}).mm(wide(b)),
                 wide(row).abs().expand({20, 40}).mm(wide(b).abs()));
    expect_close(at::mm(b.t(), column.expand({40, 20})),
                 wide(b).t().mm(wide(column).expand({40, 20})),
                 wide(b).abs().t().mm(wide(column).abs().expand({40, 20})));
    const Tensor scalar = at::full({1, 1}, 0.5, dtype).expand({40, 20});
    expect_close(at::mm(b.t(), scalar), wide(b).t().mm(wide(scalar)),
                 wide(b).abs().t().mm(wide(scalar)));
  }
}

TEST_P(FastCpuGemms, AddmmActivationEqualsTheDefinition) {
  for (const ScalarType dtype : halves()) {
    const Tensor a = at::randn({30, 20}).to(dtype);
    const Tensor b = at::randn({20, 18}).to(dtype);
    const Tensor bias = at::randn({18}).to(dtype);
    const Tensor sum = wide(bias) + wide(a).mm(wide(b));
    const Tensor size = sum.abs() + wide(a).abs().mm(wide(b).abs());
    // LibTorch's own kernel rounds the sum before the activation.
    const double rounding = upcasts() ? 1e-6 : 2 * rounding_of(dtype);
    expect_close(at::_addmm_activation(bias, a, b), sum.relu(), size);
    const Tensor gelu = at::_addmm_activation(bias, a, b, 1, 1, /*use_gelu=*/true);
    expect_close(gelu, at::gelu(sum), size * (rounding / 1e-6));
  }
}

TEST_P(FastCpuGemms, OutIsResizedCopiedToAndMayBeAnOperand) {
  for (const ScalarType dtype : halves()) {
    const Tensor a = at::randn({24, 24}).to(dtype);
    const Tensor b = at::randn({24, 24}).to(dtype);
    const Tensor expected = at::mm(a, b);
    Tensor empty = at::empty({0}, a.options());
    EXPECT_TRUE(at::mm_out(empty, a, b).is_same(empty));
    EXPECT_TRUE(empty.equal(expected));
    Tensor part = at::zeros({24, 48}, a.options());
    Tensor columns = part.narrow(1, 24, 24);
    at::mm_out(columns, a, b);
    EXPECT_TRUE(columns.equal(expected));
    EXPECT_EQ(part.narrow(1, 0, 24).count_nonzero().item<std::int64_t>(), 0);
    if (upcasts()) {
      Tensor self = a.clone();
      at::mm_out(self, self, b);
      EXPECT_TRUE(self.equal(expected));
    }
  }
}

TEST_P(FastCpuGemms, EmptyAndOneElementDimensions) {
  for (const ScalarType dtype : halves()) {
    const auto make = [&](std::vector<std::int64_t> sizes) { return at::ones(sizes, dtype); };
    EXPECT_EQ(at::mm(make({0, 3}), make({3, 200})).sizes(), (std::vector<std::int64_t>{0, 200}));
    EXPECT_EQ(at::mm(make({200, 3}), make({3, 0})).sizes(), (std::vector<std::int64_t>{200, 0}));
    EXPECT_TRUE(at::mm(make({90, 0}), make({0, 70})).equal(at::zeros({90, 70}, dtype)));
    EXPECT_TRUE(at::bmm(make({2, 90, 0}), make({2, 0, 70})).equal(at::zeros({2, 90, 70}, dtype)));
    EXPECT_EQ(at::bmm(make({0, 90, 80}), make({0, 80, 70})).numel(), 0);
    EXPECT_TRUE(at::addmm(make({70}), make({90, 0}), make({0, 70}), 0.5)
                    .equal(at::full({90, 70}, 0.5, dtype)));
    EXPECT_TRUE(at::addmm(at::full({70}, kNan, dtype), make({90, 0}), make({0, 70}), 0)
                    .equal(at::zeros({90, 70}, dtype)));
    EXPECT_TRUE(at::mm(make({90, 1}), make({1, 70})).equal(make({90, 70})));
    EXPECT_TRUE(at::mm(make({1, 5000}), make({5000, 1})).equal(at::full({1, 1}, 5000.0).to(dtype)));
  }
}

TEST_P(FastCpuGemms, InfinitiesAndNansFollowIeee) {
  for (const ScalarType dtype : halves()) {
    Tensor a = at::ones({5, 64}, dtype);
    a[0][3] = kInf;
    a[1][5] = kNan;
    a[2][0] = kInf;
    a[2][1] = -kInf;
    a[3].fill_(-1);
    a[3][63] = -kInf;
    Tensor b = at::ones({64, 32}, dtype);
    for (const Tensor& c : {at::mm(a, b), at::addmm(at::ones({32}, dtype), a, b),
                            at::bmm(a.unsqueeze(0), b.unsqueeze(0))[0]}) {
      EXPECT_TRUE((c[0] == kInf).all().item<bool>());
      EXPECT_TRUE(c[1].isnan().all().item<bool>());
      EXPECT_TRUE(c[2].isnan().all().item<bool>());
      EXPECT_TRUE((c[3] == -kInf).all().item<bool>());
      EXPECT_TRUE(c[4].isfinite().all().item<bool>());
    }
    b[3][7] = 0.0;  // inf x 0
    EXPECT_TRUE(at::mm(a, b)[0][7].isnan().item<bool>());
  }
  const Tensor big = at::full({20, 64}, 200.0, torch::kHalf);
  EXPECT_TRUE(at::mm(big, big.t()).isinf().all().item<bool>());
  // 2,560,000 is out of range, half of 1e-2 of it is not: alpha comes before the rounding.
  if (upcasts()) {
    EXPECT_TRUE(at::addmm(at::zeros({20}, torch::kHalf), big, big.t(), 1, 0.005)
                    .isfinite()
                    .all()
                    .item<bool>());
  }
}

TEST_P(FastCpuGemms, TheSameCallGivesTheSameBits) {
  for (const ScalarType dtype : halves()) {
    const Tensor a = at::randn({129, 257}).to(dtype);
    const Tensor b = at::randn({257, 65}).to(dtype);
    const Tensor first = at::mm(a, b);
    for (int i = 0; i < 5; ++i) EXPECT_TRUE(at::mm(a, b).equal(first));
  }
}

TEST_P(FastCpuGemms, MisuseIsRefusedInLibTorchsWords) {
  const Tensor a = at::ones({20, 30}, torch::kBFloat16);
  const Tensor b = at::ones({31, 20}, torch::kBFloat16);
  EXPECT_THAT(test::message_of<c10::Error>([&] { at::mm(a, b); }),
              HasSubstr("mat1 and mat2 shapes cannot be multiplied (20x30 and 31x20)"));
  EXPECT_THROW(at::mm(a, b.t().to(torch::kFloat)), c10::Error);
  EXPECT_THROW(at::mm(a, a.t().to(torch::kHalf)), c10::Error);
  EXPECT_THROW(at::mm(a, a.t().unsqueeze(0)), c10::Error);
  EXPECT_THROW(at::bmm(a, a.t()), c10::Error);
  EXPECT_THROW(at::addmm(at::ones({7}, torch::kBFloat16), a, a.t()), c10::Error);
  EXPECT_THROW(at::addmm(at::ones({20}), a, a.t()), c10::Error);
  Tensor row = at::ones({20}, torch::kBFloat16);
  EXPECT_THROW(row.addmm_(a, a.t()), c10::Error);
  EXPECT_TRUE(row.equal(at::ones({20}, torch::kBFloat16)));
  Tensor wide_out = at::empty({20, 20});
  EXPECT_THROW(at::mm_out(wide_out, a, a.t()), c10::Error);
}

}  // namespace
}  // namespace halftone::fast_cpu_gemms_test
