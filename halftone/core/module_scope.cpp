// SPDX-License-Identifier: Apache-2.0
#include "halftone/core/module_scope.h"

namespace halftone {
namespace {

thread_local const ModuleScope* innermost_scope = nullptr;

}  // namespace

ModuleScope::ModuleScope(const torch::nn::Module& module)
    : module_(module), outer_(innermost_scope) {
  innermost_scope = this;
}

ModuleScope::~ModuleScope() { innermost_scope = outer_; }

const ModuleScope* innermost_module_scope() { return innermost_scope; }

}  // namespace halftone
