// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/common/fused_kernels.h"

#include <ATen/record_function.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/custom_function.h>

#include <functional>
#include <memory>
#include <set>
#include <string>

#include "halftone/core/error.h"
#include "halftone/kernels/attention/rotary_attention.h"
#include "halftone/kernels/fused/embedding.h"
#include "halftone/kernels/fused/rms_norm.h"
#include "halftone/kernels/fused/swiglu.h"
#include "halftone/kernels/linear/linear_cross_entropy.h"
#include "support/message_of.h"
#include "support/reference_scope.h"

namespace halftone::fused_kernels_test {
namespace {

using test::message_of;
using test::ReferenceScope;
using testing::HasSubstr;
using torch::Tensor;

/// The names of this library's operations that `work` goes through.
std::set<std::string> kernels_in(const std::function<void()>& work) {
  static std::set<std::string> names;
  names.clear();
  const auto handle = at::addThreadLocalCallback(at::RecordFunctionCallback(
      [](const at::RecordFunction& call) -> std::unique_ptr<at::ObserverContext> {
        if (const std::string name = call.name(); name.starts_with("halftone::"))
          names.insert(name.substr(10));
        return nullptr;
      }));
  work();
  at::removeCallback(handle);
  return names;
}

void all_of_a_layer() {
  const Tensor x = torch::randn({1, 8, 16}, torch::requires_grad());
  const Tensor weight = torch::ones({16}, torch::requires_grad());
  const Tensor rotations = torch::ones({8, 4}, torch::kComplexFloat);
  const Tensor table = torch::randn({32, 16}, torch::requires_grad());
  const Tensor ids = torch::arange(8).view({1, 8});
  // One head of 8 with 2 of its own kind for keys and values: 8 (1 + 2) = 24 columns.
  const Tensor qkv = torch::randn({1, 8, 24}, torch::requires_grad());
  const Tensor hidden = halftone::rms_norm(x, weight, 1e-5) + halftone::embedding(table, ids);
  const Tensor loss = linear_cross_entropy(hidden.view({8, 16}), table, ids.flatten(),
                                           torch::ones({8}), /*chunk_rows=*/0);
  (loss + swiglu(x).sum() + rotary_attention(qkv, rotations, {1, 1}).sum()).backward();
}

TEST(FusedKernels, AreAllOnByDefault) {
  EXPECT_EQ(reference_kernels(), "");
  EXPECT_THAT(kernels_in(all_of_a_layer),
              testing::IsSupersetOf({"rms_norm", "rms_norm_gradient", "swiglu", "swiglu_gradient",
                                     "rotary_attention", "rotary_attention_gradient",
                                     "embedding_gradient", "cross_entropy"}));
}

TEST(FusedKernels, GiveWayToTheirDefinitionsByName) {
  for (const char* name : {"rms_norm", "swiglu", "rotary_attention"}) {
    const ReferenceScope scope(name);
    const std::set<std::string> seen = kernels_in(all_of_a_layer);
    EXPECT_FALSE(seen.contains(name));
    EXPECT_FALSE(seen.contains(std::string(name) + "_gradient"));
    EXPECT_EQ(seen.size(), kernels_in([] {
                             const ReferenceScope none("");
                             all_of_a_layer();
                           }).size() -
                               2)
        << name;
  }
  {
    const ReferenceScope scope("embedding");
    EXPECT_FALSE(kernels_in(all_of_a_layer).contains("embedding_gradient"));
  }
  for (const char* name : {"cross_entropy", "linear_cross_entropy"}) {
    const ReferenceScope scope(name);
    EXPECT_FALSE(kernels_in(all_of_a_layer).contains("cross_entropy"));
  }
  const ReferenceScope scope("all");
  EXPECT_THAT(kernels_in(all_of_a_layer), testing::IsSubsetOf({"linear", "gemm32"}))
      << "matmuls have no definition beside them";
}

TEST(FusedKernels, AreListedInOneOrder) {
  const ReferenceScope scope("swiglu,adamw,swiglu");
  EXPECT_EQ(reference_kernels(), "adamw,swiglu");
  EXPECT_FALSE(is_fused(FusedKernel::kAdamW));
  EXPECT_TRUE(is_fused(FusedKernel::kMatvec));
}

TEST(FusedKernels, RefuseUnknownNamesAndStayAsTheyWere) {
  const ReferenceScope scope("matvec");
  EXPECT_THAT(message_of<UserError>([] { set_reference_kernels("rms_norm,gelu"); }),
              HasSubstr("got 'gelu'"));
  EXPECT_EQ(reference_kernels(), "matvec");
}

}  // namespace
}  // namespace halftone::fused_kernels_test
