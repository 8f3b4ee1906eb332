// SPDX-License-Identifier: Apache-2.0
#include "halftone/nn/packed_parameters.h"

#include <gtest/gtest.h>
#include <torch/nn/modules/container/sequential.h>

#include "halftone/autocast/keep_fp32.h"
#include "halftone/nn/linear.h"
#include "halftone/nn/rms_norm.h"

namespace halftone::packed_parameters_test {
namespace {

using torch::Tensor;

TEST(PackParameters, KeepsValuesDtypesAndLayersInOneBuffer) {
  torch::manual_seed(1);
  torch::nn::Sequential module(Linear(7, 5), RmsNorm(5, 1e-5), Linear(5, 3));
  module[2]->as<LinearImpl>()->to(torch::kBFloat16);
  std::vector<Tensor> before;
  for (const Tensor& parameter : module->parameters()) before.push_back(parameter.detach().clone());
  mark_keep_fp32(module->parameters()[0]);
  pack_parameters(*module);
  const std::vector<Tensor> after = module->parameters();
  ASSERT_EQ(after.size(), before.size());
  for (std::size_t i = 0; i < after.size(); ++i) {
    EXPECT_TRUE(after[i].equal(before[i]) && after[i].scalar_type() == before[i].scalar_type());
    EXPECT_TRUE(after[i].requires_grad() && after[i].is_leaf() && after[i].is_contiguous());
    EXPECT_TRUE(after[i].storage().is_alias_of(after[0].storage()));
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(after[i].data_ptr()) % 64, 0U);
  }
  EXPECT_TRUE(keeps_fp32(after[0]));
  unmark_keep_fp32(after[0]);
  module[0]->as<LinearImpl>()->forward(torch::ones({2, 7})).sum().backward();
  EXPECT_TRUE(after[0].grad().defined());
}

TEST(PackParameters, AModuleWithoutAnyIsLeftAlone) {
  torch::nn::Sequential module;
  pack_parameters(*module);
  EXPECT_TRUE(module->parameters().empty());
}

}  // namespace
}  // namespace halftone::packed_parameters_test
