// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

namespace halftone {

/// Where an operation stands in a training step.
struct Site {
  /// The path of the module that computes: that of the parameters it reads, else that of the
  /// innermost ModuleScope. Empty: the root, or nothing tells.
  std::string module;
  std::string operation;     // "aten::mm"; empty: one that does not report itself
  bool is_backward = false;  // autograd runs it
  std::string within;        // the operation of this library that it is part of; forward only
  std::string node;          // the step of autograd that it ran in, "MmBackward0" or the name of a
                             // function; empty for this library's; backward only
  std::string forward;       // the operation of the forward pass that this step belongs to
  /// What the operation reads, or was read last before it; of a backward operation, what its
  /// forward operation did.
  std::vector<std::string> parameters;
  bool reads_parameter = false;  // the former
};

/// "aten::mm in MmBackward0, the backward pass of aten::mm with 'layers.3.weight'"
std::string to_string(const Site& site);

/// The path of a module with "*" in the place of numbers, for modules of one kind in a list:
/// "layers.*.attention".
std::string without_places(const std::string& path);

/// "'a', 'b' and 3 more"
std::string quoted_list(const std::vector<std::string>& names);

}  // namespace halftone
