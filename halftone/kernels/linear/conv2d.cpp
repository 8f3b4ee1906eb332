// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/linear/conv2d.h"

#include <ATen/autocast_mode.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/convolution.h>
#include <ATen/ops/convolution_backward.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/custom_class.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <optional>
#include <string>
#include <vector>

#include "halftone/autocast/autocast.h"
#include "halftone/autocast/keep_fp32.h"
#include "halftone/core/dtype.h"
#include "halftone/core/error.h"
#include "halftone/core/random.h"
#include "halftone/kernels/common/operator_impl.h"
#include "halftone/kernels/gemm/cpu_gemm_config.h"
#include "halftone/kernels/gemm/matmul_format.h"
#include "halftone/kernels/linear/compute_context.h"
#include "halftone/kernels/linear/fused_grad_accumulation.h"
#include "halftone/kernels/linear/layer_formats.h"
#include "halftone/kernels/linear/linear.h"
#include "halftone/kernels/linear/weight_cache.h"

namespace halftone {
namespace {

using torch::ScalarType;
using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// 16 MiB of fp32: beyond the caches, where larger parts gain nothing.
std::atomic<std::int64_t> part_limit = std::int64_t{1} << 22U;

/// How a layer moves and computes, beside its tensors.
struct ConvolutionCall : torch::CustomClassHolder {
  WindowGrid grid;
  ComputeType type = ComputeType::kFloat32;
  ScalarType dtype = torch::kFloat;  // of the result
  std::uint64_t stream = 0;
  ComputeContext context;
};
using CallPtr = c10::intrusive_ptr<ConvolutionCall>;

constexpr const char* kCall = "call";

void keep_call(AutogradContext* ctx, const CallPtr& call) {
  ctx->saved_data[kCall] = c10::IValue::make_capsule(call);
}

void check_first_derivative(ComputeType type) {
  HALFTONE_CHECK(!torch::GradMode::is_enabled(),
                 "[conv2d] expected a first derivative, got create_graph: a convolution in ",
                 to_string(type), " can be differentiated once");
}

/// The gradient of the bias from that of the result.
Tensor bias_gradient(const Tensor& g, const Tensor& bias) {
  return g.sum({0, 2, 3}, /*keepdim=*/false, torch::kFloat).to(bias.scalar_type());
}

// --- LibTorch's convolution of 16-bit tensors, some of whose passes are computed in fp32. ---

Tensor convolved(const Tensor& x, const Tensor& weight, const Tensor& bias, const WindowGrid& grid,
                 std::int64_t groups = 1) {
  return at::conv2d(x, weight, bias.defined() ? std::optional(bias) : std::nullopt, grid.stride,
                    grid.padding, grid.dilation, groups);
}

struct HalfConvolution : torch::autograd::Function<HalfConvolution> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& weight,
                        const std::optional<Tensor>& bias, const CallPtr& call,
                        std::int64_t groups) {
    const ScalarType dtype = tensor_dtype(call->type);
    const Tensor narrow = x.to(dtype);
    const bool upcasts = paths(dtype).convolution == GemmBackend::kUpcast;
    const ScalarType wide = upcasts ? torch::kFloat : dtype;
    const Tensor out = convolved(narrow.to(wide), weight.to(dtype).to(wide),
                                 bias ? bias->to(wide) : Tensor(), call->grid, groups);
    keep_call(ctx, call);
    ctx->saved_data["groups"] = groups;
    ctx->saved_data["dtype"] = static_cast<std::int64_t>(x.scalar_type());
    ctx->save_for_backward({narrow, weight, bias.value_or(Tensor())});
    return out.to(dtype).to(call->dtype);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& output_grads) {
    const auto holder = ctx->saved_data[kCall].toCapsule();
    const auto& call = static_cast<const ConvolutionCall&>(*holder);
    check_first_derivative(call.type);
    const variable_list saved = ctx->get_saved_variables();
    const ScalarType dtype = tensor_dtype(call.type);
    const GemmBackends ways = paths(dtype);
    const Tensor g = output_grads.front().to(dtype);
    const std::int64_t groups = ctx->saved_data["groups"].toInt();
    const auto gradient = [&](GemmBackend way, std::array<bool, 3> wanted) {
      const ScalarType wide = way == GemmBackend::kUpcast ? torch::kFloat : dtype;
      return at::convolution_backward(g.to(wide), saved[0].to(wide), saved[1].to(dtype).to(wide),
                                      std::nullopt, call.grid.stride, call.grid.padding,
                                      call.grid.dilation, /*transposed=*/false, {0, 0}, groups,
                                      wanted);
    };
    variable_list grads(5);  // x, weight, bias, the call, groups
    if (ctx->needs_input_grad(0))
      grads[0] = std::get<0>(gradient(ways.convolution_input_gradient, {true, false, false}))
                     .to(static_cast<ScalarType>(ctx->saved_data["dtype"].toInt()));
    if (ctx->needs_input_grad(1))
      grads[1] = std::get<1>(gradient(ways.convolution_weight_gradient, {false, true, false}))
                     .to(weight_grad_dtype(saved[1]));
    if (saved[2].defined() && ctx->needs_input_grad(2)) grads[2] = bias_gradient(g, saved[2]);
    return grads;
  }

 private:
  static GemmBackends paths(ScalarType dtype) { return cpu_gemm_config().of(dtype); }
};

bool upcasts_any(ScalarType dtype) {
  const GemmBackends ways = cpu_gemm_config().of(dtype);
  return ways.convolution == GemmBackend::kUpcast ||
         ways.convolution_input_gradient == GemmBackend::kUpcast ||
         ways.convolution_weight_gradient == GemmBackend::kUpcast;
}

// --- The matmul of unfolded windows. ---

/// Parts of all windows, of at most part_limit numbers: whole pictures, or lines of one.
std::vector<WindowPart> parts_of(const Tensor& x, const WindowGrid& grid) {
  const std::int64_t lines = grid.places(x.size(2), 0);
  const std::int64_t line_size = std::max<std::int64_t>(
      1, grid.places(x.size(3), 1) * x.size(1) * grid.kernel[0] * grid.kernel[1]);
  const std::int64_t line_limit = std::max<std::int64_t>(1, part_limit / line_size);
  std::vector<WindowPart> parts;
  if (line_limit >= lines) {
    const std::int64_t images = line_limit / lines;
    for (std::int64_t i = 0; i < x.size(0); i += images)
      parts.push_back({i, std::min(images, x.size(0) - i), 0, lines});
    return parts;
  }
  for (std::int64_t i = 0; i < x.size(0); ++i)
    for (std::int64_t line = 0; line < lines; line += line_limit)
      parts.push_back({i, 1, line, std::min(line_limit, lines - line)});
  return parts;
}

/// The places of `part` of (B, out, down, across), as (images, lines, across, out).
Tensor places_of(const Tensor& y, const WindowPart& part) {
  return y.narrow(0, part.first_image, part.images)
      .narrow(2, part.first_line, part.lines)
      .permute({0, 2, 3, 1});
}

/// x as it is unfolded: in 16 bits already where the format rounds to them first.
Tensor input_of(const Tensor& x, ComputeType type) {
  return is_half(tensor_dtype(type)) ? x.to(tensor_dtype(type)) : x;
}

struct UnfoldedConvolution : torch::autograd::Function<UnfoldedConvolution> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& weight,
                        const std::optional<Tensor>& bias, const CallPtr& call) {
    const MatmulFormat& format = matmul_format(call->type);
    const OperandPtr matrix = weight_operand(call->context, call->type, {weight.flatten(1)});
    const Tensor pictures = input_of(x, call->type);
    const Tensor out =
        at::empty({x.size(0), weight.size(0), call->grid.places(x.size(2), 0),
                   call->grid.places(x.size(3), 1)},
                  x.options().dtype(call->dtype).memory_format(x.suggest_memory_format()));
    for (const WindowPart& part : parts_of(x, call->grid)) {
      const OperandPtr rows = format.input(unfold_rows(pictures, call->grid, part));
      const Tensor y = format.forward_to(*rows, *matrix, call->dtype);
      if (bias) y.add_(bias->to(call->dtype));
      const Tensor place = places_of(out, part);
      place.copy_(y.view(place.sizes()));
    }
    keep_call(ctx, call);
    ctx->saved_data["dtype"] = static_cast<std::int64_t>(x.scalar_type());
    ctx->saved_data["sizes"] = x.sizes().vec();
    const bool learns = weight.requires_grad();
    ctx->save_for_backward({learns ? pictures : Tensor(), weight, bias.value_or(Tensor())});
    return out;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& output_grads) {
    const auto holder = ctx->saved_data[kCall].toCapsule();
    const auto& call = static_cast<const ConvolutionCall&>(*holder);
    check_first_derivative(call.type);
    const variable_list saved = ctx->get_saved_variables();
    const Tensor &weight = saved[1], &g = output_grads.front();
    const auto fp32 = weight.options().dtype(torch::kFloat);
    Tensor d_x, d_weight;
    if (ctx->needs_input_grad(0)) d_x = at::zeros(ctx->saved_data["sizes"].toIntVector(), fp32);
    if (ctx->needs_input_grad(1))
      d_weight = at::zeros({weight.size(0), weight.numel() / weight.size(0)}, fp32);
    add_gradients(call, saved, g, d_x, d_weight);
    variable_list grads(4);  // x, weight, bias, the call
    if (d_x.defined()) grads[0] = d_x.to(static_cast<ScalarType>(ctx->saved_data["dtype"].toInt()));
    if (d_weight.defined()) grads[1] = d_weight.view_as(weight).to(weight_grad_dtype(weight));
    if (saved[2].defined() && ctx->needs_input_grad(2)) grads[2] = bias_gradient(g, saved[2]);
    return grads;
  }

 private:
  static void add_gradients(const ConvolutionCall& call, const variable_list& saved,
                            const Tensor& g, const Tensor& d_x, const Tensor& d_weight) {
    if (!d_x.defined() && !d_weight.defined()) return;
    const MatmulFormat& format = matmul_format(call.type);
    const OperandPtr matrix = weight_operand(call.context, call.type, {saved[1].flatten(1)});
    std::uint64_t index = 0;
    for (const WindowPart& part : parts_of(d_x.defined() ? d_x : saved[0], call.grid)) {
      const std::uint64_t stream = random_word(call.stream, index++);
      const Tensor rows = places_of(g, part).reshape({-1, g.size(1)});
      const OperandPtr gradient = format.gradient(rows, {stream, random_word(stream, 1)});
      if (d_x.defined())
        fold_rows_(d_x, format.input_gradient(*gradient, *matrix, torch::kFloat).contiguous(),
                   call.grid, part);
      if (d_weight.defined()) {
        const OperandPtr input = format.input(unfold_rows(saved[0], call.grid, part));
        format.add_weight_gradient(*gradient, *input, d_weight, 1.0);
      }
    }
  }
};

// --- Which of them. ---

/// Windows that tile x: a matmul of its pixels, moved once.
Tensor tiled_convolution(const Tensor& x, const Tensor& weight, const Tensor& bias,
                         const WindowGrid& grid) {
  const auto& kernel = grid.kernel;
  const std::int64_t down = grid.places(x.size(2), 0), across = grid.places(x.size(3), 1);
  const Tensor rows = x.narrow(2, 0, down * kernel[0])
                          .narrow(3, 0, across * kernel[1])
                          .unflatten(3, {across, kernel[1]})
                          .unflatten(2, {down, kernel[0]})
                          .permute({0, 2, 4, 1, 3, 5})
                          .reshape({x.size(0), down * across, weight.numel() / weight.size(0)});
  const Tensor y = halftone::linear(rows, weight.flatten(1));
  const Tensor sum = bias.defined() ? y + bias.to(y.scalar_type()) : y;
  const Tensor out = sum.unflatten(1, {down, across}).permute({0, 3, 1, 2});
  return out.contiguous(x.suggest_memory_format());
}

void refuse_groups(ComputeType type, const Tensor& weight, std::int64_t groups) {
  if (groups == 1) return;
  throw UserError(c10::str(
      "expected a convolution of one group in ", std::string(to_string(type)), ", got one of ",
      groups, " with a weight of ", weight.sizes(),
      "; give the layer another format with layer_precision, such as NAME=bf16, or keep_fp32()"));
}

/// Outside autocast, all in fp32 (or double).
Tensor wide_convolution(const Tensor& x, const Tensor& weight, const Tensor& bias,
                        const WindowGrid& grid, std::int64_t groups) {
  return convolved(upcast(x), upcast(weight), bias.defined() ? upcast(bias) : bias, grid, groups);
}

Tensor half_convolution(const Tensor& x, const Tensor& weight, const Tensor& bias,
                        const CallPtr& call, std::int64_t groups) {
  const ScalarType dtype = tensor_dtype(call->type);
  if ((x.is_cpu() || x.is_meta()) && x.numel() > 0 && upcasts_any(dtype))
    return HalfConvolution::apply(x, weight, if_defined(bias), call, groups);
  return convolved(x.to(dtype), weight.to(dtype), bias.defined() ? bias.to(dtype) : bias,
                   call->grid, groups)
      .to(call->dtype);
}

void check(const Tensor& x, const Tensor& weight, const Tensor& bias, const WindowGrid& grid,
           std::int64_t groups) {
  HALFTONE_CHECK(x.dim() == 4 && weight.dim() == 4 && groups >= 1 && weight.numel() > 0 &&
                     x.size(1) == weight.size(1) * groups && weight.size(0) % groups == 0 &&
                     (!bias.defined() || bias.sizes() == at::IntArrayRef({weight.size(0)})),
                 "[conv2d] expected x (B, C, H, W), weight (out, C / groups, height, width) and "
                 "bias (out), got ",
                 x.sizes(), ", ", weight.sizes(), " and ",
                 bias.defined() ? c10::str(bias.sizes()) : "none", " with ", groups, " groups");
  HALFTONE_CHECK(std::min(grid.stride[0], grid.stride[1]) >= 1 &&
                     std::min(grid.dilation[0], grid.dilation[1]) >= 1 &&
                     std::min(grid.padding[0], grid.padding[1]) >= 0,
                 "[conv2d] expected stride and dilation from 1, padding from 0");
  HALFTONE_CHECK(grid.places(x.size(2), 0) >= 1 && grid.places(x.size(3), 1) >= 1,
                 "[conv2d] expected pictures that the window fits into, got ", x.sizes(),
                 " for a weight of ", weight.sizes(), " with padding ", grid.padding[0], " and ",
                 grid.padding[1]);
  HALFTONE_CHECK(is_autocast_on(x.device().type()) || weight.scalar_type() == x.scalar_type(),
                 "[conv2d] expected x and weight of one dtype, got ", x.scalar_type(), " and ",
                 weight.scalar_type(), "; convert one or turn autocast on");
}

Tensor convolution(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& maybe_bias,
                   at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation,
                   std::int64_t groups) {
  const Tensor bias = maybe_bias.value_or(Tensor());
  HALFTONE_CHECK(
      weight.dim() == 4 && stride.size() == 2 && padding.size() == 2 && dilation.size() == 2,
      "[conv2d] expected a weight of four dimensions and stride, padding and dilation "
      "of two numbers, got a weight of ",
      weight.sizes());
  const WindowGrid grid{{weight.size(2), weight.size(3)},
                        {stride[0], stride[1]},
                        {padding[0], padding[1]},
                        {dilation[0], dilation[1]}};
  check(x, weight, bias, grid, groups);
  const std::optional<ComputeType> recipe = linear_type(x);
  const bool autocast = is_autocast_on(x.device().type());
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  if (!recipe) return convolved(x, weight, bias, grid, groups);
  const bool keeps = (is_quantized(*recipe) || autocast) && keeps_fp32(weight);
  const ComputeType type = keeps ? ComputeType::kFloat32 : layer_format(weight).value_or(*recipe);
  if (type == ComputeType::kFloat32) return wide_convolution(x, weight, bias, grid, groups);
  const ComputeContext& context = compute_context();
  const auto call = c10::make_intrusive<ConvolutionCall>();
  call->grid = grid;
  call->type = type;
  call->dtype = tensor_dtype(*recipe);
  call->context = context;
  if (!is_quantized(type)) return half_convolution(x, weight, bias, call, groups);
  refuse_groups(type, weight, groups);
  call->stream = context.streams.next();
  return UnfoldedConvolution::apply(x, weight, maybe_bias, call);
}

using ConvolutionSignature = Tensor(const Tensor& x, const Tensor& weight,
                                    const std::optional<Tensor>& bias, at::IntArrayRef stride,
                                    at::IntArrayRef padding, at::IntArrayRef dilation,
                                    std::int64_t groups);
const Operator<ConvolutionSignature> conv2d_operator(
    "conv2d(Tensor x, Tensor weight, Tensor? bias, int[] stride, int[] padding, int[] dilation, "
    "int groups) -> Tensor",
    {.reference = convolution, .autograd = convolution, .cpu = convolution, .meta = convolution});

/// Whether the windows of a layer are worth moving pixels for: a window of one pixel is not, where
/// LibTorch's convolution takes them as they lie. The gradient of a view of the weight would be
/// rounded to the weight's dtype.
bool is_tiled(const Tensor& x, const Tensor& weight, const WindowGrid& grid, std::int64_t groups) {
  if (groups != 1 || weight_grad_dtype(weight) != weight.scalar_type() || !grid.tiles() ||
      grid.places(x.size(2), 0) < 1 || grid.places(x.size(3), 1) < 1)
    return false;
  const std::optional<ComputeType> type = linear_type(x);
  return grid.kernel != std::array<std::int64_t, 2>{1, 1} || (type && is_quantized(*type));
}

}  // namespace

Tensor conv2d(const Tensor& x, const Tensor& weight, const Tensor& bias, const WindowGrid& grid,
              std::int64_t groups) {
  HALFTONE_CHECK(x.dim() == 4 && weight.dim() == 4 && grid.kernel[0] == weight.size(2) &&
                     grid.kernel[1] == weight.size(3),
                 "[conv2d] expected x and weight of four dimensions and the weight's window, got ",
                 x.sizes(), ", ", weight.sizes(), " and a window of ", grid.kernel[0], " x ",
                 grid.kernel[1]);
  if (is_tiled(x, weight, grid, groups)) {
    check(x, weight, bias, grid, groups);
    return tiled_convolution(x, weight, bias, grid);
  }
  return conv2d_operator(x, weight, if_defined(bias), grid.stride, grid.padding, grid.dilation,
                         groups);
}

std::int64_t unfolded_part_limit() { return part_limit; }
void set_unfolded_part_limit(std::int64_t limit) { part_limit = limit; }

}  // namespace halftone
