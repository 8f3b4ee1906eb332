// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/optimizer/moments.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <limits>
#include <vector>

#include "halftone/core/device.h"
#include "halftone/core/error.h"
#include "halftone/kernels/common/operator_impl.h"
#include "halftone/kernels/optimizer/moments_impl.h"

namespace halftone {
namespace {

constexpr std::int64_t kMomentsGrain = 64;  // blocks worth a thread

const DynamicMap& map_of(Moment moment) {
  return moment == Moment::kFirst ? kSignedMap : kUnsignedMap;
}

void check(const torch::Tensor& codes, const torch::Tensor& scales, std::int64_t n) {
  HALFTONE_CHECK(codes.scalar_type() == torch::kByte && codes.dim() == 1 && codes.numel() == n &&
                     codes.is_contiguous(),
                 "[moments] expected codes to be ", n, " flat bytes, got ", codes.scalar_type(),
                 " ", codes.sizes());
  HALFTONE_CHECK(scales.scalar_type() == torch::kFloat && scales.dim() == 1 &&
                     scales.numel() == moment_scales(n) && scales.is_contiguous() &&
                     scales.device() == codes.device(),
                 "[moments] expected ", moment_scales(n), " fp32 scales on ", codes.device(),
                 ", got ", scales.scalar_type(), " ", scales.sizes(), " on ", scales.device());
}

void check_values(const torch::Tensor& values) {
  HALFTONE_CHECK(values.scalar_type() == torch::kFloat && values.dim() == 1,
                 "[moments] expected flat fp32 values, got ", values.scalar_type(), " ",
                 values.sizes());
}

// What lies midway between the values of neighbouring numbers, exactly.
torch::Tensor midpoints(const DynamicMap& map, torch::Device device) {
  std::vector<double> middle;
  for (std::uint32_t number = 0; number < map.top; ++number)
    middle.push_back((double{map.value(number)} + double{map.value(number + 1)}) / 2);
  return to_device(torch::tensor(middle, torch::kDouble), device);
}

/// (blocks, 256), zeros behind the end.
torch::Tensor in_blocks(const torch::Tensor& flat) {
  const std::int64_t blocks = moment_scales(flat.numel());
  return at::constant_pad_nd(flat, {0, blocks * kMomentBlock - flat.numel()})
      .view({blocks, kMomentBlock});
}

// What codes stand for: exp_avg, or the root of exp_avg_sq.
torch::Tensor scaled_map_values(const torch::Tensor& codes, const torch::Tensor& scales,
                                Moment moment) {
  check(codes, scales, codes.numel());
  const torch::Tensor map = to_device(dynamic_map(moment), codes.device());
  const torch::Tensor number = in_blocks(codes).to(torch::kInt).flatten();
  return (map.index_select(0, number).view({-1, kMomentBlock}) * scales.unsqueeze(1))
      .flatten()
      .narrow(0, 0, codes.numel());
}

template <class Loop>
void over_blocks(std::int64_t size, const Loop& loop) {
  at::parallel_for(0, moment_scales(size), kMomentsGrain,
                   [&](std::int64_t begin, std::int64_t end) {
                     const std::int64_t from = begin * kMomentBlock;
                     loop(from, std::min(size, end * kMomentBlock) - from);
                   });
}

// ---- operators. `second`: of exp_avg_sq.

Moment moment_of(bool second) { return second ? Moment::kSecond : Moment::kFirst; }

void encode_by_definition(const torch::Tensor& values, bool second, const torch::Tensor& codes,
                          const torch::Tensor& scales) {
  encode_moments_reference_(values, moment_of(second), codes, scales);
}

void encode_nothing(const torch::Tensor& values, bool /*second*/, const torch::Tensor& codes,
                    const torch::Tensor& scales) {
  check_values(values);
  check(codes, scales, values.numel());
}

void encode_by_blocks(const torch::Tensor& values, bool second, const torch::Tensor& codes,
                      const torch::Tensor& scales) {
  if (!has_simd_kernels()) return encode_by_definition(values, second, codes, scales);
  check_values(values);
  check(codes, scales, values.numel());
  const torch::Tensor plain = values.contiguous();
  const auto* from = plain.const_data_ptr<float>();
  auto* bytes = codes.mutable_data_ptr<std::uint8_t>();
  auto* scale = scales.mutable_data_ptr<float>();
  over_blocks(plain.numel(), [&](std::int64_t begin, std::int64_t size) {
    encode_moments(from + begin, size, second, bytes + begin, scale + begin / kMomentBlock);
  });
}

const Operator<void(const torch::Tensor&, bool, const torch::Tensor&, const torch::Tensor&)>
    encode_moments_operator(
        "encode_moments_(Tensor values, bool second, Tensor(a!) codes, Tensor(b!) scales) -> ()",
        {.reference = encode_by_definition, .cpu = encode_by_blocks, .meta = encode_nothing});

using DecodeSignature = torch::Tensor(const torch::Tensor& codes, const torch::Tensor& scales,
                                      bool second);

torch::Tensor decode_by_definition(const torch::Tensor& codes, const torch::Tensor& scales,
                                   bool second) {
  return decoded_moments_reference(codes, scales, moment_of(second));
}

torch::Tensor decode_buffer(const torch::Tensor& codes, const torch::Tensor& scales,
                            bool /*second*/) {
  check(codes, scales, codes.numel());
  return torch::empty(codes.sizes(), scales.options());
}

torch::Tensor decode_by_blocks(const torch::Tensor& codes, const torch::Tensor& scales,
                               bool second) {
  if (!has_simd_kernels()) return decode_by_definition(codes, scales, second);
  torch::Tensor values = decode_buffer(codes, scales, second);
  const auto* bytes = codes.const_data_ptr<std::uint8_t>();
  const auto* scale = scales.const_data_ptr<float>();
  auto* to = values.mutable_data_ptr<float>();
  over_blocks(codes.numel(), [&](std::int64_t begin, std::int64_t size) {
    decode_moments(bytes + begin, scale + begin / kMomentBlock, size, second, to + begin);
  });
  return values;
}

const Operator<DecodeSignature> decoded_moments_operator(
    "decoded_moments(Tensor codes, Tensor scales, bool second) -> Tensor",
    {.reference = decode_by_definition, .cpu = decode_by_blocks, .meta = decode_buffer});

torch::Tensor device_sqrt(const torch::Tensor& x) { return x.sqrt(); }

torch::Tensor sqrt_by_fp64(const torch::Tensor& x) {
  return x.to(torch::kDouble).sqrt().to(torch::kFloat);
}

const Operator<torch::Tensor(const torch::Tensor&)> exact_sqrt_operator(
    "exact_sqrt(Tensor x) -> Tensor",
    {.reference = device_sqrt, .cpu = sqrt_by_fp64, .meta = sqrt_by_fp64});

}  // namespace

std::int64_t moment_scales(std::int64_t n) { return (n + kMomentBlock - 1) / kMomentBlock; }

torch::Tensor exact_sqrt(const torch::Tensor& x) { return exact_sqrt_operator(x); }

torch::Tensor dynamic_map(Moment moment) {
  const DynamicMap& map = map_of(moment);
  std::vector<float> values;
  for (std::uint32_t byte = 0; byte < 256; ++byte)
    values.push_back(byte <= map.top ? map.value(byte) : -map.value(256 - byte));
  return torch::tensor(values);
}

void encode_moments_(const torch::Tensor& values, Moment moment, const torch::Tensor& codes,
                     const torch::Tensor& scales) {
  encode_moments_operator(values, moment == Moment::kSecond, codes, scales);
}

torch::Tensor decoded_moments(const torch::Tensor& codes, const torch::Tensor& scales,
                              Moment moment) {
  return decoded_moments_operator(codes, scales, moment == Moment::kSecond);
}

void encode_moments_reference_(const torch::Tensor& values, Moment moment,
                               const torch::Tensor& codes, const torch::Tensor& scales) {
  check_values(values);
  check(codes, scales, values.numel());
  const torch::NoGradGuard no_grad;
  const DynamicMap& map = map_of(moment);
  if (values.numel() == 0) return;
  torch::Tensor stored =
      in_blocks(moment == Moment::kSecond ? exact_sqrt(values) : values.contiguous());
  if (moment == Moment::kSecond)
    stored = at::where(stored.gt(kLargestRoot), torch::full_like(stored, kLargestRoot), stored);
  const torch::Tensor scale = stored.abs().amax(1, true);
  const torch::Tensor usable = scale.ge(kLeastScale) & scale.isfinite();
  const torch::Tensor x = stored * scale.reciprocal();
  // Numbers of magnitudes: as many as there are midpoints at or below.
  torch::Tensor number =
      at::bucketize(x.abs().to(torch::kDouble), midpoints(map, values.device()), true, true);
  if (moment == Moment::kFirst)
    number = at::where(x.lt(0), (256 - number.clamp_max(map.top - 1)).bitwise_and(255), number);
  else
    number = at::where(x.gt(0), number.clamp_min(1), number);
  number = at::where(usable, number, at::zeros_like(number));
  codes.copy_(number.flatten().narrow(0, 0, values.numel()));
  scales.copy_(scale.flatten());
}

torch::Tensor decoded_moments_reference(const torch::Tensor& codes, const torch::Tensor& scales,
                                        Moment moment) {
  const torch::Tensor stored = scaled_map_values(codes, scales, moment);
  return moment == Moment::kSecond ? stored * stored : stored;
}

torch::Tensor least_root(const torch::Tensor& steps, double beta1, double beta2) {
  const torch::Tensor t = steps.to(torch::kDouble);
  const double q = beta1 * beta1 / beta2;
  const double first = (1.0 - beta1) * (1.0 - beta1) / (1.0 - beta2);  // C_1 squared
  const torch::Tensor square =
      q == 1.0 ? (t * first).reciprocal() : (1.0 - q) / first / (1.0 - at::pow(q, t));
  return at::where(square.isfinite(), square, torch::zeros_like(square)).sqrt();
}

torch::Tensor decoded_exp_avg_sq(const torch::Tensor& codes, const torch::Tensor& scales,
                                 const torch::Tensor& exp_avg, const torch::Tensor& least_root) {
  const torch::Tensor stored = scaled_map_values(codes, scales, Moment::kSecond);
  const torch::Tensor least = exp_avg.abs() * least_root.to(torch::kFloat);
  const torch::Tensor root = at::where(least.gt(stored), least, stored);
  return root * root;
}

}  // namespace halftone
