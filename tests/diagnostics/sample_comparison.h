// SPDX-License-Identifier: Apache-2.0
// A comparison as compare_precisions() makes it, without computing one: fp16 without a loss scale.
#pragma once

#include <fmt/format.h>

#include <cmath>
#include <string>
#include <vector>

#include "halftone/diagnostics/compare/compare.h"

namespace halftone::test {

/// Values spread like a bell over powers of two around 2^middle.
inline ExponentHistogram sample_histogram(int middle, int spread, double count) {
  ExponentHistogram histogram{.first = middle - 3 * spread};
  for (int e = -3 * spread; e <= 2 * spread; ++e)
    histogram.counts.push_back(
        std::llround(count * std::exp(-0.5 * std::pow(double(e) / spread, 2)) / (2.5 * spread)));
  histogram.zeros = std::llround(count / 50);
  return histogram;
}

/// The share of a histogram below 2^exponent.
inline double share_below(const ExponentHistogram& histogram, int exponent) {
  double below = 0, all = double(histogram.zeros);
  for (std::size_t i = 0; i < histogram.counts.size(); ++i) {
    all += double(histogram.counts[i]);
    if (histogram.first + int(i) < exponent) below += double(histogram.counts[i]);
  }
  return all > 0 ? below / all : 0;
}

inline TensorComparison sample_tensor(ComparedKind kind, const std::string& module,
                                      const std::string& name, const std::string& operation,
                                      std::vector<std::int64_t> shape, int middle) {
  double count = 1;
  for (const std::int64_t size : shape) count *= double(size);
  constexpr int kFlushedBelow = -25;  // of fp16
  TensorComparison tensor{.kind = kind,
                          .name = name,
                          .module = module,
                          .operation = operation,
                          .shape = std::move(shape),
                          .dtype = kind == ComparedKind::kGradient ? "fp32" : "fp16",
                          .max_abs = std::ldexp(1.3, middle + 6),
                          .min_abs = std::ldexp(1.1, middle - 9),
                          .tolerance = 4.1e-4 * (1 + 0.1 * std::abs(middle % 5)),
                          .exponents = sample_histogram(middle, 3, count)};
  tensor.flush_if_stored_share = share_below(tensor.exponents, kFlushedBelow);
  tensor.flushed_share = kind == ComparedKind::kActivation ? 0 : tensor.flush_if_stored_share;
  tensor.relative_error = tensor.tolerance * 0.9 + std::sqrt(tensor.flushed_share) * 0.4;
  tensor.cosine = 1 - 0.5 * tensor.relative_error * tensor.relative_error;
  tensor.largest_ulp = tensor.flushed_share > 0 ? 41 : 0.9;
  if (tensor.relative_error > 3 * tensor.tolerance) tensor.verdict = TensorVerdict::kUnderflow;
  tensor.what_if = {
      {"bf16", {.relative_error = 0.00166}},
      {"fp16",
       {.relative_error = tensor.relative_error,
        .flushed_share = tensor.flush_if_stored_share,
        .flushed_norm = tensor.flushed_share / 3}},
      {"fp8-e4m3", {.relative_error = 0.026, .flushed_share = 0.031, .flushed_norm = 0.001}},
      {"fp8-e5m2", {.relative_error = 0.052, .flushed_share = 0.0004}},
      {"int8", {.relative_error = 0.021, .flushed_share = 0.06, .flushed_norm = 0.009}}};
  return tensor;
}

inline void add_sample_layer(Comparison& comparison, int layer) {
  using Kind = ComparedKind;
  const std::string block = fmt::format("layers.{}", layer);
  const auto add = [&](const std::string& part, const std::string& operation,
                       std::vector<std::int64_t> shape, int middle) {
    const std::string module = block + "." + part;
    const std::string name = fmt::format("{} halftone::{} #0.0", module, operation);
    comparison.tensors.push_back(sample_tensor(Kind::kActivation, module, name,
                                               "halftone::" + operation, shape, -2 + layer % 2));
    comparison.tensors.push_back(sample_tensor(Kind::kActivationGradient, module, name,
                                               "halftone::" + operation, shape, middle));
  };
  const auto add_gradient = [&](const std::string& module, std::vector<std::int64_t> shape,
                                int middle) {
    comparison.tensors.push_back(sample_tensor(Kind::kGradient, block + "." + module,
                                               block + "." + module + ".weight", "",
                                               std::move(shape), middle));
  };
  add("attention_norm", "rms_norm", {8, 256, 512}, -19);
  add("attention", "rotary_attention", {8, 256, 512}, -20 - layer);
  add("attention.wo", "linear", {8, 256, 512}, -18);
  add("feed_forward", "swiglu", {8, 256, 1408}, -21 - layer);
  for (const char* part : {"attention.wq", "attention.wk", "attention.wv", "attention.wo"})
    add_gradient(part, {512, part[11] == 'k' || part[11] == 'v' ? 128 : 512}, -13);
  for (const char* part : {"feed_forward.w1", "feed_forward.w3", "feed_forward.w2"})
    add_gradient(part, {1408, 512}, -15 - layer);
  add_gradient("attention_norm", {512}, -8);
  add_gradient("ffn_norm", {512}, -8);
}

/// `layers` blocks; the lowest ones lose most.
inline Comparison sample_comparison(int layers = 2) {
  Comparison comparison{.precision = "16-mixed",
                        .against = "32-true",
                        .format = "fp16",
                        .loss_scale = 1,
                        .loss = 4.25631,
                        .reference_loss = 4.25607,
                        .loss_tolerance = 0.00021};
  for (int layer = 0; layer < layers; ++layer) add_sample_layer(comparison, layer);
  comparison.tensors.push_back(
      sample_tensor(ComparedKind::kGradient, "norm", "norm.weight", "", {512}, -7));
  comparison.tensors.push_back(sample_tensor(ComparedKind::kGradient, "tok_embeddings",
                                             "tok_embeddings.weight", "", {6400, 512}, -16));
  comparison.judgement = {.verdict = Verdict::kChangeScale,
                          .reason =
                              "with a loss scale of 65536 every gradient stays within its "
                              "tolerance; 1 flushes gradients to zero that count",
                          .least_scale = 512,
                          .most_scale = 1048576,
                          .config = "precision = \"16-mixed\"\nloss_scale = \"65536\"\n",
                          .verified = true};
  return comparison;
}

}  // namespace halftone::test
