// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/common/fused_kernels.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/custom_function.h>

#include <functional>
#include <set>
#include <string>
#include <vector>

#include "halftone/core/error.h"
#include "halftone/kernels/attention/rotary_attention.h"
#include "halftone/kernels/fused/embedding.h"
#include "halftone/kernels/fused/rms_norm.h"
#include "halftone/kernels/fused/swiglu.h"
#include "halftone/kernels/gemm/sgemm.h"
#include "halftone/kernels/linear/linear_cross_entropy.h"
#include "support/message_of.h"
#include "support/operations_in.h"
#include "support/reference_scope.h"

namespace halftone::fused_kernels_test {
namespace {

using test::message_of;
using test::ReferenceScope;
using testing::HasSubstr;
using torch::Tensor;

/// The names of the operations that `work` goes through, this library's and LibTorch's.
std::set<std::string> operations_of(const std::function<void()>& work) {
  const std::vector<std::string> names = test::operations_in(work);
  return {names.begin(), names.end()};
}

/// What only the kernel of a name goes through, and what only its definition does.
struct Traces {
  const char* name;
  const char* kernel;
  const char* definition;
};

constexpr Traces kTraces[] = {
    {"cross_entropy", "halftone::cross_entropy_to_gradient_", "aten::cross_entropy_loss"},
    {"embedding", "halftone::embedding_gradient", "aten::embedding_dense_backward"},
    {"rms_norm", "halftone::rms_norm_gradient", "aten::rsqrt"},
    {"rotary_attention", "halftone::rotary_attention_gradient",
     "aten::scaled_dot_product_attention"},
    {"swiglu", "halftone::swiglu_gradient", "aten::silu"}};

/// On Arm, LibTorch lends no BLAS, which attention's kernel multiplies with.
bool has_kernel(const Traces& traces) {
  return std::string(traces.name) != "rotary_attention" || has_sgemm();
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
  const std::set<std::string> seen = operations_of(all_of_a_layer);
  for (const Traces& traces : kTraces) {
    EXPECT_EQ(seen.contains(traces.kernel), has_kernel(traces)) << traces.kernel;
    EXPECT_EQ(seen.contains(traces.definition), !has_kernel(traces)) << traces.definition;
  }
}

TEST(FusedKernels, GiveWayToTheirDefinitionsByName) {
  for (const Traces& off : kTraces) {
    const ReferenceScope scope(off.name);
    const std::set<std::string> seen = operations_of(all_of_a_layer);
    EXPECT_TRUE(seen.contains(std::string("halftone::") + off.name) ||
                std::string(off.name) == "cross_entropy")
        << "an operation has its name with either";
    for (const Traces& traces : kTraces) {
      if (std::string(traces.name) == "cross_entropy") continue;  // the operation is the kernel's
      EXPECT_EQ(seen.contains(traces.kernel), traces.name != off.name && has_kernel(traces))
          << traces.name;
    }
    EXPECT_TRUE(seen.contains(off.definition)) << off.definition;
  }
  {
    const ReferenceScope scope("linear_cross_entropy");
    EXPECT_FALSE(operations_of(all_of_a_layer).contains("halftone::cross_entropy_to_gradient_"));
  }
  const ReferenceScope scope("all");
  const std::set<std::string> seen = operations_of(all_of_a_layer);
  for (const Traces& traces : kTraces) {
    EXPECT_FALSE(seen.contains(traces.kernel)) << traces.kernel;
    EXPECT_TRUE(seen.contains(traces.definition)) << traces.definition;
  }
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
