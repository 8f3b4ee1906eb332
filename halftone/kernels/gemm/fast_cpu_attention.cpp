// SPDX-License-Identifier: Apache-2.0
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu_backward_ops.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu_ops.h>
#include <ATen/ops/empty_like.h>

#include <tuple>

#include "halftone/kernels/gemm/cpu_gemm_config.h"
#include "halftone/kernels/gemm/replaced_kernel_impl.h"

namespace halftone {
namespace {

using torch::ScalarType;
using torch::Tensor;

using AttentionOp = at::_ops::_scaled_dot_product_flash_attention_for_cpu;
using AttentionBackwardOp = at::_ops::_scaled_dot_product_flash_attention_for_cpu_backward;

/// Attention is measured on a short sequence, where LibTorch's own kernel looks worse than on the
/// longer ones of training. So it stays wherever the CPU multiplies the dtype at speed.
bool upcasts_attention(const Tensor& query) {
  const ScalarType dtype = query.scalar_type();
  if (computes_originally() || !is_half(dtype)) return false;
  if (!has_native_attention(dtype)) return true;
  const GemmBackends paths = cpu_gemm_config().of(dtype);
  return paths.attention == GemmBackend::kUpcast && paths.forward == GemmBackend::kUpcast &&
         is_exact_in_fp32(dtype, at::Float32Op::MATMUL);
}

template <class... Tensors>
bool have_dtype(ScalarType dtype, const Tensors&... tensors) {
  return (has_dtype(tensors, dtype) && ...);
}

/// LibTorch's kernel takes the last dimension of a query and of its result for dense, and reads and
/// writes beside them where it is not.
Tensor with_dense_rows(const Tensor& tensor) {
  const bool halves = is_half(tensor.scalar_type()) && !computes_originally();
  return halves && tensor.dim() > 0 && tensor.stride(-1) != 1 ? tensor.contiguous() : tensor;
}

/// `result` with the strides that LibTorch gives to the result of `query`.
Tensor laid_out_like(const Tensor& query, const Tensor& result, ScalarType dtype) {
  if (result.sizes() != query.sizes() || query.stride(-1) == 1) return result.to(dtype);
  return at::empty_like(query).copy_(result);
}

std::tuple<Tensor, Tensor> attention(c10::DispatchKeySet keys, const Tensor& query,
                                     const Tensor& key, const Tensor& value, double dropout,
                                     bool is_causal, const OptionalTensor& mask,
                                     std::optional<double> scale) {
  const ScalarType dtype = query.scalar_type();
  const auto original = [&] {
    const Tensor dense = with_dense_rows(query);
    auto [out, lse] =
        Original<AttentionOp>::call(keys, dense, key, value, dropout, is_causal, mask, scale);
    return std::tuple(dense.is_same(query) ? out : laid_out_like(query, out, dtype), lse);
  };
  if (!upcasts_attention(query) || !have_dtype(dtype, key, value, mask)) return original();
  return computed_or_refused(
      [&] {
        auto [out, lse] =
            Original<AttentionOp>::call(keys, upcast(with_dense_rows(query)), upcast(key),
                                        upcast(value), dropout, is_causal, upcast(mask), scale);
        return std::tuple(laid_out_like(query, out, dtype), lse);
      },
      original);
}

std::tuple<Tensor, Tensor, Tensor> attention_backward(c10::DispatchKeySet keys, const Tensor& grad,
                                                      const Tensor& query, const Tensor& key,
                                                      const Tensor& value, const Tensor& out,
                                                      const Tensor& lse, double dropout,
                                                      bool is_causal, const OptionalTensor& mask,
                                                      std::optional<double> scale) {
  const ScalarType dtype = query.scalar_type();
  const Tensor dense_query = with_dense_rows(query), dense_out = with_dense_rows(out);
  const auto original = [&] {
    return Original<AttentionBackwardOp>::call(keys, grad, dense_query, key, value, dense_out, lse,
                                               dropout, is_causal, mask, scale);
  };
  if (!upcasts_attention(query) || !have_dtype(dtype, key, value, grad, out, mask))
    return original();
  return computed_or_refused(
      [&] {
        const auto [query_grad, key_grad, value_grad] = Original<AttentionBackwardOp>::call(
            keys, upcast(grad), upcast(dense_query), upcast(key), upcast(value), upcast(dense_out),
            lse, dropout, is_causal, upcast(mask), scale);
        return std::tuple(query_grad.to(dtype), key_grad.to(dtype), value_grad.to(dtype));
      },
      original);
}

}  // namespace

void replace_attention(torch::Library& aten) {
  replace_kernel<AttentionOp, &attention>(aten);
  replace_kernel<AttentionBackwardOp, &attention_backward>(aten);
}

}  // namespace halftone
