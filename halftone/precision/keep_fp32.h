// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/nn/module.h>

#include <string>
#include <vector>

namespace halftone {

/// Keeps the modules of `root` that a pattern matches, and all below them, in fp32 under autocast
/// (autocast/keep_fp32.h): their parameters and floating buffers are marked. Call it after the
/// model is built; module.to() keeps the marks, clone() does not.
///
/// A pattern is a regular expression in RE2's syntax searched for in the modules' paths, such as
/// "layers\\.0\\.|norm" (root itself is ""), or "type:" and one searched for in the names of their
/// classes, such as "type:LayerNorm". Returns the paths of the topmost modules that were matched,
/// sorted, and logs them if `is_logged`. Throws UserError for a pattern that is no regular
/// expression, matches no module, or only modules that hold nothing to keep; then nothing is
/// marked.
std::vector<std::string> keep_fp32(torch::nn::Module& root,
                                   const std::vector<std::string>& patterns, bool is_logged = true);

/// Throws UserError where keep_fp32() would, and marks nothing.
void check_keep_fp32(torch::nn::Module& root, const std::vector<std::string>& patterns);

/// Throws UserError for a pattern that is no regular expression, or longer than 1,000 characters.
void check_keep_fp32_patterns(const std::vector<std::string>& patterns);

}  // namespace halftone
