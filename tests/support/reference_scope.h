// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "halftone/kernels/common/fused_kernels.h"

namespace halftone::test {

/// In its scope, the kernels that `names` lists are computed by their definitions.
class ReferenceScope {
 public:
  explicit ReferenceScope(const std::string& names) : before_(reference_kernels()) {
    set_reference_kernels(names);
  }
  ~ReferenceScope() { set_reference_kernels(before_); }
  ReferenceScope(const ReferenceScope&) = delete;
  ReferenceScope& operator=(const ReferenceScope&) = delete;

 private:
  std::string before_;
};

}  // namespace halftone::test
