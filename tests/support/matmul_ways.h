// SPDX-License-Identifier: Apache-2.0
// Which way a 16-bit product takes, chosen and observed.
#pragma once

#include <ATen/record_function.h>
#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "halftone/kernels/gemm/fast_cpu_gemms.h"
#include "halftone/kernels/gemm/matmul_path.h"

namespace halftone::test {

/// In its scope, products take the ways that `choice` names (parse_matmul_choice).
class WaysScope {
 public:
  explicit WaysScope(const std::string& choice) : before_(matmul_paths()) {
    set_matmul_paths(parse_matmul_choice(choice));
  }
  ~WaysScope() { set_matmul_paths(before_); }
  WaysScope(const WaysScope&) = delete;
  WaysScope& operator=(const WaysScope&) = delete;

 private:
  MatmulChoice before_;
};

/// With LibTorch's products replaced, once for each way.
class FastCpuGemmsTest : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    ASSERT_TRUE(use_fast_cpu_gemms());
    torch::manual_seed(1);
  }
  bool widens() const { return GetParam() == "widened"; }
  WaysScope scope_{GetParam()};
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
