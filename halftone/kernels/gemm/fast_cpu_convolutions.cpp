// SPDX-License-Identifier: Apache-2.0
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/native/ConvUtils.h>
#include <ATen/ops/_convolution_ops.h>
#include <ATen/ops/convolution_backward_ops.h>

#include <array>
#include <tuple>

#include "halftone/kernels/gemm/cpu_gemm_config.h"
#include "halftone/kernels/gemm/replaced_kernel_impl.h"

namespace halftone {
namespace {

using c10::SymInt;
using c10::SymIntArrayRef;
using torch::ScalarType;
using torch::Tensor;

using ConvolutionOp = at::_ops::_convolution;
using ConvolutionBackwardOp = at::_ops::convolution_backward;

/// How the weight moves over the input.
struct Movement {
  SymIntArrayRef stride;
  SymIntArrayRef padding;
  SymIntArrayRef dilation;
  bool transposed;
  SymIntArrayRef output_padding;
  SymInt groups;
};

/// A convolution with dimensions on which the kernels can work. What does not fit together is
/// refused by LibTorch's kernel, in its words.
bool is_convolution(const Tensor& input, const Tensor& weight) {
  return is_half(input.scalar_type()) && weight.scalar_type() == input.scalar_type() &&
         weight.dim() >= 3 && weight.dim() <= 5 && input.dim() == weight.dim() &&
         input.numel() > 0 && weight.numel() > 0;
}

bool may_upcast(const Tensor& input, const Tensor& weight) {
  if (computes_originally() || !is_convolution(input, weight)) return false;
  // Multiply-adds of a stride of 1.
  return input.numel() / input.size(1) * weight.numel() > small_matmul() &&
         is_exact_in_fp32(input.scalar_type(), at::Float32Op::CONV);
}

/// A transposed convolution is the gradient of another one by its input, and its own gradient by
/// the input is that convolution.
GemmBackend forward_path(ScalarType dtype, bool transposed) {
  const GemmBackends paths = cpu_gemm_config().of(dtype);
  return transposed ? paths.convolution_input_gradient : paths.convolution;
}
GemmBackend input_gradient_path(ScalarType dtype, bool transposed) {
  return forward_path(dtype, !transposed);
}

/// The memory formats in which LibTorch's own kernel leaves its results.
struct Formats {
  at::MemoryFormat data;
  at::MemoryFormat weight;
};

Formats native_formats(const Tensor& input, const Tensor& weight, const OptionalTensor& bias,
                       const Movement& movement) {
  using at::native::ConvBackend;
  const ConvBackend backend = at::native::select_conv_backend(
      input, weight, bias, movement.stride, movement.padding, movement.dilation,
      movement.transposed, movement.output_padding, movement.groups, std::nullopt);
  const at::MemoryFormat format =
      at::native::_determine_backend_memory_format(input, weight, backend);
  const bool is_onednn = backend == ConvBackend::Mkldnn || backend == ConvBackend::MkldnnTranspose;
  // Others compute group by group: parts of one channel, which are in either format, join as
  // contiguous ones.
  const bool joins_channels = !is_onednn && movement.groups > 1 && weight.size(1) == 1;
  return {format, joins_channels ? at::MemoryFormat::Contiguous : format};
}

/// `result` of fp32 arithmetic in the dtype and memory format of LibTorch's own.
Tensor rounded(const Tensor& result, ScalarType dtype, at::MemoryFormat format) {
  if (!result.defined()) return result;
  return result.to(result.options().dtype(dtype), /*non_blocking=*/false, /*copy=*/false, format);
}

Tensor convolution(c10::DispatchKeySet keys, const Tensor& input, const Tensor& weight,
                   const OptionalTensor& bias, SymIntArrayRef stride, SymIntArrayRef padding,
                   SymIntArrayRef dilation, bool transposed, SymIntArrayRef output_padding,
                   SymInt groups, bool benchmark, bool deterministic, bool cudnn_enabled,
                   bool allow_tf32) {
  const auto compute = [&](const Tensor& x, const Tensor& w, const OptionalTensor& b) {
    return Original<ConvolutionOp>::call(keys, x, w, b, stride, padding, dilation, transposed,
                                         output_padding, groups, benchmark, deterministic,
                                         cudnn_enabled, allow_tf32);
  };
  const auto original = [&] { return compute(input, weight, bias); };
  const ScalarType dtype = input.scalar_type();
  if (!may_upcast(input, weight) || !has_dtype(bias, dtype) ||
      forward_path(dtype, transposed) != GemmBackend::kUpcast)
    return original();
  return computed_or_refused(
      [&] {
        const Formats formats = native_formats(
            input, weight, bias, {stride, padding, dilation, transposed, output_padding, groups});
        return rounded(compute(upcast(input), upcast(weight), upcast(bias)), dtype, formats.data);
      },
      original);
}

using Gradients = std::tuple<Tensor, Tensor, Tensor>;  // by input, weight and bias

Gradients convolution_backward(c10::DispatchKeySet keys, const Tensor& grad, const Tensor& input,
                               const Tensor& weight, at::OptionalSymIntArrayRef bias_sizes,
                               SymIntArrayRef stride, SymIntArrayRef padding,
                               SymIntArrayRef dilation, bool transposed,
                               SymIntArrayRef output_padding, SymInt groups,
                               std::array<bool, 3> wanted) {
  const auto compute = [&](const Tensor& g, const Tensor& x, const Tensor& w,
                           std::array<bool, 3> mask) {
    return Original<ConvolutionBackwardOp>::call(keys, g, x, w, bias_sizes, stride, padding,
                                                 dilation, transposed, output_padding, groups,
                                                 mask);
  };
  const auto original = [&] { return compute(grad, input, weight, wanted); };
  const ScalarType dtype = input.scalar_type();
  if (!may_upcast(input, weight) || !has_dtype(grad, dtype)) return original();
  const bool upcasts_input = input_gradient_path(dtype, transposed) == GemmBackend::kUpcast;
  const bool upcasts_weight =
      cpu_gemm_config().of(dtype).convolution_weight_gradient == GemmBackend::kUpcast;
  const std::array<bool, 3> in_fp32{wanted[0] && upcasts_input, wanted[1] && upcasts_weight,
                                    wanted[2] && upcasts_weight};
  const std::array<bool, 3> native{wanted[0] && !upcasts_input, wanted[1] && !upcasts_weight,
                                   wanted[2] && !upcasts_weight};
  if (in_fp32 == std::array{false, false, false}) return original();
  return computed_or_refused(
      [&]() -> Gradients {
        const Formats formats =
            native_formats(input, weight, std::nullopt,
                           {stride, padding, dilation, transposed, output_padding, groups});
        auto [dx, dw, db] = compute(upcast(grad), upcast(input), upcast(weight), in_fp32);
        dx = rounded(dx, dtype, formats.data);
        dw = rounded(dw, dtype, formats.weight);
        db = rounded(db, dtype, at::MemoryFormat::Contiguous);
        if (native == std::array{false, false, false}) return {dx, dw, db};
        const auto [own_dx, own_dw, own_db] = compute(grad, input, weight, native);
        return {native[0] ? own_dx : dx, native[1] ? own_dw : dw, native[2] ? own_db : db};
      },
      original);
}

}  // namespace

void replace_convolutions(torch::Library& aten) {
  replace_kernel<ConvolutionOp, &convolution>(aten);
  replace_kernel<ConvolutionBackwardOp, &convolution_backward>(aten);
}

}  // namespace halftone
