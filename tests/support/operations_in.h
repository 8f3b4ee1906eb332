// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/record_function.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace halftone::test {

/// The names of the operations that `work` goes through, in their order.
inline std::vector<std::string> operations_in(const std::function<void()>& work) {
  static std::vector<std::string> names;
  names.clear();
  const auto handle = at::addThreadLocalCallback(at::RecordFunctionCallback(
      [](const at::RecordFunction& call) -> std::unique_ptr<at::ObserverContext> {
        names.emplace_back(call.name());
        return nullptr;
      }));
  work();
  at::removeCallback(handle);
  return names;
}

}  // namespace halftone::test
