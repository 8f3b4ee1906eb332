// SPDX-License-Identifier: Apache-2.0
// The modules of PyTorch, where Python is in the process: this library does not know Python, it
// finds it.
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace halftone {

/// The memory of a parameter: one that PyTorch's module holds under `name`.
struct NamedMemory {
  const char* begin;
  const char* end;
  std::string name;
};

/// One for the process: Python's hooks call it without saying for whom.
class PythonModules {
 public:
  /// Asks Python to put its hooks before and behind every module's forward(), as soon as it comes
  /// by; asks again as long as PyTorch is not imported. Does nothing where there is no Python, and
  /// never waits for it: safe in any thread.
  static void follow();

  /// Whether the hooks tell the parameters of what they see.
  static void ask_for_parameters(bool asks);
  /// Those that were told since the last call.
  static std::vector<NamedMemory> take_parameters();

  /// The path of the module whose forward() this thread is in, in the one that was called from
  /// outside; of that one, its class. Nothing: there are no hooks, or they were not there when it
  /// began. Empty: no module.
  static std::optional<std::string> current();
};

}  // namespace halftone
