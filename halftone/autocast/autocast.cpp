// SPDX-License-Identifier: Apache-2.0
#include "halftone/autocast/autocast.h"

#include <ATen/autocast_mode.h>
#include <fmt/format.h>
#include <torch/cuda.h>
#include <torch/types.h>

#include "halftone/core/dtype.h"
#include "halftone/core/error.h"
#include "halftone/core/log.h"

namespace halftone {
namespace {

bool gpu_holds_bfloat16() {
  static const bool supported = [] {
    try {
      torch::zeros({1}, torch::device(torch::kCUDA).dtype(torch::kBFloat16));
      return true;
    } catch (const c10::Error&) {
      return false;
    }
  }();
  return supported;
}

// Whether a region that was asked for can be had.
bool usable(torch::DeviceType device, torch::ScalarType dtype) {
  if (device == torch::kCUDA) {
    if (!torch::cuda::is_available()) {
      log_warning_once("autocast was asked for on CUDA, which is not available: it is off");
      return false;
    }
    HALFTONE_CHECK(dtype != torch::kBFloat16 || gpu_holds_bfloat16(),
                   "[autocast] this GPU does not support bfloat16: use float16 instead");
    return true;
  }
  if (is_half(dtype)) return true;
  log_warning_once(fmt::format("autocast on {} takes bfloat16 or float16, got {}: it is off",
                               c10::DeviceTypeName(device, /*lower_case=*/true),
                               c10::toString(dtype)));
  return false;
}

torch::DeviceType checked(torch::DeviceType device) {
  HALFTONE_CHECK(at::autocast::is_autocast_available(device), "[autocast] device type '",
                 c10::DeviceTypeName(device, /*lower_case=*/true), "' has no autocast");
  return device;
}

// The cache knows a weight's cast but not the dtype it was cast to: a region in another dtype than
// the one around it must not find it.
void forget_casts_of_another_dtype(torch::ScalarType a, torch::ScalarType b) {
  if (a != b) at::autocast::clear_cache();
}

}  // namespace

Autocast::Autocast(torch::DeviceType device, std::optional<torch::ScalarType> dtype, bool enabled,
                   std::optional<bool> cache_enabled)
    : device_(checked(device)),
      dtype_(dtype ? *dtype : at::autocast::get_autocast_dtype(device)),
      enabled_(enabled && usable(device, dtype_)),
      previous_enabled_(at::autocast::is_autocast_enabled(device)),
      previous_dtype_(at::autocast::get_autocast_dtype(device)),
      previous_cache_enabled_(at::autocast::is_autocast_cache_enabled()) {
  forget_casts_of_another_dtype(previous_dtype_, dtype_);
  at::autocast::set_autocast_enabled(device_, enabled_);
  at::autocast::set_autocast_dtype(device_, dtype_);
  at::autocast::increment_nesting();
  at::autocast::set_autocast_cache_enabled(cache_enabled.value_or(previous_cache_enabled_));
}

Autocast::~Autocast() {
  if (at::autocast::decrement_nesting() == 0) at::autocast::clear_cache();
  forget_casts_of_another_dtype(previous_dtype_, dtype_);
  at::autocast::set_autocast_enabled(device_, previous_enabled_);
  at::autocast::set_autocast_dtype(device_, previous_dtype_);
  at::autocast::set_autocast_cache_enabled(previous_cache_enabled_);
}

void clear_autocast_cache() { at::autocast::clear_cache(); }

torch::DeviceType autocast_device(torch::DeviceType device) {
  return device == torch::kMeta ? torch::kCPU : device;
}

bool is_autocast_on(torch::DeviceType device) {
  const torch::DeviceType obeyed = autocast_device(device);
  return at::autocast::is_autocast_available(obeyed) && at::autocast::is_autocast_enabled(obeyed);
}

}  // namespace halftone
