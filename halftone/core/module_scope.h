// SPDX-License-Identifier: Apache-2.0
// Which module computes: LibTorch's modules have no hooks, so a module says it itself.
#pragma once

namespace torch::nn {
class Module;
}

namespace halftone {

/// In the forward() of a module: while it lives, what this thread computes belongs to `module`, in
/// the messages and tables of whatever watches. Scopes nest. Costs two moves of a pointer.
///
///   torch::Tensor forward(const torch::Tensor& x) {
///     const halftone::ModuleScope scope(*this);
///     return torch::relu(linear_(x));
///   }
class ModuleScope {
 public:
  explicit ModuleScope(const torch::nn::Module& module);
  ~ModuleScope();
  ModuleScope(const ModuleScope&) = delete;
  ModuleScope& operator=(const ModuleScope&) = delete;

  const torch::nn::Module& module() const { return module_; }

 private:
  const torch::nn::Module& module_;
  const ModuleScope* outer_;
};

/// This thread's innermost scope; null outside of all.
const ModuleScope* innermost_module_scope();

}  // namespace halftone
