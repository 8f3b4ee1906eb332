// SPDX-License-Identifier: Apache-2.0
#include "halftone/autocast/custom_function.h"

#include <ATen/autocast_mode.h>

#include <string>

#include "halftone/core/error.h"

namespace halftone {
namespace {

using torch::DeviceType;
using torch::ScalarType;
using torch::autograd::AutogradContext;

constexpr const char* kEnabled = "halftone.autocast";
constexpr const char* kDtype = "halftone.autocast_dtype";
constexpr const char* kDevice = "halftone.autocast_device";

thread_local bool declared_in_this_thread = false;

}  // namespace

CustomForward::CustomForward(AutogradContext* ctx, DeviceType device,
                             std::optional<ScalarType> cast_inputs)
    : device_(device) {
  const bool enabled = at::autocast::is_autocast_enabled(device);
  if (enabled && cast_inputs) {
    cast_to_ = cast_inputs;
    autocast_off_.emplace(device, std::nullopt, /*enabled=*/false);
  }
  ctx->saved_data[kEnabled] = enabled && !cast_inputs;
  ctx->saved_data[kDtype] = static_cast<std::int64_t>(at::autocast::get_autocast_dtype(device));
  ctx->saved_data[kDevice] = static_cast<std::int64_t>(device);
  declared_in_this_thread = true;
}

torch::Tensor CustomForward::cast(const torch::Tensor& x) const {
  return cast_to_ && at::autocast::is_eligible(x, device_) ? x.to(*cast_to_) : x;
}

CustomForward custom_fwd(AutogradContext* ctx, DeviceType device,
                         std::optional<ScalarType> cast_inputs) {
  return CustomForward(ctx, device, cast_inputs);
}

Autocast custom_bwd(AutogradContext* ctx) {
  HALFTONE_CHECK(ctx->saved_data.count(kEnabled) == 1,
                 "[custom_bwd] expected a forward() that begins with custom_fwd(ctx, device), got "
                 "one that does not");
  return Autocast(static_cast<DeviceType>(ctx->saved_data[kDevice].toInt()),
                  static_cast<ScalarType>(ctx->saved_data[kDtype].toInt()),
                  ctx->saved_data[kEnabled].toBool());
}

namespace internal {

DeclarationWatch::DeclarationWatch() : outer_(declared_in_this_thread) {
  declared_in_this_thread = false;
}
DeclarationWatch::~DeclarationWatch() { declared_in_this_thread = outer_; }
bool DeclarationWatch::declared() const { return declared_in_this_thread; }

void refuse_undeclared(const std::string& function) {
  HALFTONE_CHECK(
      false, "[autocast] ", function,
      "::forward ran under autocast, which may give it inputs of several dtypes, without "
      "saying how it wants them: begin it with halftone::custom_fwd(ctx, device) and its "
      "backward with halftone::custom_bwd(ctx)");
}

bool any_autocast_enabled() {
  return at::autocast::is_autocast_enabled(torch::kCPU) ||
         at::autocast::is_autocast_enabled(torch::kCUDA);
}

}  // namespace internal
}  // namespace halftone
