// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/attention/attention.h"

#include <ATen/autocast_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/dropout.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/scaled_dot_product_attention.h>

#include <cmath>
#include <limits>
#include <optional>

#include "halftone/core/dtype.h"
#include "halftone/core/error.h"
#include "halftone/kernels/attention/decode_attention.h"
#include "halftone/kernels/gemm/cpu_gemm_config.h"
#include "halftone/kernels/linear/linear.h"

namespace halftone {

using torch::Tensor;

namespace {

struct AttentionCall {
  const Tensor& query;
  const Tensor& key;
  const Tensor& value;
  std::optional<Tensor> mask;
  double dropout;
  bool is_causal;
};

/// In `dtype`; where cpu_gemm_config() says so, on operands upcast to fp32.
Tensor libtorch_attention(const AttentionCall& call, torch::ScalarType dtype) {
  const bool widen = is_half(dtype) && (call.query.is_cpu() || call.query.is_meta()) &&
                     cpu_gemm_config().of(dtype).attention != GemmBackend::kNative;
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  const auto input = [&](const Tensor& t) {
    const Tensor rounded = t.to(dtype);
    return widen ? rounded.to(torch::kFloat) : rounded;
  };
  const bool grouped = call.query.size(1) != call.key.size(1);
  const Tensor out = at::scaled_dot_product_attention(input(call.query), input(call.key),
                                                      input(call.value), call.mask, call.dropout,
                                                      call.is_causal, std::nullopt, grouped);
  return out.to(dtype);
}

/// LibTorch's kernel for the CPU takes a row of scores that are all nan for one that is masked
/// where no vector of scores is full, and gives 0 (2.15). Such rows are short enough for a matrix
/// of them.
constexpr std::int64_t kShortRow = 16;

bool hides_nan(const AttentionCall& call) {
  return (call.query.is_cpu() || call.query.is_meta()) && call.key.size(2) < kShortRow;
}

/// Without a mask of causality, in fp32 (or double), rounded once.
Tensor attention_by_matmuls(const AttentionCall& call, torch::ScalarType dtype) {
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  const std::int64_t shared = call.query.size(1) / call.key.size(1);
  const auto wide = [&](const Tensor& t, std::int64_t repeat) {
    const Tensor upcast = t.to(dtype).to(is_half(dtype) ? torch::kFloat : dtype);
    return repeat == 1 ? upcast : upcast.repeat_interleave(repeat, 1);
  };
  Tensor scores = wide(call.query, 1).matmul(wide(call.key, shared).transpose(-1, -2)) /
                  std::sqrt(static_cast<double>(call.query.size(3)));
  if (call.mask) scores = scores.masked_fill(~*call.mask, -std::numeric_limits<double>::infinity());
  const Tensor weights = at::dropout(scores.softmax(-1), call.dropout, /*train=*/true);
  return weights.matmul(wide(call.value, shared)).to(dtype);
}

Tensor attention_without_mask(const AttentionCall& call, torch::ScalarType dtype) {
  return hides_nan(call) ? attention_by_matmuls(call, dtype) : libtorch_attention(call, dtype);
}

}  // namespace

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
  // Only a prompt that continues a cache has more keys than queries and more than one query.
  std::optional<Tensor> mask;
  if (steps > 1 && keys > steps)
    mask = at::ones({steps, keys}, query.options().dtype(torch::kBool)).tril(keys - steps);
  return libtorch_attention({query, key, value, mask, dropout, steps > 1 && keys == steps}, dtype);
}

Tensor full_attention(const Tensor& query, const Tensor& key, const Tensor& value,
                      const Tensor& lengths, double dropout) {
  HALFTONE_CHECK(query.dim() == 4 && key.dim() == 4 && key.sizes() == value.sizes() &&
                     key.size(0) == query.size(0) && key.size(3) == query.size(3) &&
                     key.size(2) >= 1 && key.size(1) >= 1 && query.size(1) % key.size(1) == 0,
                 "[full_attention] expected query (B, H, T, d) and key and value (B, K, S, d) with "
                 "S >= 1 and H a multiple of K, got ",
                 query.sizes(), ", ", key.sizes(), " and ", value.sizes());
  const torch::ScalarType dtype = compute_dtype(query);
  if (!lengths.defined())
    return attention_without_mask({query, key, value, std::nullopt, dropout, false}, dtype);
  HALFTONE_CHECK(lengths.sizes() == at::IntArrayRef({key.size(0)}) &&
                     lengths.scalar_type() == torch::kLong && lengths.device() == key.device(),
                 "[full_attention] expected lengths (B) int64 on the device of the keys, got ",
                 lengths.sizes(), " in ", lengths.scalar_type(), " on ", lengths.device());
  // A row of scores without any number would be nan: it sees one key, and is not looked at.
  const Tensor seen = lengths.clamp_min(1).view({-1, 1, 1, 1});
  const Tensor mask = at::arange(key.size(2), lengths.options()).view({1, 1, 1, -1}) < seen;
  const Tensor out = attention_without_mask({query, key, value, mask, dropout, false}, dtype);
  return out.masked_fill((lengths < 1).view({-1, 1, 1, 1}), 0.0);
}

}  // namespace halftone
