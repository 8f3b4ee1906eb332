// SPDX-License-Identifier: Apache-2.0
#include <ATen/MemoryOverlap.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/native/Resize.h>
#include <ATen/ops/_addmm_activation_ops.h>
#include <ATen/ops/addmm_ops.h>
#include <ATen/ops/baddbmm_ops.h>
#include <ATen/ops/bmm_ops.h>
#include <ATen/ops/mm_ops.h>

#include <tuple>
#include <type_traits>

#include "halftone/kernels/gemm/cpu_gemm_config.h"
#include "halftone/kernels/gemm/replaced_kernel_impl.h"

namespace halftone {
namespace {

using torch::Tensor;

// ---- which matmuls take the other way

bool is_transposed(const Tensor& matrix) {
  return matrix.stride(-2) == 1 && matrix.stride(-1) != 1;
}

/// Matrix-vector products for which LibTorch has vector loops of its own on every CPU.
bool has_vector_loop(const Tensor& a, const Tensor& b) {
  if (a.dim() != 2 || small_matmul() == 0) return false;
  return (a.size(0) == 1 && is_transposed(b)) ||
         (b.size(1) == 1 && is_transposed(a) && a.scalar_type() == torch::kBFloat16);
}

GemmBackend path_of(const Tensor& a, const Tensor& b) {
  const GemmBackends paths = cpu_gemm_config().of(a.scalar_type());
  // By the layouts of y = x W^T, dX = g W and dW = g^T x, which is what was measured.
  if (is_transposed(a)) return paths.weight_gradient;
  return is_transposed(b) ? paths.forward : paths.input_gradient;
}

bool upcasts_matmul(const Tensor& a, const Tensor& b) {
  if (computes_originally() || !is_half(a.scalar_type())) return false;
  // What does not fit together is refused by LibTorch's kernel, in its words.
  if (a.dim() != b.dim() || a.dim() < 2 || a.dim() > 3) return false;
  if (a.numel() * b.size(-1) <= small_matmul() || has_vector_loop(a, b)) return false;
  return path_of(a, b) == GemmBackend::kUpcast &&
         is_exact_in_fp32(a.scalar_type(), at::Float32Op::MATMUL);
}

/// Whether elements of `out` share memory, as those of an expanded tensor do: what a matmul leaves
/// there is up to LibTorch's kernel, and no other operation writes it.
bool overlaps_itself(const Tensor& out) {
  return at::has_internal_overlap(out) == at::MemOverlap::Yes;
}

// ---- the kernels

struct None {};  // where an operation has no in-place form

/// The three forms of a matmul whose factors are the arguments number `kLeft` and `kLeft` + 1.
template <int kLeft, class Op, class OutOp, class InPlaceOp = None,
          class Schema = typename Op::schema>
struct Product;
template <int kLeft, class Op, class OutOp, class InPlaceOp, class Self, class... Rest>
struct Product<kLeft, Op, OutOp, InPlaceOp, Tensor(Self, Rest...)> {
  static Tensor compute(c10::DispatchKeySet keys, Self self, Rest... rest) {
    const auto original = [&] { return Original<Op>::call(keys, self, rest...); };
    if (!upcasts(self, rest...)) return original();
    return computed_or_refused([&] { return in_fp32(keys, self, rest...).to(self.scalar_type()); },
                               original);
  }
  static Tensor& compute_into(c10::DispatchKeySet keys, Self self, Rest... rest, Tensor& out) {
    const auto original = [&]() -> Tensor& {
      return Original<OutOp>::call(keys, self, rest..., out);
    };
    if (!upcasts(self, rest...) || !has_dtype(out, self.scalar_type()) || overlaps_itself(out))
      return original();
    return computed_or_refused(
        [&]() -> Tensor& {
          const Tensor result = in_fp32(keys, self, rest...);
          at::native::resize_output(out, result.sizes());
          return out.copy_(result);
        },
        original);
  }
  static Tensor& compute_in_place(c10::DispatchKeySet keys, Tensor& self, Rest... rest) {
    const auto original = [&]() -> Tensor& {
      return Original<InPlaceOp>::call(keys, self, rest...);
    };
    if (!upcasts(self, rest...) || overlaps_itself(self)) return original();
    return computed_or_refused(
        [&]() -> Tensor& {
          const Tensor result = in_fp32(keys, self, rest...);
          return result.sizes() == self.sizes() ? self.copy_(result) : original();
        },
        original);
  }
  static bool upcasts(const Tensor& self, const std::decay_t<Rest>&... rest) {
    const auto all = std::tie(self, rest...);
    return upcasts_matmul(std::get<kLeft>(all), std::get<kLeft + 1>(all)) &&
           (has_dtype(rest, self.scalar_type()) && ...);
  }
  static Tensor in_fp32(c10::DispatchKeySet keys, Self self, Rest... rest) {
    return Original<Op>::call(keys, upcast(self), upcast(rest)...);
  }
};

using Mm = Product<0, at::_ops::mm, at::_ops::mm_out>;
using Bmm = Product<0, at::_ops::bmm, at::_ops::bmm_out>;
using Addmm = Product<1, at::_ops::addmm, at::_ops::addmm_out, at::_ops::addmm_>;
using Baddbmm = Product<1, at::_ops::baddbmm, at::_ops::baddbmm_out, at::_ops::baddbmm_>;
using AddmmActivation = Product<1, at::_ops::_addmm_activation, at::_ops::_addmm_activation_out>;

template <int kLeft, class Op, class OutOp, class InPlaceOp>
void replace_forms(torch::Library& aten, Product<kLeft, Op, OutOp, InPlaceOp>) {
  using Forms = Product<kLeft, Op, OutOp, InPlaceOp>;
  replace_kernel<Op, &Forms::compute>(aten);
  replace_kernel<OutOp, &Forms::compute_into>(aten);
  if constexpr (!std::is_same_v<InPlaceOp, None>)
    replace_kernel<InPlaceOp, &Forms::compute_in_place>(aten);
}

}  // namespace

void replace_matmuls(torch::Library& aten) {
  replace_forms(aten, Mm());
  replace_forms(aten, Bmm());
  replace_forms(aten, Addmm());
  replace_forms(aten, Baddbmm());
  replace_forms(aten, AddmmActivation());
}

}  // namespace halftone
