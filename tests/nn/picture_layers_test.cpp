// SPDX-License-Identifier: Apache-2.0
// Conv2d, LayerNorm and GroupNorm as modules, patches of pictures and means of rows; the kernels'
// tests hold their numbers.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/nn/modules/activation.h>
#include <torch/nn/modules/conv.h>

#include <cmath>
#include <vector>

#include "halftone/core/error.h"
#include "halftone/nn/conv2d.h"
#include "halftone/nn/layer_norm.h"
#include "halftone/nn/mean_of_rows.h"
#include "halftone/nn/patches.h"
#include "halftone/nn/torch_layers.h"
#include "support/fused_op.h"
#include "support/message_of.h"

namespace halftone::picture_layers_test {
namespace {

using testing::HasSubstr;
using torch::Tensor;

TEST(Conv2dModule, TakesTheWeightsOfLibTorchs) {
  torch::manual_seed(1);
  for (const std::int64_t groups : {1, 2}) {
    Conv2d ours(Conv2dOptions{.in_channels = 6,
                              .out_channels = 4,
                              .kernel = {3, 2},
                              .stride = {2, 1},
                              .padding = {1, 0},
                              .dilation = {1, 2},
                              .groups = groups});
    torch::nn::Conv2d theirs(torch::nn::Conv2dOptions(6, 4, {3, 2})
                                 .stride({2, 1})
                                 .padding({1, 0})
                                 .dilation({1, 2})
                                 .groups(groups));
    const torch::NoGradGuard no_grad;
    const auto from = theirs->named_parameters();
    for (const auto& parameter : ours->named_parameters())
      parameter.value().copy_(from[parameter.key()]);
    const Tensor x = torch::randn({2, 6, 9, 8});
    EXPECT_LT(test::relative_error(ours(x), theirs(x)), 1e-6);
  }
}

TEST(Conv2dModule, IsInitialisedUniformlyWithinTheBound) {
  torch::manual_seed(2);
  const Conv2d conv(Conv2dOptions{.in_channels = 16, .out_channels = 200, .kernel = {2, 2}});
  for (const Tensor& one : {conv->weight, conv->bias})
    EXPECT_LE(one.abs().max().item<double>(), 0.125);
  EXPECT_NEAR(conv->weight.std().item<double>(), 0.125 / std::sqrt(3.0), 0.002);
  EXPECT_FALSE(Conv2d(Conv2dOptions{.in_channels = 1, .out_channels = 1, .has_bias = false})
                   ->bias.defined());
}

TEST(Conv2dModule, RefusesOptionsThatGiveNoLayer) {
  const auto made = [](const Conv2dOptions& options) {
    return [options] { Conv2d conv(options); };
  };
  EXPECT_THAT(test::message_of<UserError>(made({.in_channels = 3})), HasSubstr("from 1"));
  EXPECT_THAT(
      test::message_of<UserError>(made({.in_channels = 3, .out_channels = 4, .padding = {-1, 0}})),
      HasSubstr("padding from 0"));
  EXPECT_THAT(test::message_of<UserError>(made({.in_channels = 6, .out_channels = 4, .groups = 3})),
              HasSubstr("3 groups of 6 and 4 channels"));
}

TEST(NormModules, BeginAsTheIdentityOfWhatIsNormed) {
  torch::manual_seed(3);
  const Tensor x = torch::randn({4, 6, 5}) * 3 + 1;
  const Tensor rows = LayerNorm(5)->forward(x);
  EXPECT_LT(rows.mean(-1).abs().max().item<double>(), 1e-5);
  EXPECT_LT((rows.var(-1, false) - 1).abs().max().item<double>(), 1e-3);
  EXPECT_TRUE(rows.equal(LayerNorm(5, 1e-5, /*has_affine=*/false)->forward(x)));
  const Tensor groups = GroupNorm(2, 6)->forward(x).view({4, 2, 15});
  EXPECT_LT(groups.mean(-1).abs().max().item<double>(), 1e-5);
  EXPECT_TRUE(LayerNorm(5, 1e-5, false)->parameters().empty());
  EXPECT_THROW(GroupNorm(4, 6), UserError);
  EXPECT_THROW(LayerNorm(6)->forward(x), c10::Error);
  EXPECT_THROW(GroupNorm(2, 8)->forward(x), c10::Error);
}

TEST(TorchLayers, AreKnownByName) {
  EXPECT_EQ(torch_layer(*torch::nn::Conv2d(torch::nn::Conv2dOptions(1, 1, 1))).ours,
            "halftone::Conv2d");
  const TorchLayer transposed =
      torch_layer(*torch::nn::ConvTranspose2d(torch::nn::ConvTranspose2dOptions(1, 1, 1)));
  EXPECT_EQ(transposed.name, "torch::nn::ConvTranspose2d");
  EXPECT_EQ(transposed.ours, "");
  const torch::nn::MultiheadAttention attention(torch::nn::MultiheadAttentionOptions(4, 2));
  EXPECT_EQ(torch_layer(*attention).name, "torch::nn::MultiheadAttention");
  EXPECT_EQ(torch_layer(*attention).ours, "halftone::MultiHeadAttention");
  EXPECT_EQ(torch_layer(*GroupNorm(2, 6)).name, "");
}

TEST(Patches, AreTheSquaresRowByRow) {
  const Tensor pictures = torch::randn({2, 3, 6, 9});
  const Tensor patches = patches_of(pictures, 3);
  ASSERT_EQ(patches.sizes(), (std::vector<std::int64_t>{2, 6, 27}));
  for (std::int64_t y = 0; y < 6; ++y)
    for (std::int64_t x = 0; x < 9; ++x)
      for (std::int64_t c = 0; c < 3; ++c)
        EXPECT_TRUE(patches.select(1, y / 3 * 3 + x / 3)
                        .select(1, c * 9 + y % 3 * 3 + x % 3)
                        .equal(pictures.select(1, c).select(1, y).select(1, x)));
  EXPECT_TRUE(pictures_of_patches(patches, 3, 9).equal(pictures));
  EXPECT_THROW(patches_of(pictures, 4), c10::Error);
  EXPECT_THROW(pictures_of_patches(patches, 3, 12), c10::Error);
}

// A pattern of one colour per patch stays what it is, whatever the size.
TEST(Patches, LayersAreMadeForLargerOnes) {
  torch::manual_seed(5);
  const Tensor weights = torch::randn({5, 3, 1, 1}).expand({5, 3, 4, 4}).reshape({5, 48});
  const Tensor larger = resized_patch_weights(weights, 4, 8);
  EXPECT_TRUE(
      larger.allclose(weights.view({5, 3, 16}).slice(2, 0, 1).expand({5, 3, 64}).flatten(1)));
  const Tensor small = torch::randn({2, 3, 8, 8});
  const Tensor large = small.repeat_interleave(2, 2).repeat_interleave(2, 3);
  EXPECT_TRUE(patches_of(large, 8)
                  .matmul((larger / 4).t())
                  .allclose(patches_of(small, 4).matmul(weights.t()), 1e-5, 1e-5));
  EXPECT_TRUE(resized_patch_weights(weights, 4, 4).equal(weights));
}

TEST(MeanOfRows, LeavesPaddingOut) {
  torch::manual_seed(6);
  Tensor x = torch::randn({3, 4, 2}).requires_grad_();
  const Tensor mean = mean_of_rows(x, torch::tensor({4, 1, 3}));
  EXPECT_TRUE(mean[0].allclose(x[0].mean(0)));
  EXPECT_TRUE(mean[1].equal(x[1][0]));
  EXPECT_TRUE(mean[2].allclose(x[2].slice(0, 0, 3).mean(0)));
  mean.sum().backward();
  EXPECT_EQ(x.grad()[1].slice(0, 1).abs().sum().item<float>(), 0.0F);
  EXPECT_TRUE(mean_of_rows(x).equal(x.mean(1)));
  EXPECT_THROW(mean_of_rows(x, torch::tensor({4, 1})), c10::Error);
}

}  // namespace
}  // namespace halftone::picture_layers_test
