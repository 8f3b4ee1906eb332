// SPDX-License-Identifier: Apache-2.0
// What the kernels that stand in the place of LibTorch's own have in common. They compute in fp32
// what LibTorch's would compute slowly in 16 bits, and leave everything else to LibTorch's.
#pragma once

#include <ATen/Context.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>
#include <torch/types.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "halftone/core/dtype.h"

namespace halftone {

void replace_matmuls(torch::Library& aten);
void replace_attention(torch::Library& aten);
void replace_convolutions(torch::Library& aten);
void replace_lstm(torch::Library& aten);

/// Whether this thread is in the scope of OriginalCpuGemms.
bool computes_originally();

/// Up to so many multiply-adds, converting the operands costs more than it saves.
std::int64_t small_matmul();

/// Whether fp32 arithmetic keeps every bit of an operand of `dtype`: a program may have allowed
/// `op` to round its operands to bf16 (torch.set_float32_matmul_precision("medium")).
inline bool is_exact_in_fp32(torch::ScalarType dtype, at::Float32Op op) {
  return dtype == torch::kBFloat16 ||
         at::globalContext().float32Precision(at::Float32Backend::MKLDNN, op) !=
             at::Float32Precision::BF16;
}

template <class Safe>
struct BoxedCall : c10::OperatorKernel {
  explicit BoxedCall(Safe function) : safe(std::move(function)) {}
  void operator()(const c10::OperatorHandle& op, c10::DispatchKeySet keys,
                  torch::jit::Stack* stack) {
    safe.callBoxed(op, keys, stack);
  }
  Safe safe;
};

/// LibTorch 2.11 lends the kernel in a SafeKernelFunction for boxed calls only.
template <class Safe>
c10::KernelFunction kernel_in(const Safe& safe) {
  if constexpr (requires { safe.kernelFunction(); })
    return safe.kernelFunction();
  else
    return c10::KernelFunction::makeFromBoxedFunctor(std::make_unique<BoxedCall<Safe>>(safe));
}

/// LibTorch's kernel of `Op`. The first use, before anything is registered, finds it.
template <class Op, class Schema = typename Op::schema>
struct Original;
template <class Op, class Return, class... Args>
struct Original<Op, Return(Args...)> {
  c10::OperatorHandle op =
      c10::Dispatcher::singleton().findSchemaOrThrow(Op::name, Op::overload_name);
  c10::KernelFunction kernel = kernel_in(op.getComputedKernelForDispatchKey(c10::DispatchKey::CPU));

  static const Original& instance() {
    static const Original found;
    return found;
  }
  static Return call(c10::DispatchKeySet keys, Args... args) {
    const Original& original = instance();
    return original.kernel.template call<Return, Args...>(original.op, keys,
                                                          std::forward<Args>(args)...);
  }
};

template <class Op, auto* kernel>
void replace_kernel(torch::Library& aten) {
  Original<Op>::instance();
  std::string name = Op::name;
  if (*Op::overload_name != '\0') name += std::string(".") + Op::overload_name;
  aten.impl(name.c_str(), TORCH_FN(kernel));
}

/// Conversions are neither recorded for gradients nor cast.
struct BelowAutograd {
  at::AutoDispatchBelowADInplaceOrView no_autograd;
  c10::impl::ExcludeDispatchKeyGuard no_autocast{c10::autocast_dispatch_keyset};
};

/// What `in_fp32` returns, below autograd. Where it throws, `original` does it all over: what does
/// not fit together is refused by LibTorch's kernel, in its words and with the caller's dtypes.
template <class InFp32, class OriginalCall>
auto computed_or_refused(const InFp32& in_fp32, const OriginalCall& original)
    -> decltype(original()) {
  try {
    const BelowAutograd guard;
    return in_fp32();
  } catch (const c10::Error&) {
    return original();
  }
}

using OptionalTensor = std::optional<torch::Tensor>;

inline torch::Tensor upcast(const torch::Tensor& tensor) {
  return tensor.defined() && is_half(tensor.scalar_type()) ? tensor.to(torch::kFloat) : tensor;
}
inline OptionalTensor upcast(const OptionalTensor& tensor) {
  return tensor.has_value() ? OptionalTensor(upcast(*tensor)) : tensor;
}
template <class T>
const T& upcast(const T& other) {
  return other;
}

/// True of what is no tensor or is none at all.
inline bool has_dtype(const torch::Tensor& tensor, torch::ScalarType dtype) {
  return !tensor.defined() || tensor.scalar_type() == dtype;
}
inline bool has_dtype(const OptionalTensor& tensor, torch::ScalarType dtype) {
  return !tensor.has_value() || has_dtype(*tensor, dtype);
}
template <class T>
bool has_dtype(const T& /*other*/, torch::ScalarType /*dtype*/) {
  return true;
}

}  // namespace halftone
