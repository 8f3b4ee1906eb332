// SPDX-License-Identifier: Apache-2.0
#include "halftone/diagnostics/compare/number_format.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/types.h>

#include <cmath>
#include <limits>

#include "halftone/core/error.h"
#include "support/golden_file.h"
#include "support/message_of.h"

namespace halftone::number_format_test {
namespace {

using testing::HasSubstr;
using torch::Tensor;

constexpr float kInf = std::numeric_limits<float>::infinity();

TEST(NumberFormat, KnowsItsLimits) {
  EXPECT_EQ(number_format("fp16").smallest(), std::ldexp(1.0, -24));
  EXPECT_EQ(number_format("fp16").overflows_from(), 65520.0);
  EXPECT_EQ(number_format("bf16").max,
            static_cast<double>(std::numeric_limits<c10::BFloat16>::max()));
  EXPECT_EQ(number_format("fp8-e4m3").smallest(), std::ldexp(1.0, -9));
  EXPECT_EQ(number_format("fp8-e4m3").overflows_from(), 464.0);
  EXPECT_EQ(number_format("fp8-e5m2").smallest(), std::ldexp(1.0, -16));
  EXPECT_EQ(number_format("fp32").unit_roundoff(), std::ldexp(1.0, -24));
  EXPECT_EQ(number_format_of(torch::kHalf)->name, "fp16");
  EXPECT_FALSE(number_format_of(torch::kLong));
  EXPECT_THAT(test::message_of<UserError>([] { number_format("fp4"); }),
              HasSubstr("out of fp32, bf16, fp16"));
}

// Whatever a format's neighbours of a limit are, LibTorch's cast says where they go.
TEST(NumberFormat, RoundsAsLibTorchAtEveryLimit) {
  for (const auto& [name, dtype] :
       {std::pair("bf16", torch::kBFloat16), std::pair("fp16", torch::kHalf)}) {
    const NumberFormat& format = number_format(name);
    const auto least = static_cast<float>(format.smallest());
    const auto flushed = static_cast<float>(format.flushed_up_to());
    const auto beyond = static_cast<float>(format.overflows_from());
    const Tensor values =
        torch::tensor({0.0F, -0.0F, least, flushed, std::nextafter(flushed, kInf), -flushed, beyond,
                       std::nextafter(beyond, 0.0F), -beyond, 1.0F, 1.2345678F, kInf, -kInf});
    EXPECT_TRUE(stored_as(format, values).equal(values.to(dtype).to(torch::kFloat))) << name;
  }
}

TEST(NumberFormat, ScaleMovesTheWindow) {
  const Tensor tiny = torch::full({4}, 1e-9);
  EXPECT_EQ(storage_loss(number_format("fp16"), tiny).flushed_share, 1.0);
  const StorageLoss scaled = storage_loss(number_format("fp16"), tiny, 65536.0);
  EXPECT_EQ(scaled.flushed_share, 0.0);
  EXPECT_LT(scaled.relative_error, number_format("fp16").unit_roundoff() * 16);  // subnormal
  EXPECT_EQ(storage_loss(number_format("fp16"), torch::full({4}, 2.0), 65536.0).overflowed_share,
            1.0);
}

TEST(NumberFormat, Fp8AndInt8FitTheirLargestValue) {
  const Tensor values = torch::tensor({{1e-4F, 2e-4F, 3e-4F}, {100.0F, -50.0F, 0.2F}});
  for (const char* name : {"fp8-e4m3", "fp8-e5m2", "int8"}) {
    const Tensor stored = stored_as(number_format(name), values);
    EXPECT_FLOAT_EQ(stored[1][0].item<float>(), 100.0F) << name;
  }
  // A scale of its own for each row: the small row survives in int8, not in fp8.
  EXPECT_NEAR(stored_as(number_format("int8"), values)[0][1].item<float>(), 2e-4F, 2e-6F);
  EXPECT_EQ(stored_as(number_format("fp8-e4m3"), values)[0][1].item<float>(), 0.0F);
}

TEST(NumberFormat, CountsOnlyFiniteValuesThatAreNotZero) {
  const Tensor values = torch::tensor({0.0F, kInf, 1.0F, 1e-9F});
  const StorageLoss loss = storage_loss(number_format("fp16"), values);
  EXPECT_EQ(loss.flushed_share, 0.5);
  EXPECT_EQ(loss.overflowed_share, 0.0);
  EXPECT_NEAR(loss.flushed_norm, 1e-9, 1e-12);
  EXPECT_EQ(storage_loss(number_format("fp16"), torch::zeros({3})).relative_error, 0.0);
  EXPECT_EQ(storage_loss(number_format("int8"), torch::zeros({0, 4})).flushed_share, 0.0);
  EXPECT_TRUE(stored_as(number_format("int8"), torch::zeros({2, 4})).equal(torch::zeros({2, 4})));
}

// tests/golden/make_compare_golden.py
TEST(NumberFormat, EqualsPyTorchOverEighteenDecades) {
  const auto golden = test::read_golden("compare.safetensors");
  const Tensor& values = golden.tensors.at("w.ranges");
  for (const char* name : {"bf16", "fp16", "fp8-e4m3", "fp8-e5m2"}) {
    const StorageLoss loss = storage_loss(number_format(name), values);
    const Tensor& expected = golden.tensors.at(std::string("storage.") + name);
    EXPECT_NEAR(loss.relative_error, expected[0].item<double>(), 1e-3 * loss.relative_error)
        << name;
    EXPECT_NEAR(loss.flushed_share, expected[1].item<double>(), 1e-9) << name;
    EXPECT_NEAR(loss.overflowed_share, expected[2].item<double>(), 1e-9) << name;
  }
}

}  // namespace
}  // namespace halftone::number_format_test
