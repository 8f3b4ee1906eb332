// SPDX-License-Identifier: Apache-2.0
// Which way a 16-bit matmul takes, chosen and observed.
#pragma once

#include <ATen/record_function.h>
#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "halftone/kernels/gemm/cpu_gemm_config.h"
#include "halftone/kernels/gemm/fast_cpu_gemms.h"

namespace halftone::test {

/// In its scope, matmuls take the ways that `choice` names (parse_cpu_gemm_config).
class GemmConfigScope {
 public:
  explicit GemmConfigScope(const std::string& choice) : before_(cpu_gemm_config()) {
    set_cpu_gemm_config(parse_cpu_gemm_config(choice));
  }
  ~GemmConfigScope() { set_cpu_gemm_config(before_); }
  GemmConfigScope(const GemmConfigScope&) = delete;
  GemmConfigScope& operator=(const GemmConfigScope&) = delete;

 private:
  CpuGemmConfig before_;
};

/// With LibTorch's matmuls replaced, once for each way.
class FastCpuGemmsTest : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    ASSERT_TRUE(use_fast_cpu_gemms());
    torch::manual_seed(1);
  }
  bool upcasts() const { return GetParam() == "upcast"; }
  GemmConfigScope scope_{GetParam()};
};

/// How many tensors change their dtype in `work`, on this thread: none on LibTorch's own way.
inline int conversions_in(const std::function<void()>& work) {
  static thread_local int conversions;
  conversions = 0;
  const auto handle = at::addThreadLocalCallback(at::RecordFunctionCallback(
      [](const at::RecordFunction& call) -> std::unique_ptr<at::ObserverContext> {
        if (std::string_view(call.name()) == "aten::_to_copy") ++conversions;
        return nullptr;
      }));
  work();
  at::removeCallback(handle);
  return conversions;
}

}  // namespace halftone::test
