// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/optimizer/adamw.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "halftone/core/error.h"
#include "halftone/core/random.h"
#include "halftone/kernels/common/fused_kernels.h"
#include "halftone/kernels/common/kernel_type_impl.h"
#include "halftone/kernels/common/operator_impl.h"
#include "halftone/kernels/common/stochastic_rounding.h"
#include "halftone/kernels/optimizer/adamw_impl.h"
#include "halftone/kernels/optimizer/moments.h"
#include "halftone/kernels/optimizer/moments_impl.h"
#include "halftone/kernels/optimizer/split_master.h"

namespace halftone {
namespace {

constexpr std::int64_t kAdamWGrain = 64;                   // blocks worth a thread
constexpr std::int64_t kKeySpan = std::int64_t{1} << 32U;  // indices that share a key

bool stochastic(const AdamWTensors& tensors, const AdamWArguments& arguments) {
  return arguments.stochastic_rounding && tensors.weights.scalar_type() == torch::kBFloat16;
}

// The moments draw from a stream of their own.
std::uint64_t moment_seed(const AdamWArguments& arguments) { return ~arguments.seed; }

// lr / (1 - beta1^t) and sqrt(1 - beta2^t): fp64 scalars on the step's device.
std::pair<torch::Tensor, torch::Tensor> corrections(const AdamWArguments& arguments) {
  const torch::Tensor step = arguments.step.to(torch::kDouble);
  return {arguments.lr / (1.0 - at::pow(arguments.beta1, step)),
          (1.0 - at::pow(arguments.beta2, step)).sqrt()};
}

// Of the moments as the step before has left them.
torch::Tensor least_root_for(const AdamWArguments& arguments) {
  return least_root(arguments.step - 1, arguments.beta1, arguments.beta2);
}

void check_flat(const torch::Tensor& tensor, const torch::Tensor& weights, const char* name) {
  HALFTONE_CHECK(tensor.dim() == 1 && tensor.is_contiguous() && tensor.sizes() == weights.sizes() &&
                     tensor.device() == weights.device(),
                 "[adamw] expected ", name, " to be flat, contiguous and as long as the weights (",
                 weights.numel(), " on ", weights.device(), "), got ", tensor.sizes(), " on ",
                 tensor.device());
}

void check_scales(const torch::Tensor& scales, const torch::Tensor& weights, const char* name) {
  const std::int64_t count = moment_scales(weights.numel());
  HALFTONE_CHECK(
      scales.defined() && scales.scalar_type() == torch::kFloat && scales.dim() == 1 &&
          scales.is_contiguous() && scales.numel() == count && scales.device() == weights.device(),
      "[adamw] expected ", name, " to hold ", count, " fp32 scales on ", weights.device());
}

void check_moments(const AdamWTensors& tensors, const AdamWArguments& arguments) {
  const torch::ScalarType dtype = tensors.exp_avg.scalar_type();
  HALFTONE_CHECK((dtype == torch::kFloat || dtype == torch::kBFloat16 || dtype == torch::kByte) &&
                     tensors.exp_avg_sq.scalar_type() == dtype,
                 "[adamw] expected both moments in fp32, bf16 or uint8, got ", dtype, " and ",
                 tensors.exp_avg_sq.scalar_type());
  if (dtype != torch::kByte) return;
  check_scales(tensors.exp_avg_scale, tensors.weights, "exp_avg_scale");
  check_scales(tensors.exp_avg_sq_scale, tensors.weights, "exp_avg_sq_scale");
  HALFTONE_CHECK(arguments.first_index % kMomentBlock == 0,
                 "[adamw] expected 8-bit moments to begin at a multiple of ", kMomentBlock,
                 ", got ", arguments.first_index);
}

void check_master(const AdamWTensors& tensors) {
  if (!tensors.master_low.defined()) return;
  const torch::ScalarType dtype = tensors.master_low.scalar_type();
  HALFTONE_CHECK((dtype == torch::kShort || dtype == torch::kByte) &&
                     tensors.weights.scalar_type() == torch::kBFloat16,
                 "[adamw] expected master_low in int16 or uint8 beside bf16 weights, got ", dtype,
                 " beside ", tensors.weights.scalar_type());
  check_flat(tensors.master_low, tensors.weights, "master_low");
}

void check(const AdamWTensors& tensors, const AdamWArguments& arguments) {
  const torch::ScalarType dtype = tensors.weights.scalar_type();
  HALFTONE_CHECK(dtype == torch::kFloat || dtype == torch::kBFloat16 || dtype == torch::kHalf,
                 "[adamw] expected weights in fp32, bf16 or fp16, got ", dtype);
  const torch::ScalarType gradients = tensors.gradients.scalar_type();
  HALFTONE_CHECK(gradients == dtype || gradients == torch::kFloat, "[adamw] expected gradients in ",
                 dtype, ", the weights' dtype, or in fp32, got ", gradients);
  check_moments(tensors, arguments);
  check_master(tensors);
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
  const bool coded = tensors.exp_avg.scalar_type() == torch::kByte;
  return {.gradient_factor = arguments.gradient_factor.item<float>(),
          .decay = static_cast<float>(1.0 - arguments.lr * arguments.weight_decay),
          .first_weight = static_cast<float>(1.0 - arguments.beta1),
          .second_keep = static_cast<float>(arguments.beta2),
          .second_weight = static_cast<float>(1.0 - arguments.beta2),
          .step_size = static_cast<float>(step_size.item<double>()),
          .root_correction = static_cast<float>(root_correction.item<double>()),
          .eps = static_cast<float>(arguments.eps),
          .least_root = coded ? static_cast<float>(least_root_for(arguments).item<double>()) : 0.0F,
          .stochastic_rounding = stochastic(tensors, arguments),
          .key = {0, 0},
          .moment_key = {0, 0}};
}

MomentType moment_type(torch::ScalarType dtype) {
  if (dtype == torch::kByte) return MomentType::kInt8;
  return dtype == torch::kFloat ? MomentType::kFloat : MomentType::kBFloat16;
}

MasterBits master_bits(const torch::Tensor& low) {
  if (!low.defined()) return MasterBits::kNone;
  return low.scalar_type() == torch::kByte ? MasterBits::k8 : MasterBits::k16;
}

// `size` elements from `begin` on. REQUIRES with 8-bit moments: they begin at a block.
AdamWRange range_of(const AdamWTensors& t, std::int64_t begin, std::int64_t size) {
  const auto at = [begin](const torch::Tensor& flat) -> void* {
    if (!flat.defined()) return nullptr;
    return static_cast<char*>(flat.mutable_data_ptr()) +
           begin * static_cast<std::int64_t>(flat.element_size());
  };
  const auto scale = [begin](const torch::Tensor& scales) {
    return scales.defined() ? scales.mutable_data_ptr<float>() + begin / kMomentBlock : nullptr;
  };
  return {.weights = at(t.weights),
          .gradients = at(t.gradients),
          .exp_avg = at(t.exp_avg),
          .exp_avg_sq = at(t.exp_avg_sq),
          .exp_avg_scale = scale(t.exp_avg_scale),
          .exp_avg_sq_scale = scale(t.exp_avg_sq_scale),
          .master_low = at(t.master_low),
          .size = size,
          .first_index = 0,
          .type = kernel_type(t.weights.scalar_type()),
          .gradient_type = kernel_type(t.gradients.scalar_type()),
          .moments = moment_type(t.exp_avg.scalar_type()),
          .master = master_bits(t.master_low)};
}

void set_key(std::uint32_t (&key)[2], std::uint64_t stream, std::int64_t index) {
  const std::uint64_t word = random_word(stream, static_cast<std::uint64_t>(index / kKeySpan));
  key[0] = static_cast<std::uint32_t>(word);
  key[1] = static_cast<std::uint32_t>(word >> 32U);
}

void adamw_cpu(const AdamWTensors& tensors, const AdamWArguments& arguments) {
  if (arguments.found_inf.item<double>() != 0.0) return;
  const AdamWConstants shared = constants_of(tensors, arguments);
  const auto step = static_cast<std::uint64_t>(arguments.step.item<std::int64_t>());
  const std::uint64_t stream = random_word(arguments.seed, step);
  const std::uint64_t moment_stream = random_word(moment_seed(arguments), step);
  const std::int64_t size = tensors.weights.numel();
  const auto update = [&](std::int64_t first_block, std::int64_t last_block) {
    AdamWConstants constants = shared;
    const std::int64_t end = std::min(size, last_block * kMomentBlock);
    for (std::int64_t begin = first_block * kMomentBlock; begin < end;) {
      const std::int64_t index = arguments.first_index + begin;
      const std::int64_t stop = std::min(end, begin + kKeySpan - index % kKeySpan);
      set_key(constants.key, stream, index);
      set_key(constants.moment_key, moment_stream, index);
      AdamWRange range = range_of(tensors, begin, stop - begin);
      range.first_index = static_cast<std::uint32_t>(index);
      adamw_range(range, constants);
      begin = stop;
    }
  };
  at::parallel_for(0, moment_scales(size), kAdamWGrain, update);
}

// What is stored, as fp32 (n).
torch::Tensor master_of(const AdamWTensors& tensors) {
  if (!tensors.master_low.defined()) return tensors.weights.to(torch::kFloat);
  return joined_master({tensors.weights, tensors.master_low});
}

// Both moments.
std::pair<torch::Tensor, torch::Tensor> moments_of(const AdamWTensors& t,
                                                   const AdamWArguments& arguments) {
  if (t.exp_avg.scalar_type() != torch::kByte)
    return {t.exp_avg.to(torch::kFloat), t.exp_avg_sq.to(torch::kFloat)};
  const torch::Tensor first = decoded_moments_reference(t.exp_avg, t.exp_avg_scale, Moment::kFirst);
  return {first,
          decoded_exp_avg_sq(t.exp_avg_sq, t.exp_avg_sq_scale, first, least_root_for(arguments))};
}

void keep_where(const torch::Tensor& skip, const torch::Tensor& stored, const torch::Tensor& next) {
  stored.copy_(at::where(skip, stored, next));
}

void store_weights(const AdamWTensors& tensors, const AdamWArguments& arguments,
                   const torch::Tensor& weights, const torch::Tensor& skip) {
  const auto words = [&] {
    return step_words(arguments.seed, arguments.step, arguments.first_index, weights.numel());
  };
  const bool randomly = stochastic(tensors, arguments);
  if (!tensors.master_low.defined()) {
    keep_where(skip, tensors.weights,
               randomly ? round_stochastically(weights, arguments.seed, arguments.step,
                                               arguments.first_index)
                        : weights.to(tensors.weights.scalar_type()));
    return;
  }
  const torch::ScalarType low = tensors.master_low.scalar_type();
  torch::Tensor master = weights;
  if (low == torch::kByte)
    master = randomly ? rounded_to_24_bits(weights, words()) : rounded_to_24_bits(weights);
  const SplitMaster split = split_master(master, low);
  keep_where(skip, tensors.weights, split.weights);
  keep_where(skip, tensors.master_low, split.master_low);
}

void store_moments(const AdamWTensors& tensors, const AdamWArguments& arguments,
                   const std::pair<torch::Tensor, torch::Tensor>& moments,
                   const torch::Tensor& skip) {
  const auto& [first, second] = moments;
  if (tensors.exp_avg.scalar_type() == torch::kByte) {
    const auto store = [&](const torch::Tensor& values, Moment moment, const torch::Tensor& codes,
                           const torch::Tensor& scales) {
      const torch::Tensor next_codes = torch::empty_like(codes);
      const torch::Tensor next_scales = torch::empty_like(scales);
      encode_moments_reference_(values, moment, next_codes, next_scales);
      keep_where(skip, codes, next_codes);
      keep_where(skip, scales, next_scales);
    };
    store(first, Moment::kFirst, tensors.exp_avg, tensors.exp_avg_scale);
    store(second, Moment::kSecond, tensors.exp_avg_sq, tensors.exp_avg_sq_scale);
  } else if (tensors.exp_avg.scalar_type() == torch::kBFloat16) {
    const torch::Tensor words =
        step_words(moment_seed(arguments), arguments.step, arguments.first_index, first.numel());
    keep_where(skip, tensors.exp_avg, round_stochastically(first, words.bitwise_right_shift(16)));
    keep_where(skip, tensors.exp_avg_sq, round_stochastically(second, words));
  } else {
    keep_where(skip, tensors.exp_avg, first);
    keep_where(skip, tensors.exp_avg_sq, second);
  }
}

// ---- the operator

using AdamWSignature = void(const torch::Tensor& weights, const torch::Tensor& gradients,
                            const torch::Tensor& exp_avg, const torch::Tensor& exp_avg_sq,
                            const std::optional<torch::Tensor>& exp_avg_scale,
                            const std::optional<torch::Tensor>& exp_avg_sq_scale,
                            const std::optional<torch::Tensor>& master_low,
                            const torch::Tensor& step, const torch::Tensor& gradient_factor,
                            const torch::Tensor& found_inf, double lr, double beta1, double beta2,
                            double eps, double weight_decay, bool stochastic_rounding,
                            std::int64_t seed, std::int64_t first_index);

/// `function`, from the operator's arguments.
template <void (*function)(const AdamWTensors&, const AdamWArguments&)>
void adamw_from(const torch::Tensor& weights, const torch::Tensor& gradients,
                const torch::Tensor& exp_avg, const torch::Tensor& exp_avg_sq,
                const std::optional<torch::Tensor>& exp_avg_scale,
                const std::optional<torch::Tensor>& exp_avg_sq_scale,
                const std::optional<torch::Tensor>& master_low, const torch::Tensor& step,
                const torch::Tensor& gradient_factor, const torch::Tensor& found_inf, double lr,
                double beta1, double beta2, double eps, double weight_decay,
                bool stochastic_rounding, std::int64_t seed, std::int64_t first_index) {
  const AdamWTensors tensors{.weights = weights,
                             .gradients = gradients,
                             .exp_avg = exp_avg,
                             .exp_avg_sq = exp_avg_sq,
                             .exp_avg_scale = exp_avg_scale.value_or(torch::Tensor()),
                             .exp_avg_sq_scale = exp_avg_sq_scale.value_or(torch::Tensor()),
                             .master_low = master_low.value_or(torch::Tensor())};
  const AdamWArguments arguments{.lr = lr,
                                 .beta1 = beta1,
                                 .beta2 = beta2,
                                 .eps = eps,
                                 .weight_decay = weight_decay,
                                 .stochastic_rounding = stochastic_rounding,
                                 .seed = static_cast<std::uint64_t>(seed),
                                 .first_index = first_index,
                                 .step = step,
                                 .gradient_factor = gradient_factor,
                                 .found_inf = found_inf};
  check(tensors, arguments);
  const torch::NoGradGuard no_grad;
  function(tensors, arguments);
}

void adamw_cpu_or_definition(const AdamWTensors& tensors, const AdamWArguments& arguments) {
  if (is_fused(FusedKernel::kAdamW) && has_simd_kernels())
    adamw_cpu(tensors, arguments);
  else
    adamw_reference_(tensors, arguments);
}

void update_nothing(const AdamWTensors& /*tensors*/, const AdamWArguments& /*arguments*/) {}

const Operator<AdamWSignature> adamw_operator(
    "adamw_(Tensor(a!) weights, Tensor gradients, Tensor(b!) exp_avg, Tensor(c!) exp_avg_sq, "
    "Tensor(d!)? exp_avg_scale, Tensor(e!)? exp_avg_sq_scale, Tensor(f!)? master_low, Tensor step, "
    "Tensor gradient_factor, Tensor found_inf, float lr, float beta1, float beta2, float eps, "
    "float weight_decay, bool stochastic_rounding, int seed, int first_index) -> ()",
    {.reference = adamw_from<adamw_reference_>,
     .cpu = adamw_from<adamw_cpu_or_definition>,
     .meta = adamw_from<update_nothing>});

}  // namespace

void adamw_(const AdamWTensors& tensors, const AdamWArguments& arguments) {
  adamw_operator(tensors.weights, tensors.gradients, tensors.exp_avg, tensors.exp_avg_sq,
                 if_defined(tensors.exp_avg_scale), if_defined(tensors.exp_avg_sq_scale),
                 if_defined(tensors.master_low), arguments.step, arguments.gradient_factor,
                 arguments.found_inf, arguments.lr, arguments.beta1, arguments.beta2, arguments.eps,
                 arguments.weight_decay, arguments.stochastic_rounding,
                 static_cast<std::int64_t>(arguments.seed), arguments.first_index);
}

void adamw_reference_(const AdamWTensors& tensors, const AdamWArguments& arguments) {
  const torch::NoGradGuard no_grad;
  const auto [step_size, root_correction] = corrections(arguments);
  const torch::Tensor gradient =
      tensors.gradients.to(torch::kFloat) * arguments.gradient_factor.to(torch::kFloat);
  const auto [exp_avg, exp_avg_sq] = moments_of(tensors, arguments);
  const torch::Tensor first = exp_avg + (gradient - exp_avg) * (1.0 - arguments.beta1);
  const torch::Tensor second =
      exp_avg_sq * arguments.beta2 + gradient * (1.0 - arguments.beta2) * gradient;
  const torch::Tensor denominator =
      exact_sqrt(second) / root_correction.to(torch::kFloat) + arguments.eps;
  const torch::Tensor weights = master_of(tensors) * (1.0 - arguments.lr * arguments.weight_decay) -
                                first * step_size.to(torch::kFloat) / denominator;
  const torch::Tensor skip = arguments.found_inf.ne(0);
  store_weights(tensors, arguments, weights, skip);
  store_moments(tensors, arguments, {first, second}, skip);
}

}  // namespace halftone
