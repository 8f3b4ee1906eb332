// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "halftone/pretrain/evaluate.h"

namespace halftone {

/// A text to evaluate on, under a name of its own.
struct TextSet {
  std::string name;
  std::string path;       // absolute
  bool is_named = false;  // by the caller; else the path is its name
};

/// Of "PATH" or "NAME=PATH" each; a path that exists is taken as it is. Throws UserError for two
/// sets of one name.
std::vector<TextSet> parse_text_sets(const std::vector<std::string>& texts);

/// All sets as one: tokens count alike, whatever set they are of. REQUIRES one set at least.
EvalResult total_of(const std::vector<EvalResult>& sets);

}  // namespace halftone
