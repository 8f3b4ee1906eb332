// SPDX-License-Identifier: Apache-2.0
// Our operations as operators of LibTorch's dispatcher, like ATen's own: it picks the kernel by the
// tensors' device, profilers and the search for the first non-finite value see the operation by its
// name with its true inputs and outputs, and a program that loads this library finds it
// (torch.ops.halftone in Python).
#pragma once

#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>
#include <torch/types.h>

#include <optional>
#include <string>

#include "halftone/core/error.h"

namespace halftone {

/// "halftone"; "halftone_2" and so on where this process holds other copies of the library: each
/// goes through its own operators, for each has modes and settings of its own.
const std::string& operator_namespace();

/// The functions behind an operator. A null one is not registered.
template <class Signature>
struct OperatorKernels {
  /// The definition, in ATen operations, which autograd records: for devices that have no kernel.
  Signature* reference = nullptr;
  /// With autograd, on devices that have a kernel. Null: the kernel, whose result has no gradient.
  Signature* autograd = nullptr;
  Signature* cpu = nullptr;
  /// Allocates what `cpu` would, and computes nothing.
  Signature* meta = nullptr;
  /// In the place of `autograd` where there is no data to look at.
  Signature* autograd_meta = nullptr;
};

/// An undefined tensor as the schemas' Tensor? has it.
inline std::optional<torch::Tensor> if_defined(const torch::Tensor& tensor) {
  return tensor.defined() ? std::optional<torch::Tensor>(tensor) : std::nullopt;
}

/// An operator, registered as long as this object lives: one of static storage beside its kernels.
template <class Signature>
class Operator;

template <class Return, class... Args>
class Operator<Return(Args...)> {
 public:
  /// `schema` as in TORCH_LIBRARY: "swiglu(Tensor gate_up) -> Tensor".
  Operator(const std::string& schema, const OperatorKernels<Return(Args...)>& kernels)
      : library_(torch::Library::FRAGMENT, operator_namespace(), std::nullopt, __FILE__, __LINE__) {
    using c10::DispatchKey;
    library_.def(schema.c_str());
    const std::string name = schema.substr(0, schema.find('('));
    const auto add = [&](DispatchKey key, Return (*kernel)(Args...)) {
      if (kernel != nullptr) library_.impl(name.c_str(), torch::dispatch(key, kernel));
    };
    // Meta goes before every device: a tensor with data beside one without would be taken for one.
    const auto add_meta = [&](DispatchKey key, Return (*kernel)(Args...)) {
      if (kernel == nullptr) return;
      const auto checked = [kernel, name](Args... args) -> Return {
        (check_meta(name, args), ...);
        return kernel(args...);
      };
      library_.impl(name.c_str(), torch::dispatch(key, checked));
    };
    add(DispatchKey::CompositeImplicitAutograd, kernels.reference);
    add(DispatchKey::CPU, kernels.cpu);
    add_meta(DispatchKey::Meta, kernels.meta);
    const bool is_recorded = kernels.autograd != nullptr;
    add(DispatchKey::AutogradCPU, is_recorded ? kernels.autograd : kernels.cpu);
    auto* const without_data = is_recorded ? kernels.autograd : kernels.meta;
    add_meta(DispatchKey::AutogradMeta,
             kernels.autograd_meta != nullptr ? kernels.autograd_meta : without_data);
    const std::string full = operator_namespace() + "::" + name;
    handle_ = c10::Dispatcher::singleton()
                  .findSchemaOrThrow(full.c_str(), "")
                  .template typed<Return(Args...)>();
  }

  Return operator()(Args... args) const { return handle_->call(args...); }

  /// Its kernel for the device of `x`, for its own `autograd`: observed there already.
  Return below_autograd(const torch::Tensor& x, Args... args) const {
    return handle_->redispatch(x.key_set() & c10::after_ADInplaceOrView_keyset, args...);
  }

 private:
  static void check_meta(const std::string& name, const torch::Tensor& tensor) {
    HALFTONE_CHECK(!tensor.defined() || tensor.is_meta(), "[", name,
                   "] expected all tensors on the device meta, as one of them is, got one on ",
                   tensor.device());
  }
  static void check_meta(const std::string& name, const std::optional<torch::Tensor>& tensor) {
    if (tensor) check_meta(name, *tensor);
  }
  static void check_meta(const std::string& name, at::TensorList tensors) {
    for (const torch::Tensor& tensor : tensors) check_meta(name, tensor);
  }
  template <class Other>
  static void check_meta(const std::string& /*name*/, const Other& /*no tensor*/) {}

  torch::Library library_;
  std::optional<c10::TypedOperatorHandle<Return(Args...)>> handle_;
};

}  // namespace halftone
