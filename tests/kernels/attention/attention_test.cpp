// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/attention/attention.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "halftone/kernels/gemm/cpu_gemm_config.h"
#include "support/on_devices.h"

namespace halftone::attention_test {
namespace {

using torch::Tensor;

Tensor definition(const Tensor& q, const Tensor& k, const Tensor& v) {
  const std::int64_t repeat = q.size(1) / k.size(1);
  const Tensor keys = k.to(torch::kDouble).repeat_interleave(repeat, 1);
  const Tensor values = v.to(torch::kDouble).repeat_interleave(repeat, 1);
  const Tensor scores = q.to(torch::kDouble).matmul(keys.transpose(-1, -2)) /
                        std::sqrt(static_cast<double>(q.size(-1)));
  const std::int64_t offset = k.size(2) - q.size(2);
  const Tensor hidden =
      torch::ones({q.size(2), k.size(2)}, q.options().dtype(torch::kBool)).triu(offset + 1);
  return scores.masked_fill(hidden, -std::numeric_limits<double>::infinity())
      .softmax(-1)
      .matmul(values);
}

using CausalAttentionOn = test::OnDevices;
HALFTONE_ON_DEVICES(CausalAttentionOn);

TEST_P(CausalAttentionOn, EqualsTheDefinition) {
  torch::manual_seed(1);
  const CpuGemmConfig before = cpu_gemm_config();
  const std::int64_t cases[][2] = {{1, 1}, {7, 7}, {33, 33}, {1, 9}, {3, 9}};
  for (const char* path : {"native", "upcast"}) {
    set_cpu_gemm_config(parse_cpu_gemm_config(path));
    for (const auto dtype : {torch::kFloat, torch::kBFloat16, torch::kHalf}) {
      for (const auto& [steps, keys] : cases) {
        const Tensor q = here(torch::randn({2, 4, steps, 16}).to(dtype));
        const Tensor k = here(torch::randn({2, 2, keys, 16}).to(dtype));
        const Tensor v = here(torch::randn({2, 2, keys, 16}).to(dtype));
        const Tensor out = causal_attention(q, k, v);
        EXPECT_EQ(out.scalar_type(), dtype);
        const double tolerance = dtype == torch::kFloat  ? 1e-5
                                 : dtype == torch::kHalf ? 4e-3
                                                         : 3e-2;
        EXPECT_LT((out.to(torch::kDouble) - definition(q, k, v)).abs().max().item<double>(),
                  tolerance);
      }
    }
  }
  set_cpu_gemm_config(before);
}

TEST_P(CausalAttentionOn, GradientsEqualTheDefinitions) {
  torch::manual_seed(2);
  const CpuGemmConfig before = cpu_gemm_config();
  for (const char* path : {"native", "upcast"}) {
    set_cpu_gemm_config(parse_cpu_gemm_config(path));
    for (const auto dtype : {torch::kFloat, torch::kBFloat16, torch::kHalf}) {
      std::vector<Tensor> ours;
      std::vector<Tensor> theirs;
      for (const std::int64_t heads : {4, 2, 2}) {
        const Tensor value = here(torch::randn({2, heads, 11, 16}).to(dtype));
        ours.push_back(value.clone().requires_grad_());
        theirs.push_back(value.to(torch::kDouble).requires_grad_());
      }
      const Tensor g = here(torch::randn({2, 4, 11, 16}));
      causal_attention(ours[0], ours[1], ours[2]).backward(g.to(dtype));
      definition(theirs[0], theirs[1], theirs[2]).backward(g.to(dtype).to(torch::kDouble));
      for (std::size_t i = 0; i < ours.size(); ++i) {
        const Tensor error = ours[i].grad().to(torch::kDouble) - theirs[i].grad();
        const double tolerance = dtype == torch::kFloat  ? 1e-5
                                 : dtype == torch::kHalf ? 3e-3
                                                         : 2e-2;
        EXPECT_LT((error.norm() / theirs[i].grad().norm()).item<double>(), tolerance);
      }
    }
  }
  set_cpu_gemm_config(before);
}

TEST(CausalAttention, RefusesFewerKeysThanQueries) {
  const Tensor q = torch::zeros({1, 1, 3, 4});
  EXPECT_THROW(causal_attention(q, q.narrow(2, 0, 2), q.narrow(2, 0, 2)), c10::Error);
}

}  // namespace
}  // namespace halftone::attention_test
