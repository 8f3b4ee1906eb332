// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/gemm/fast_cpu_gemms.h"

#include <ATen/Context.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/native/Resize.h>
#include <ATen/ops/_addmm_activation_ops.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu_backward_ops.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu_ops.h>
#include <ATen/ops/addmm_ops.h>
#include <ATen/ops/baddbmm_ops.h>
#include <ATen/ops/bmm_ops.h>
#include <ATen/ops/mm_ops.h>
#include <fmt/format.h>
#include <torch/library.h>

#include <cstdlib>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>

#include "halftone/autocast/quiet_override.h"
#include "halftone/core/dtype.h"
#include "halftone/core/error.h"
#include "halftone/kernels/gemm/matmul_path.h"

namespace halftone {
namespace {

using torch::ScalarType;
using torch::Tensor;
using OptionalTensor = std::optional<Tensor>;

thread_local bool original_only = false;

// ---- which products take the other way

/// Up to so many multiply-adds, converting the operands costs more than it saves.
constexpr std::int64_t kSmall = 4096;

/// Whether fp32 products keep every bit of an operand of `dtype`: a program may have allowed them
/// to round their operands to bf16 (torch.set_float32_matmul_precision("medium")).
bool is_exact_in_fp32(ScalarType dtype) {
  return dtype == torch::kBFloat16 ||
         at::globalContext().float32Precision(at::Float32Backend::MKLDNN, at::Float32Op::MATMUL) !=
             at::Float32Precision::BF16;
}

bool is_transposed(const Tensor& matrix) {
  return matrix.stride(-2) == 1 && matrix.stride(-1) != 1;
}

/// Matrix-vector products for which LibTorch has vector loops of its own on every CPU.
bool has_vector_loop(const Tensor& a, const Tensor& b) {
  if (a.dim() != 2) return false;
  return (a.size(0) == 1 && is_transposed(b)) ||
         (b.size(1) == 1 && is_transposed(a) && a.scalar_type() == torch::kBFloat16);
}

MatmulPath path_of(const Tensor& a, const Tensor& b) {
  const MatmulPaths paths = matmul_paths().of(a.scalar_type());
  // By the layouts of y = x W^T, dX = g W and dW = g^T x, which is what was measured.
  if (is_transposed(a)) return paths.weight_gradient;
  return is_transposed(b) ? paths.forward : paths.input_gradient;
}

bool widens_product(const Tensor& a, const Tensor& b) {
  if (original_only || !is_half(a.scalar_type())) return false;
  // What does not fit together is refused by LibTorch's kernel, in its words.
  if (a.dim() != b.dim() || a.dim() < 2 || a.dim() > 3) return false;
  if (a.numel() * b.size(-1) <= kSmall || has_vector_loop(a, b)) return false;
  return path_of(a, b) == MatmulPath::kWidened && is_exact_in_fp32(a.scalar_type());
}

/// Attention is measured on a short sequence, where LibTorch's own kernel looks worse than on the
/// longer ones of training. So it stays wherever the CPU multiplies the dtype at speed.
bool widens_attention(const Tensor& query) {
  const ScalarType dtype = query.scalar_type();
  if (original_only || !is_half(dtype)) return false;
  const MatmulPaths paths = matmul_paths().of(dtype);
  return paths.attention == MatmulPath::kWidened && paths.forward == MatmulPath::kWidened &&
         is_exact_in_fp32(dtype);
}

// ---- calling what was there

/// LibTorch's kernel of `Op`. The first use, before anything is registered, finds it.
template <class Op, class Schema = typename Op::schema>
struct Original;
template <class Op, class Return, class... Args>
struct Original<Op, Return(Args...)> {
  c10::OperatorHandle op =
      c10::Dispatcher::singleton().findSchemaOrThrow(Op::name, Op::overload_name);
  c10::KernelFunction kernel =
      op.getComputedKernelForDispatchKey(c10::DispatchKey::CPU).kernelFunction();

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

/// Conversions are neither recorded for gradients nor cast.
struct BelowAutograd {
  at::AutoDispatchBelowADInplaceOrView no_autograd;
  c10::impl::ExcludeDispatchKeyGuard no_autocast{c10::autocast_dispatch_keyset};
};

Tensor widened(const Tensor& tensor) {
  return is_half(tensor.scalar_type()) ? tensor.to(torch::kFloat) : tensor;
}
OptionalTensor widened(const OptionalTensor& tensor) {
  return tensor.has_value() && tensor->defined() ? widened(*tensor) : tensor;
}
template <class T>
const T& widened(const T& other) {
  return other;
}

bool has_dtype(const Tensor& tensor, ScalarType dtype) { return tensor.scalar_type() == dtype; }
template <class T>
bool has_dtype(const T& /*other*/, ScalarType /*dtype*/) {
  return true;
}

// ---- the kernels

struct None {};  // where an operation has no in-place form

/// The three forms of a product whose factors are the arguments number `kLeft` and `kLeft` + 1.
template <int kLeft, class Op, class OutOp, class InPlaceOp = None,
          class Schema = typename Op::schema>
struct Product;
template <int kLeft, class Op, class OutOp, class InPlaceOp, class Self, class... Rest>
struct Product<kLeft, Op, OutOp, InPlaceOp, Tensor(Self, Rest...)> {
  static Tensor compute(c10::DispatchKeySet keys, Self self, Rest... rest) {
    if (!widens(self, rest...)) return Original<Op>::call(keys, self, rest...);
    const BelowAutograd guard;
    return Original<Op>::call(keys, widened(self), widened(rest)...).to(self.scalar_type());
  }
  static Tensor& compute_into(c10::DispatchKeySet keys, Self self, Rest... rest, Tensor& out) {
    if (!widens(self, rest...) || out.scalar_type() != self.scalar_type())
      return Original<OutOp>::call(keys, self, rest..., out);
    const BelowAutograd guard;
    const Tensor result = Original<Op>::call(keys, widened(self), widened(rest)...);
    at::native::resize_output(out, result.sizes());
    return out.copy_(result);
  }
  static Tensor& compute_in_place(c10::DispatchKeySet keys, Tensor& self, Rest... rest) {
    if (!widens(self, rest...)) return Original<InPlaceOp>::call(keys, self, rest...);
    const BelowAutograd guard;
    const Tensor result = Original<Op>::call(keys, widened(self), widened(rest)...);
    // LibTorch's kernel says why a result of another shape does not fit.
    if (result.sizes() != self.sizes()) return Original<InPlaceOp>::call(keys, self, rest...);
    return self.copy_(result);
  }
  static bool widens(const Tensor& self, const std::decay_t<Rest>&... rest) {
    const auto all = std::tie(self, rest...);
    return widens_product(std::get<kLeft>(all), std::get<kLeft + 1>(all)) &&
           (has_dtype(rest, self.scalar_type()) && ...);
  }
};

using Mm = Product<0, at::_ops::mm, at::_ops::mm_out>;
using Bmm = Product<0, at::_ops::bmm, at::_ops::bmm_out>;
using Addmm = Product<1, at::_ops::addmm, at::_ops::addmm_out, at::_ops::addmm_>;
using Baddbmm = Product<1, at::_ops::baddbmm, at::_ops::baddbmm_out, at::_ops::baddbmm_>;
using AddmmActivation = Product<1, at::_ops::_addmm_activation, at::_ops::_addmm_activation_out>;

using AttentionOp = at::_ops::_scaled_dot_product_flash_attention_for_cpu;
using AttentionBackwardOp = at::_ops::_scaled_dot_product_flash_attention_for_cpu_backward;

std::tuple<Tensor, Tensor> attention(c10::DispatchKeySet keys, const Tensor& query,
                                     const Tensor& key, const Tensor& value, double dropout,
                                     bool is_causal, const OptionalTensor& mask,
                                     std::optional<double> scale) {
  const ScalarType dtype = query.scalar_type();
  if (!widens_attention(query) || !has_dtype(key, dtype) || !has_dtype(value, dtype))
    return Original<AttentionOp>::call(keys, query, key, value, dropout, is_causal, mask, scale);
  const BelowAutograd guard;
  auto [out, lse] = Original<AttentionOp>::call(keys, widened(query), widened(key), widened(value),
                                                dropout, is_causal, widened(mask), scale);
  return {out.to(dtype), lse};
}

std::tuple<Tensor, Tensor, Tensor> attention_backward(c10::DispatchKeySet keys, const Tensor& grad,
                                                      const Tensor& query, const Tensor& key,
                                                      const Tensor& value, const Tensor& out,
                                                      const Tensor& lse, double dropout,
                                                      bool is_causal, const OptionalTensor& mask,
                                                      std::optional<double> scale) {
  const ScalarType dtype = query.scalar_type();
  if (!widens_attention(query) || !has_dtype(key, dtype) || !has_dtype(value, dtype) ||
      !has_dtype(grad, dtype) || !has_dtype(out, dtype))
    return Original<AttentionBackwardOp>::call(keys, grad, query, key, value, out, lse, dropout,
                                               is_causal, mask, scale);
  const BelowAutograd guard;
  const auto [query_grad, key_grad, value_grad] = Original<AttentionBackwardOp>::call(
      keys, widened(grad), widened(query), widened(key), widened(value), widened(out), lse, dropout,
      is_causal, widened(mask), scale);
  return {query_grad.to(dtype), key_grad.to(dtype), value_grad.to(dtype)};
}

// ---- registration

template <class Op, auto* kernel>
void replace(torch::Library& aten) {
  Original<Op>::instance();
  std::string name = Op::name;
  if (*Op::overload_name != '\0') name += std::string(".") + Op::overload_name;
  aten.impl(name.c_str(), TORCH_FN(kernel));
}

template <int kLeft, class Op, class OutOp, class InPlaceOp>
void replace_forms(torch::Library& aten, Product<kLeft, Op, OutOp, InPlaceOp>) {
  using Forms = Product<kLeft, Op, OutOp, InPlaceOp>;
  replace<Op, &Forms::compute>(aten);
  replace<OutOp, &Forms::compute_into>(aten);
  if constexpr (!std::is_same_v<InPlaceOp, None>)
    replace<InPlaceOp, &Forms::compute_in_place>(aten);
}

/// An operation that says which ways are in force. The dispatcher belongs to the whole process, so
/// that its being there also tells a second copy of this code that the first has done the work.
constexpr const char* kMarker = "halftone::cpu_gemm_paths";

class Replacement {
 public:
  Replacement() {
    if (c10::Dispatcher::singleton().findSchema({kMarker, ""})) return;
    library_.emplace(torch::Library::FRAGMENT, "halftone", std::nullopt, __FILE__, __LINE__);
    library_->def("cpu_gemm_paths() -> str", [] { return to_string(matmul_paths()); });
    const QuietOverride quiet;
    torch::Library& aten =
        aten_.emplace(torch::Library::IMPL, "aten", c10::DispatchKey::CPU, __FILE__, __LINE__);
    replace_forms(aten, Mm());
    replace_forms(aten, Bmm());
    replace_forms(aten, Addmm());
    replace_forms(aten, Baddbmm());
    replace_forms(aten, AddmmActivation());
    replace<AttentionOp, &attention>(aten);
    replace<AttentionBackwardOp, &attention_backward>(aten);
  }

 private:
  std::optional<torch::Library> library_;
  std::optional<torch::Library> aten_;
};

bool is_switched_on() {
  const char* const text = std::getenv("HALFTONE_CPU_GEMM");
  const std::string_view value = text == nullptr ? "" : text;
  if (value.empty() || value == "on" || value == "1") return true;
  if (value == "off" || value == "0") return false;
  throw UserError(
      fmt::format("environment variable HALFTONE_CPU_GEMM: expected on or off, got '{}'", value));
}

}  // namespace

bool use_fast_cpu_gemms() {
  if (!is_switched_on()) return false;
  static const Replacement replacement;
  return true;
}

OriginalCpuGemms::OriginalCpuGemms() : before_(std::exchange(original_only, true)) {}
OriginalCpuGemms::~OriginalCpuGemms() { original_only = before_; }

}  // namespace halftone
