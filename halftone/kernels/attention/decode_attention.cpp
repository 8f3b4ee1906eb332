// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/attention/decode_attention.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "halftone/core/error.h"
#include "halftone/kernels/attention/attention.h"
#include "halftone/kernels/attention/decode_attention_impl.h"
#include "halftone/kernels/common/fused_kernels.h"
#include "halftone/kernels/common/kernel_type_impl.h"
#include "halftone/kernels/common/operator_impl.h"
#include "halftone/kernels/gemm/matvec_impl.h"

namespace halftone {
namespace {

using torch::ScalarType;
using torch::Tensor;

/// Element 0 of head `head` of `batch`.
const char* head_of(const Tensor& cache, std::int64_t batch, std::int64_t head) {
  const std::int64_t offset = batch * cache.stride(0) + head * cache.stride(1);
  return static_cast<const char*>(cache.const_data_ptr()) +
         offset * static_cast<std::int64_t>(cache.element_size());
}

/// scores (queries, steps) = queries keys^T.
void score(const float* queries, std::int64_t count, const Tensor& key, const char* keys,
           float* scores) {
  const std::int64_t steps = key.size(2);
  const std::int64_t size = key.size(3);
  const KernelType type = kernel_type(key.scalar_type());
  for (std::int64_t first = 0; first < count; first += kMaxMatvecRows)
    matvec_range({.x = queries + first * size,
                  .weight = keys,
                  .stride = key.stride(2),
                  .rows = std::min(kMaxMatvecRows, count - first),
                  .columns = size,
                  .weight_type = type,
                  .product_type = type,
                  .out_type = KernelType::kFloat},
                 0, steps, scores + first * steps, steps);
}

void check(const Tensor& query, const Tensor& key, const Tensor& value) {
  HALFTONE_CHECK(query.dim() == 4 && key.dim() == 4 && query.size(2) == 1 && key.size(2) >= 1 &&
                     key.size(0) == query.size(0) && key.size(3) == query.size(3) &&
                     key.sizes() == value.sizes() && key.size(1) > 0 &&
                     query.size(1) % key.size(1) == 0,
                 "[decode_attention] expected query (B, H, 1, d), key and value (B, K, S, d), got ",
                 query.sizes(), ", ", key.sizes(), ", ", value.sizes());
}

Tensor decode_by_definition(const Tensor& query, const Tensor& key, const Tensor& value,
                            ScalarType dtype) {
  check(query, key, value);
  return causal_attention_reference(query, key, value, /*dropout=*/0.0, dtype);
}

Tensor decode_buffer(const Tensor& query, const Tensor& key, const Tensor& value,
                     ScalarType dtype) {
  check(query, key, value);
  return at::empty(query.sizes(), query.options().dtype(dtype));
}

Tensor decode_by_heads(const Tensor& query, const Tensor& key, const Tensor& value,
                       ScalarType dtype) {
  if (!takes_decode_attention(query, key, value, dtype))
    return decode_by_definition(query, key, value, dtype);
  const Tensor out = decode_buffer(query, key, value, dtype);
  const std::int64_t size = query.size(3);
  const std::int64_t key_heads = key.size(1);
  const std::int64_t steps = key.size(2);
  const std::int64_t group = query.size(1) / key_heads;
  const Tensor rounded = query.to(dtype).contiguous();
  std::vector<float> queries(static_cast<std::size_t>(query.numel()));
  widen(rounded.const_data_ptr(), kernel_type(dtype), query.numel(), queries.data());
  const auto width = static_cast<std::int64_t>(out.element_size());
  const auto scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(size)));
  auto* target = static_cast<char*>(out.mutable_data_ptr());
  constexpr std::int64_t kGrain = 65536;  // multiplications that are worth a thread
  const std::int64_t each = 2 * group * steps * size;
  at::parallel_for(0, query.size(0) * key_heads, kGrain / std::max(each, std::int64_t{1}) + 1,
                   [&](std::int64_t begin, std::int64_t end) {
                     std::vector<float> scores(static_cast<std::size_t>(group * steps));
                     for (std::int64_t i = begin; i < end; ++i) {
                       const std::int64_t batch = i / key_heads;
                       const std::int64_t head = i % key_heads;
                       score(queries.data() + i * group * size, group, key,
                             head_of(key, batch, head), scores.data());
                       mix_values({.scores = scores.data(),
                                   .values = head_of(value, batch, head),
                                   .stride = value.stride(2),
                                   .scale = scale,
                                   .queries = group,
                                   .steps = steps,
                                   .size = size,
                                   .type = kernel_type(dtype)},
                                  target + i * group * size * width);
                     }
                   });
  return out;
}

const Operator<Tensor(const Tensor&, const Tensor&, const Tensor&, ScalarType)>
    decode_attention_operator(
        "decode_attention(Tensor query, Tensor key, Tensor value, ScalarType dtype) -> Tensor",
        {.reference = decode_by_definition, .cpu = decode_by_heads, .meta = decode_buffer});

}  // namespace

bool takes_decode_attention(const Tensor& query, const Tensor& key, const Tensor& value,
                            ScalarType dtype) {
  const auto fits = [&](const Tensor& t) {
    return is_simd_operand(t) && t.scalar_type() == dtype && t.stride(3) == 1;
  };
  return !torch::GradMode::is_enabled() && is_fused(FusedKernel::kDecodeAttention) &&
         is_simd_operand(query) && query.size(2) == 1 && key.size(2) >= 1 && fits(key) &&
         fits(value);
}

Tensor decode_attention(const Tensor& query, const Tensor& key, const Tensor& value,
                        ScalarType dtype) {
  return decode_attention_operator(query, key, value, dtype);
}

}  // namespace halftone
