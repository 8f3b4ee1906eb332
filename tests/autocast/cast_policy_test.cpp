// SPDX-License-Identifier: Apache-2.0
#include "halftone/autocast/cast_policy.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/library.h>

#include <cstdlib>
#include <fstream>
#include <functional>
#include <optional>
#include <sstream>
#include <string>

#include "halftone/autocast/autocast.h"
#include "halftone/autocast/keep_fp32.h"
#include "support/paths.h"

namespace halftone::cast_policy_test {
namespace {

using testing::HasSubstr;
using torch::ScalarType;
using torch::Tensor;

CastPolicy policy_of(const std::string& op, torch::DeviceType device) {
  for (const AutocastEntry& entry : autocast_policy(device))
    if (entry.op == op) return entry.policy;
  ADD_FAILURE() << op << " is not listed";
  return CastPolicy::kRefused;
}

// Known of LibTorch's source; here only the registrations can be looked at.
TEST(CastPolicy, CudasListsAreFoundWithoutAGpu) {
  EXPECT_EQ(policy_of("aten::lstm_cell", torch::kCUDA), CastPolicy::kLowerPrecision);
  EXPECT_EQ(policy_of("aten::exp", torch::kCUDA), CastPolicy::kFp32);
  EXPECT_EQ(policy_of("aten::softmax.int", torch::kCUDA), CastPolicy::kFp32Dtype);
  EXPECT_EQ(policy_of("aten::norm.Scalar", torch::kCUDA), CastPolicy::kFp32Dtype);
  EXPECT_EQ(policy_of("aten::dot", torch::kCUDA), CastPolicy::kWidest);
  EXPECT_EQ(policy_of("aten::index_put", torch::kCUDA), CastPolicy::kWidest);
  EXPECT_EQ(policy_of("aten::binary_cross_entropy", torch::kCUDA), CastPolicy::kRefused);
  EXPECT_EQ(policy_of("aten::binary_cross_entropy", torch::kCPU), CastPolicy::kFp32);
}

std::string text_of(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

TEST(CastPolicy, DocumentationListsWhatLibTorchDoes) {
  const std::string page = std::string(test::kSourceDir) + "/docs/autocast.md";
  if (std::getenv("HALFTONE_UPDATE_DOCS") != nullptr) std::ofstream(page) << autocast_reference();
  EXPECT_EQ(text_of(page), autocast_reference()) << "set HALFTONE_UPDATE_DOCS=1 to write it again";
}

// Marking a tensor replaces kernels by ones that call them.
TEST(CastPolicy, KeepingTensorsInFp32DoesNotChangeTheLists) {
  const std::string before = autocast_reference();
  const Tensor kept = torch::ones({2, 2});
  mark_keep_fp32(kept);
  EXPECT_EQ(autocast_reference(), before);
}

Tensor product(const Tensor& x, const Tensor& w) { return torch::mm(x, w); }
Tensor joined(at::TensorList tensors) { return tensors[0] * tensors[1]; }
Tensor total(const Tensor& x, std::optional<ScalarType> dtype) { return x.sum(dtype); }

TORCH_LIBRARY(halftone_test, m) {
  m.def("product(Tensor x, Tensor w) -> Tensor", &product);
  m.def("wide_product(Tensor x, Tensor w) -> Tensor", &product);
  m.def("joined(Tensor[] tensors) -> Tensor", &joined);
  m.def("total(Tensor x, *, ScalarType? dtype=None) -> Tensor", &total);
  m.def("refused(Tensor x, Tensor w) -> Tensor", &product);
  m.def("unregistered(Tensor x, Tensor w) -> Tensor", &product);
}

template <class Function>
auto user_op(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Function>();
}

std::string message_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const c10::Error& error) {
    return error.what_without_backtrace();
  }
  return "no error";
}

TEST(RegisterAutocast, PutsAUsersOperationUnderEachPolicy) {
  register_autocast("halftone_test::product", torch::kCPU, CastPolicy::kLowerPrecision);
  register_autocast("halftone_test::wide_product", torch::kCPU, CastPolicy::kFp32);
  register_autocast("halftone_test::joined", torch::kCPU, CastPolicy::kWidest);
  register_autocast("halftone_test::total", torch::kCPU, CastPolicy::kFp32Dtype);
  register_autocast("halftone_test::refused", torch::kCPU, CastPolicy::kRefused);
  const auto low = user_op<Tensor(const Tensor&, const Tensor&)>("halftone_test::product");
  const auto wide = user_op<Tensor(const Tensor&, const Tensor&)>("halftone_test::wide_product");
  const auto join = user_op<Tensor(at::TensorList)>("halftone_test::joined");
  const auto sum =
      user_op<Tensor(const Tensor&, std::optional<ScalarType>)>("halftone_test::total");
  const auto refused = user_op<Tensor(const Tensor&, const Tensor&)>("halftone_test::refused");
  const Tensor x = torch::rand({3, 3}).requires_grad_();
  const Tensor half = torch::rand({3, 3}).to(torch::kHalf);
  EXPECT_EQ(low.call(x, x).scalar_type(), torch::kFloat);
  EXPECT_EQ(refused.call(x, x).scalar_type(), torch::kFloat);
  {
    const Autocast autocast(torch::kCPU, torch::kHalf);
    const Tensor y = low.call(x, half);
    EXPECT_EQ(y.scalar_type(), torch::kHalf);
    y.to(torch::kFloat).sum().backward();
    EXPECT_EQ(x.grad().scalar_type(), torch::kFloat);
    EXPECT_EQ(low.call(x.to(torch::kDouble), x.to(torch::kDouble)).scalar_type(), torch::kDouble);
    EXPECT_EQ(wide.call(half, half).scalar_type(), torch::kFloat);
    EXPECT_EQ(join.call({half, half}).scalar_type(), torch::kHalf);
    EXPECT_EQ(join.call({half, x}).scalar_type(), torch::kFloat);
    EXPECT_THAT(message_of([&] {
                  join.call({half, half.to(torch::kBFloat16)});
                }),
                HasSubstr("Unexpected floating ScalarType"));
    EXPECT_EQ(sum.call(half, std::nullopt).scalar_type(), torch::kFloat);
    EXPECT_EQ(sum.call(half, torch::kHalf).scalar_type(), torch::kHalf);
    EXPECT_EQ(sum.call(half.to(torch::kLong), std::nullopt).scalar_type(), torch::kLong);
    EXPECT_THAT(message_of([&] { refused.call(x, x); }), HasSubstr("unsafe under autocast"));
  }
  EXPECT_EQ(policy_of("halftone_test::product", torch::kCPU), CastPolicy::kLowerPrecision);
  EXPECT_EQ(policy_of("halftone_test::wide_product", torch::kCPU), CastPolicy::kFp32);
  EXPECT_EQ(policy_of("halftone_test::joined", torch::kCPU), CastPolicy::kWidest);
  EXPECT_EQ(policy_of("halftone_test::total", torch::kCPU), CastPolicy::kFp32Dtype);
  EXPECT_EQ(policy_of("halftone_test::refused", torch::kCPU), CastPolicy::kRefused);
  EXPECT_EQ(autocast_reference().find("halftone_test"), std::string::npos);

  const Tensor kept = torch::rand({3, 3});
  mark_keep_fp32(kept);
  const Autocast autocast(torch::kCPU, torch::kHalf);
  EXPECT_TRUE(low.call(half, kept).equal(product(half.to(torch::kFloat), kept)));
}

TEST(RegisterAutocast, RefusesMisuse) {
  const auto message = [](const std::string& op, CastPolicy policy) {
    return message_of([&] { register_autocast(op, torch::kCPU, policy); });
  };
  EXPECT_THAT(message("fused", CastPolicy::kFp32), HasSubstr("expected \"namespace::operation\""));
  EXPECT_THAT(message("halftone_test::nothing", CastPolicy::kFp32), HasSubstr("nothing"));
  EXPECT_THAT(message("aten::mm", CastPolicy::kFp32), HasSubstr("is LibTorch's own"));
  EXPECT_THAT(message("halftone_test::unregistered", CastPolicy::kFp32Dtype),
              HasSubstr("expected an argument `ScalarType? dtype`"));
  register_autocast("halftone_test::unregistered", torch::kCPU, CastPolicy::kFp32);
  EXPECT_THAT(message("halftone_test::unregistered", CastPolicy::kFp32),
              HasSubstr("has a policy on cpu already"));
  EXPECT_THROW(register_autocast("halftone_test::unregistered", torch::kMeta, CastPolicy::kFp32),
               c10::Error);
}

}  // namespace
}  // namespace halftone::cast_policy_test
