// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/adamw.h"

#include <ATen/Parallel.h>

#include <cmath>

#include "halftone/core/error.h"
#include "halftone/core/random.h"
#include "halftone/kernels/adamw_impl.h"
#include "halftone/kernels/kernel_type_impl.h"
#include "halftone/kernels/stochastic_rounding.h"

namespace halftone {
namespace {

constexpr std::int64_t kGrain = 16384;                     // elements worth a thread
constexpr std::int64_t kKeySpan = std::int64_t{1} << 32U;  // indices that share a key

bool stochastic(const AdamWTensors& tensors, const AdamWArguments& arguments) {
  return arguments.stochastic_rounding && tensors.weights.scalar_type() == torch::kBFloat16;
}

// lr / (1 - beta1^t) and sqrt(1 - beta2^t): fp64 scalars on the step's device.
std::pair<torch::Tensor, torch::Tensor> corrections(const AdamWArguments& arguments) {
  const torch::Tensor step = arguments.step.to(torch::kDouble);
  return {arguments.lr / (1.0 - at::pow(arguments.beta1, step)),
          (1.0 - at::pow(arguments.beta2, step)).sqrt()};
}

// LibTorch's fp32 square root on the CPU is now and then one bit off; through fp64 it is exact.
torch::Tensor exact_sqrt(const torch::Tensor& x) {
  return x.is_cpu() ? x.to(torch::kDouble).sqrt().to(torch::kFloat) : x.sqrt();
}

void check_flat(const torch::Tensor& tensor, const torch::Tensor& weights, const char* name) {
  HALFTONE_CHECK(tensor.dim() == 1 && tensor.is_contiguous() && tensor.sizes() == weights.sizes() &&
                     tensor.device() == weights.device(),
                 "[adamw] expected ", name, " to be flat, contiguous and as long as the weights (",
                 weights.numel(), " on ", weights.device(), "), got ", tensor.sizes(), " on ",
                 tensor.device());
}

void check(const AdamWTensors& tensors, const AdamWArguments& arguments) {
  const torch::ScalarType dtype = tensors.weights.scalar_type();
  HALFTONE_CHECK(dtype == torch::kFloat || dtype == torch::kBFloat16 || dtype == torch::kHalf,
                 "[adamw] expected weights in fp32, bf16 or fp16, got ", dtype);
  HALFTONE_CHECK(tensors.gradients.scalar_type() == dtype, "[adamw] expected gradients in ", dtype,
                 ", the weights' dtype, got ", tensors.gradients.scalar_type());
  HALFTONE_CHECK(tensors.exp_avg.scalar_type() == torch::kFloat &&
                     tensors.exp_avg_sq.scalar_type() == torch::kFloat,
                 "[adamw] expected fp32 moments, got ", tensors.exp_avg.scalar_type(), " and ",
                 tensors.exp_avg_sq.scalar_type());
  check_flat(tensors.weights, tensors.weights, "weights");
  check_flat(tensors.gradients, tensors.weights, "gradients");
  check_flat(tensors.exp_avg, tensors.weights, "exp_avg");
  check_flat(tensors.exp_avg_sq, tensors.weights, "exp_avg_sq");
  for (const torch::Tensor& scalar :
       {arguments.step, arguments.gradient_factor, arguments.found_inf})
    HALFTONE_CHECK(scalar.numel() == 1 && scalar.device() == tensors.weights.device(),
                   "[adamw] expected step, gradient_factor and found_inf to be scalars on ",
                   tensors.weights.device(), ", got ", scalar.sizes(), " on ", scalar.device());
}

AdamWConstants constants_of(const AdamWTensors& tensors, const AdamWArguments& arguments) {
  const auto [step_size, root_correction] = corrections(arguments);
  return {.gradient_factor = arguments.gradient_factor.item<float>(),
          .decay = static_cast<float>(1.0 - arguments.lr * arguments.weight_decay),
          .first_weight = static_cast<float>(1.0 - arguments.beta1),
          .second_keep = static_cast<float>(arguments.beta2),
          .second_weight = static_cast<float>(1.0 - arguments.beta2),
          .step_size = static_cast<float>(step_size.item<double>()),
          .root_correction = static_cast<float>(root_correction.item<double>()),
          .eps = static_cast<float>(arguments.eps),
          .stochastic_rounding = stochastic(tensors, arguments),
          .key = {0, 0}};
}

void adamw_cpu(const AdamWTensors& tensors, const AdamWArguments& arguments) {
  if (arguments.found_inf.item<double>() != 0.0) return;
  const AdamWConstants shared = constants_of(tensors, arguments);
  const std::uint64_t stream =
      random_word(arguments.seed, static_cast<std::uint64_t>(arguments.step.item<std::int64_t>()));
  const torch::ScalarType dtype = tensors.weights.scalar_type();
  const KernelType type = kernel_type(dtype);
  auto* weights = static_cast<char*>(tensors.weights.mutable_data_ptr());
  const auto* gradients = static_cast<const char*>(tensors.gradients.const_data_ptr());
  auto* exp_avg = tensors.exp_avg.mutable_data_ptr<float>();
  auto* exp_avg_sq = tensors.exp_avg_sq.mutable_data_ptr<float>();
  const auto width = static_cast<std::int64_t>(tensors.weights.element_size());

  at::parallel_for(0, tensors.weights.numel(), kGrain, [&](std::int64_t begin, std::int64_t end) {
    AdamWConstants constants = shared;
    while (begin < end) {
      const std::int64_t index = arguments.first_index + begin;
      const std::int64_t stop = std::min(end, begin + kKeySpan - index % kKeySpan);
      const std::uint64_t key = random_word(stream, static_cast<std::uint64_t>(index / kKeySpan));
      constants.key[0] = static_cast<std::uint32_t>(key);
      constants.key[1] = static_cast<std::uint32_t>(key >> 32U);
      adamw_range({.weights = weights + begin * width,
                   .gradients = gradients + begin * width,
                   .exp_avg = exp_avg + begin,
                   .exp_avg_sq = exp_avg_sq + begin,
                   .size = stop - begin,
                   .first_index = static_cast<std::uint32_t>(index),
                   .type = type},
                  constants);
      begin = stop;
    }
  });
}

}  // namespace

void adamw_(const AdamWTensors& tensors, const AdamWArguments& arguments) {
  check(tensors, arguments);
  const torch::NoGradGuard no_grad;
  if (tensors.weights.is_cpu() && has_simd_kernels()) {
    adamw_cpu(tensors, arguments);
  } else {
    adamw_reference_(tensors, arguments);
  }
}

void adamw_reference_(const AdamWTensors& tensors, const AdamWArguments& arguments) {
  const torch::NoGradGuard no_grad;
  const auto [step_size, root_correction] = corrections(arguments);
  const torch::Tensor gradient =
      tensors.gradients.to(torch::kFloat) * arguments.gradient_factor.to(torch::kFloat);
  const torch::Tensor first =
      tensors.exp_avg + (gradient - tensors.exp_avg) * (1.0 - arguments.beta1);
  const torch::Tensor second =
      tensors.exp_avg_sq * arguments.beta2 + gradient * (1.0 - arguments.beta2) * gradient;
  const torch::Tensor denominator =
      exact_sqrt(second) / root_correction.to(torch::kFloat) + arguments.eps;
  const torch::Tensor weights =
      tensors.weights.to(torch::kFloat) * (1.0 - arguments.lr * arguments.weight_decay) -
      first * step_size.to(torch::kFloat) / denominator;
  const torch::Tensor rounded =
      stochastic(tensors, arguments)
          ? round_stochastically(weights, arguments.seed, arguments.step, arguments.first_index)
          : weights.to(tensors.weights.scalar_type());

  const torch::Tensor skip = arguments.found_inf.ne(0);
  tensors.weights.copy_(at::where(skip, tensors.weights, rounded));
  tensors.exp_avg.copy_(at::where(skip, tensors.exp_avg, first));
  tensors.exp_avg_sq.copy_(at::where(skip, tensors.exp_avg_sq, second));
}

}  // namespace halftone
