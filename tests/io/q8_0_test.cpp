// SPDX-License-Identifier: Apache-2.0
#include "halftone/io/q8_0.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "halftone/core/error.h"
#include "halftone/io/gguf.h"
#include "support/message_of.h"
#include "support/paths.h"

namespace halftone::q8_0_test {
namespace {

using test::message_of;
using testing::HasSubstr;
using torch::Tensor;

std::string golden(const std::string& name) { return std::string(test::kGoldenDir) + "/" + name; }

TEST(QuantizeQ8, NumbersAreAsThePythonPackageReadsThem) {
  const GgufFile file = open_gguf(golden("q8_0.gguf"));
  const Tensor values = file.tensors.tensor("values");
  const Tensor back = dequantize_q8_0(quantize_q8_0(values), values.sizes());
  EXPECT_TRUE(back.equal(file.tensors.tensor("read")));
  EXPECT_TRUE(file.tensors.tensor("blocks").equal(file.tensors.tensor("read")));
}

// In fp64 and by another route: what is stored is nearer to the number than any other integer of
// the block's scale.
TEST(QuantizeQ8, TakesTheNearestIntegerOfTheBlocksScale) {
  torch::manual_seed(3);
  const Tensor values = torch::randn({6, 96});
  const Tensor blocks = quantize_q8_0(values);
  const Tensor back = dequantize_q8_0(blocks, values.sizes());
  const Tensor scales =
      values.abs().view({-1, kQ8BlockSize}).amax(1, true).to(torch::kDouble) / 127.0;
  const Tensor wrong = (values - back).abs().view({-1, kQ8BlockSize}).to(torch::kDouble);
  // Half a step, and what fp16 loses of a scale: 2^-11 of up to 127 steps.
  EXPECT_LE((wrong / scales).max().item<double>(), 0.5 + 127 * 0x1p-11);
  EXPECT_GT((wrong / scales).max().item<double>(), 0.4);
}

TEST(QuantizeQ8, HalvesGoAwayFromZero) {
  Tensor values = torch::zeros({32});
  values[0] = 127.0F;
  values[1] = 2.5F;
  values[2] = -2.5F;
  const Tensor back = dequantize_q8_0(quantize_q8_0(values), values.sizes());
  EXPECT_EQ(back[1].item<float>(), 3.0F);
  EXPECT_EQ(back[2].item<float>(), -3.0F);
}

TEST(QuantizeQ8, TakesAnyFloatingPointDtypeAndStrides) {
  const Tensor values = torch::randn({64, 32}).to(torch::kBFloat16);
  EXPECT_TRUE(
      quantize_q8_0(values.t().contiguous().t()).equal(quantize_q8_0(values.to(torch::kFloat))));
  EXPECT_EQ(quantize_q8_0(torch::empty({0, 32})).sizes(), (std::vector<std::int64_t>{0, 34}));
}

TEST(QuantizeQ8, RefusesWhatHasNoBlocks) {
  EXPECT_THAT(message_of<c10::Error>([] {
                quantize_q8_0(torch::zeros({2, 48}));
              }),
              HasSubstr("multiple of 32 numbers"));
  Tensor values = torch::zeros({32});
  values[5] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THAT(message_of<c10::Error>([&] { quantize_q8_0(values); }), HasSubstr("finite"));
  EXPECT_THAT(message_of<c10::Error>(
                  [] { dequantize_q8_0(torch::zeros({33}, torch::dtype(torch::kByte)), {32}); }),
              HasSubstr("expected 1 dense blocks of 34 bytes"));
}

}  // namespace
}  // namespace halftone::q8_0_test
