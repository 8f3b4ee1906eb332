// SPDX-License-Identifier: Apache-2.0
#include "halftone/nn/rope.h"

#include <ATen/autocast_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/outer.h>
#include <ATen/ops/polar.h>

#include <algorithm>

#include "halftone/core/error.h"

namespace halftone {
namespace {

using torch::Tensor;

Tensor rotations_up_to(std::int64_t count, std::int64_t head_dim, double theta,
                       torch::Device device) {
  // A table made while generating must serve training later: not an inference tensor.
  const c10::InferenceMode no_inference(false);
  const torch::NoGradGuard no_grad;
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  const auto fp32 = torch::dtype(torch::kFloat).device(device);
  if (device.is_meta()) return at::empty({count, head_dim / 2}, fp32.dtype(torch::kComplexFloat));
  const Tensor exponents = at::arange(0, head_dim, 2, fp32).div(static_cast<double>(head_dim));
  const Tensor frequencies = at::pow(theta, exponents).reciprocal();
  const Tensor angles = at::outer(at::arange(count, fp32), frequencies);
  return at::polar(at::ones_like(angles), angles);
}

}  // namespace

RopeTable::RopeTable(std::int64_t head_dim, double theta) : head_dim_(head_dim), theta_(theta) {
  HALFTONE_CHECK(head_dim > 0 && head_dim % 2 == 0, "[rope] expected an even head_dim, got ",
                 head_dim);
}

Tensor RopeTable::rows(std::int64_t begin, std::int64_t count, torch::Device device) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const std::int64_t end = begin + count;
  if (!table_.defined() || table_.size(0) < end || table_.device() != device) {
    const std::int64_t held = table_.defined() ? table_.size(0) : 256;
    const std::int64_t size = end <= held ? held : std::max(end, 2 * held);
    table_ = rotations_up_to(size, head_dim_, theta_, device);
  }
  return table_.narrow(0, begin, count);
}

}  // namespace halftone
