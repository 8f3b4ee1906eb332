// SPDX-License-Identifier: Apache-2.0
// Patterns that name modules, of the options keep_fp32 and layer_precision.
#pragma once

#include <re2/re2.h>

#include <string>
#include <string_view>
#include <vector>

#include "halftone/core/error.h"

namespace halftone {

struct ModuleName {
  std::string path;  // "layers.0.attention.wq"; the root's is ""
  std::string type;  // Module::name()
};

/// A regular expression that is searched for in the modules' paths, or behind "type:" in the names
/// of their classes. RE2 matches in linear time and bounded memory, whatever a configuration file
/// asks for.
class ModulePattern {
 public:
  /// `option` stands before the messages. Throws UserError for a text that is no regular
  /// expression, or longer than 1,000 characters.
  ModulePattern(std::string_view option, const std::string& text);

  bool matches(const ModuleName& module) const;
  /// What to throw where it matches none of `modules`.
  UserError matches_nothing(const std::vector<ModuleName>& modules) const;

 private:
  std::string option_;
  std::string text_;
  bool by_type_;
  RE2 regex_;
};

/// Whether the module at `path` is part of the one at `ancestor`, and not it.
bool is_below(const std::string& path, const std::string& ancestor);

}  // namespace halftone
