// SPDX-License-Identifier: Apache-2.0
// For a torch::autograd::Function of yours under autocast, as torch.amp.custom_fwd and custom_bwd:
//
//   static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& w) {
//     const auto region = halftone::custom_fwd(ctx, x.device().type());
//     ...
//   static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
//     const auto region = halftone::custom_bwd(ctx);
//     ...
#pragma once

#include <c10/util/Type.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/types.h>

#include <optional>
#include <string>
#include <typeinfo>
#include <utility>

#include "halftone/autocast/autocast.h"

namespace halftone {

/// The rest of a forward(). Ends with the scope.
class CustomForward {
 public:
  /// The region's tensors of cast_inputs' dtype, where one was given and autocast was on: floating
  /// ones of its device except double; any other as it is.
  torch::Tensor cast(const torch::Tensor& x) const;

 private:
  friend CustomForward custom_fwd(torch::autograd::AutogradContext* ctx, torch::DeviceType device,
                                  std::optional<torch::ScalarType> cast_inputs);
  CustomForward(torch::autograd::AutogradContext* ctx, torch::DeviceType device,
                std::optional<torch::ScalarType> cast_inputs);

  torch::DeviceType device_;
  std::optional<torch::ScalarType> cast_to_;
  std::optional<Autocast> autocast_off_;
};

/// First line of forward(): ctx remembers whether autocast is on for `device`, and its dtype. With
/// `cast_inputs`, under autocast, forward and backward run with autocast off: pass each input
/// through cast(). Outside autocast `cast_inputs` does nothing.
[[nodiscard]] CustomForward custom_fwd(torch::autograd::AutogradContext* ctx,
                                       torch::DeviceType device,
                                       std::optional<torch::ScalarType> cast_inputs = {});

/// First line of backward(): until the end of the scope autocast is as it was in the forward,
/// whatever the calling thread has set; LibTorch's threads do not carry the dtype. Throws
/// c10::Error if the forward did not begin with custom_fwd().
[[nodiscard]] Autocast custom_bwd(torch::autograd::AutogradContext* ctx);

namespace internal {

/// Notices whether custom_fwd() is called in this thread while it lives.
class DeclarationWatch {
 public:
  DeclarationWatch();
  ~DeclarationWatch();
  DeclarationWatch(const DeclarationWatch&) = delete;
  DeclarationWatch& operator=(const DeclarationWatch&) = delete;
  bool declared() const;

 private:
  bool outer_;
};

void refuse_undeclared(const std::string& function);
bool any_autocast_enabled();

}  // namespace internal

/// torch::autograd::Function whose apply() refuses to run under autocast unless its forward()
/// begins with custom_fwd(); outside autocast it is the same.
template <class T>
struct AutocastFunction : torch::autograd::Function<T> {
  template <class... Args>
  static auto apply(Args&&... args) {
    const internal::DeclarationWatch watch;
    auto outputs = torch::autograd::Function<T>::apply(std::forward<Args>(args)...);
    if (internal::any_autocast_enabled() && !watch.declared())
      internal::refuse_undeclared(c10::demangle(typeid(T).name()));
    return outputs;
  }
};

}  // namespace halftone
