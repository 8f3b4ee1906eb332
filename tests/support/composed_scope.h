// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "halftone/kernels/common/fused_kernels.h"

namespace halftone::test {

/// In its scope, the kernels that `names` lists are computed by their definitions.
class ComposedScope {
 public:
  explicit ComposedScope(const std::string& names) : before_(composed_kernels()) {
    set_composed_kernels(names);
  }
  ~ComposedScope() { set_composed_kernels(before_); }
  ComposedScope(const ComposedScope&) = delete;
  ComposedScope& operator=(const ComposedScope&) = delete;

 private:
  std::string before_;
};

}  // namespace halftone::test
