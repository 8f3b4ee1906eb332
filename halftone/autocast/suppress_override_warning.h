// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <c10/util/Exception.h>

namespace halftone {

/// LibTorch warns, once a process, when a kernel of its own is replaced. In this scope the warning
/// is dropped and every other one reported: here the replacement is meant and calls the original.
class QuietOverride {
 public:
  QuietOverride() : guard_(&filter_) {}

 private:
  struct Filter : c10::WarningHandler {
    void process(const c10::Warning& warning) override;
    c10::WarningHandler* next = c10::WarningUtils::get_warning_handler();
  };
  Filter filter_;
  c10::WarningUtils::WarningHandlerGuard guard_;
};

}  // namespace halftone
