// SPDX-License-Identifier: Apache-2.0
#include "halftone/autocast/cast_policy.h"

#include <fmt/format.h>
#include <torch/library.h>
#include <torch/version.h>

#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string_view>

#include "halftone/autocast/cast_kernel_impl.h"
#include "halftone/core/error.h"

namespace halftone {
namespace {

using torch::DeviceType;
using torch::ScalarType;
using torch::Tensor;

torch::jit::Stack::iterator first_argument(const c10::OperatorHandle& op,
                                           torch::jit::Stack* stack) {
  return stack->end() - static_cast<std::ptrdiff_t>(op.schema().arguments().size());
}

/// Its errors, such as for fp16 among bf16, are LibTorch's.
ScalarType widest(DeviceType device, const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  ScalarType dtype = at::autocast::get_autocast_dtype(device);
  for (auto argument = first_argument(op, stack); argument != stack->end(); ++argument) {
    if (argument->isTensor()) {
      dtype = at::autocast::prioritize(dtype, argument->toTensor(), device);
    } else if (argument->isTensorList()) {
      dtype = at::autocast::prioritize(dtype, at::TensorList(argument->toTensorVector()), device);
    }
  }
  return dtype;
}

void ask_for_fp32(DeviceType device, const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const auto first = first_argument(op, stack);
  const std::optional<int> dtype = op.schema().argumentIndexWithName("dtype");
  if (first->isTensor() && at::autocast::is_eligible(first->toTensor(), device) &&
      first[*dtype].isNone())
    first[*dtype] = torch::kFloat;
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(
      at::autocast::get_autocast_dispatch_key_from_device_type(device));
  op.callBoxed(stack);
}

class PolicyKernel final : public c10::OperatorKernel {
 public:
  PolicyKernel(CastPolicy policy, DeviceType device) : policy_(policy), device_(device) {}

  void operator()(const c10::OperatorHandle& op, c10::DispatchKeySet, torch::jit::Stack* stack) {
    const bool kept = takes_kept_tensor(op, *stack);
    switch (kept ? CastPolicy::kFp32 : policy_) {
      case CastPolicy::kLowerPrecision:
        return call_in(at::autocast::get_autocast_dtype(device_), device_, op, stack);
      case CastPolicy::kFp32:
        return call_in(torch::kFloat, device_, op, stack);
      case CastPolicy::kFp32Dtype:
        return ask_for_fp32(device_, op, stack);
      case CastPolicy::kWidest:
        return call_in(widest(device_, op, stack), device_, op, stack);
      case CastPolicy::kRefused:
        HALFTONE_CHECK(false, "[autocast] ", op.operator_name(),
                       " is unsafe under autocast: call it in a region where autocast is off");
    }
  }

 private:
  CastPolicy policy_;
  DeviceType device_;
};

constexpr std::string_view kTorch = "aten::";

std::string table_of(DeviceType device) {
  const std::vector<AutocastEntry> entries = autocast_policy(device);
  const auto names_with = [&](CastPolicy policy) {
    std::string names;
    for (const AutocastEntry& entry : entries)
      if (entry.policy == policy && entry.op.starts_with(kTorch))
        names += fmt::format("{}`{}`", names.empty() ? "" : " ", entry.op.substr(kTorch.size()));
    return names.empty() ? std::string("none") : names;
  };
  return fmt::format(
      "| policy | operations |\n|---|---|\n"
      "| low precision | {} |\n| fp32 | {} |\n| fp32 by their dtype argument | {} |\n"
      "| widest | {} |\n| refused | {} |\n",
      names_with(CastPolicy::kLowerPrecision), names_with(CastPolicy::kFp32),
      names_with(CastPolicy::kFp32Dtype), names_with(CastPolicy::kWidest),
      names_with(CastPolicy::kRefused));
}

}  // namespace

std::string autocast_reference() {
  return fmt::format(
      "# What autocast does to each operation\n\n"
      "<!-- Written by autocast_reference() (halftone/autocast/cast_policy.h); to write it again:\n"
      "     HALFTONE_UPDATE_DOCS=1 build/tests/autocast/autocast_tests -->\n\n"
      "Under `halftone::Autocast` LibTorch casts the floating arguments of these operations of "
      "its\n"
      "namespace `aten`. An operation that is not listed runs in the dtype of its inputs, as do\n"
      "in-place forms and those with `out=`. `double` and integers are never cast.\n\n"
      "- **low precision**: to the region's dtype, fp16 or bf16.\n"
      "- **fp32**: to fp32.\n"
      "- **fp32 by their dtype argument**: as they are, but computed and returned in fp32 unless\n"
      "  the call names a dtype.\n"
      "- **widest**: to fp32 if one of them is, else to the region's dtype; fp16 among bf16 is an\n"
      "  error.\n"
      "- **refused**: an error under autocast.\n\n"
      "The lists of the devices differ: on the CPU `softmax`, `layer_norm`, `exp` or `sum` of a\n"
      "bf16 tensor give bf16. Layers of this library that must not depend on it turn autocast off\n"
      "inside. Lists of LibTorch {}.\n\n"
      "## CPU\n\n{}\n## CUDA\n\n{}",
      TORCH_VERSION, table_of(torch::kCPU), table_of(torch::kCUDA));
}

void register_autocast(const std::string& op, DeviceType device, CastPolicy policy) {
  static std::mutex mutex;
  static std::map<std::pair<std::string, DeviceType>, torch::Library> registered;
  HALFTONE_CHECK(at::autocast::is_autocast_available(device), "[register_autocast] device type '",
                 c10::DeviceTypeName(device, /*lower_case=*/true), "' has no autocast");
  const std::size_t colons = op.find("::");
  HALFTONE_CHECK(colons != std::string::npos && colons > 0,
                 "[register_autocast] expected \"namespace::operation\", got \"", op, "\"");
  const std::string space = op.substr(0, colons);
  HALFTONE_CHECK(space != "aten", "[register_autocast] ", op,
                 " is LibTorch's own: its policy is in autocast_policy()");
  const c10::OperatorHandle handle = find_op(op);
  HALFTONE_CHECK(policy != CastPolicy::kFp32Dtype || handle.schema().argumentIndexWithName("dtype"),
                 "[register_autocast] expected an argument `ScalarType? dtype`, got ",
                 handle.schema());
  const auto key = at::autocast::get_autocast_dispatch_key_from_device_type(device);
  const std::lock_guard lock(mutex);
  HALFTONE_CHECK(!handle.hasKernelForDispatchKey(key), "[register_autocast] ", op,
                 " has a policy on ", c10::DeviceTypeName(device, /*lower_case=*/true), " already");
  torch::Library library(torch::Library::IMPL, space, key, __FILE__, __LINE__);
  library.impl(op.c_str(), torch::CppFunction::makeFromBoxedFunctor(
                               std::make_unique<PolicyKernel>(policy, device)));
  registered.emplace(std::pair(op, device), std::move(library));
}

}  // namespace halftone
