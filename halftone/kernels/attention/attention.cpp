// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/attention/attention.h"

#include <ATen/autocast_mode.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/scaled_dot_product_attention.h>

#include <optional>

#include "halftone/core/dtype.h"
#include "halftone/core/error.h"
#include "halftone/kernels/attention/decode_attention.h"
#include "halftone/kernels/gemm/cpu_gemm_config.h"
#include "halftone/kernels/linear/linear.h"

namespace halftone {

using torch::Tensor;

Tensor causal_attention(const Tensor& query, const Tensor& key, const Tensor& value,
                        double dropout) {
  const torch::ScalarType dtype = compute_dtype(query);
  const bool decodes = query.size(2) == 1 && key.size(2) >= 1 && key.sizes() == value.sizes() &&
                       key.size(0) == query.size(0) && key.size(3) == query.size(3) &&
                       !torch::GradMode::is_enabled();
  return decodes && dropout == 0.0 ? decode_attention(query, key, value, dtype)
                                   : causal_attention_reference(query, key, value, dropout, dtype);
}

Tensor causal_attention_reference(const Tensor& query, const Tensor& key, const Tensor& value,
                                  double dropout, torch::ScalarType dtype) {
  const std::int64_t steps = query.size(2);
  const std::int64_t keys = key.size(2);
  HALFTONE_CHECK(keys >= steps,
                 "[causal_attention] expected at least as many keys as queries, got ", keys,
                 " and ", steps);
  const bool widen = is_half(dtype) && query.is_cpu() &&
                     cpu_gemm_config().of(dtype).attention != GemmBackend::kNative;
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  const auto input = [&](const Tensor& t) {
    const Tensor rounded = t.to(dtype);
    return widen ? rounded.to(torch::kFloat) : rounded;
  };
  // Only a prompt that continues a cache has more keys than queries and more than one query.
  std::optional<Tensor> mask;
  if (steps > 1 && keys > steps)
    mask = at::ones({steps, keys}, query.options().dtype(torch::kBool)).tril(keys - steps);
  const bool grouped = query.size(1) != key.size(1);
  const Tensor out =
      at::scaled_dot_product_attention(input(query), input(key), input(value), mask, dropout,
                                       steps > 1 && keys == steps, std::nullopt, grouped);
  return out.to(dtype);
}

}  // namespace halftone
