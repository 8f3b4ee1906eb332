// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "halftone/autocast/keep_fp32.h"
#include "halftone/core/dtype.h"
#include "halftone/diagnostics/profile/fp32_reason_impl.h"
#include "halftone/diagnostics/profile/operation_tensors_impl.h"
#include "halftone/inspect/recorder_impl.h"
#include "halftone/nn/moe.h"

namespace halftone {
namespace {

/// What our operations promise in every precision.
struct Contract {
  const char* operation;  // without the namespace; also what it is part of
  const char* reason;
};
constexpr std::array kContracts = {
    Contract{"rms_norm", "norms keep statistics and the residual stream in fp32"},
    Contract{"rms_norm_gradient", "norms keep statistics and the residual stream in fp32"},
    Contract{"cross_entropy", "losses are computed in fp32"},
    Contract{"cross_entropy_to_gradient_", "losses are computed in fp32"},
    Contract{"linear_cross_entropy", "losses are computed in fp32"},
    Contract{"embedding", "embeddings are looked up in the weights' dtype"},
    Contract{"embedding_gradient", "embeddings are looked up in the weights' dtype"}};

std::string contract_of(const std::string& operation) {
  if (!is_own_operation(operation)) return "";
  const std::string name = operation.substr(operation.find("::") + 2);
  const auto* const found =
      std::find_if(kContracts.begin(), kContracts.end(),
                   [&](const Contract& one) { return name == one.operation; });
  return found != kContracts.end() ? found->reason : "";
}

bool is_wide(torch::ScalarType dtype) { return dtype == torch::kFloat || dtype == torch::kDouble; }

bool reads_wide(const OperationCall& call) {
  return reads_dtype(call, torch::kFloat) || reads_dtype(call, torch::kDouble);
}

bool reads_half(const OperationCall& call) {
  return reads_dtype(call, torch::kBFloat16) || reads_dtype(call, torch::kHalf);
}

bool is_linear_of_ours(const std::string& operation) {
  return is_own_operation(operation) &&
         (operation.ends_with("::linear") || operation.ends_with("::linear_cross_entropy"));
}

}  // namespace

Fp32Reasons::Fp32Reasons(const torch::nn::Module& network, const PrecisionPolicy& policy,
                         torch::DeviceType device)
    : policy_(policy) {
  if (!policy.is_mixed()) return;
  for (const auto& item : network.named_parameters())
    if (keeps_fp32(item.value())) kept_.insert(item.key());
  for (const auto& item : network.named_modules("", /*include_self=*/false))
    if (dynamic_cast<const MoeGateImpl*>(item.value().get()) != nullptr)
      routers_.insert(item.key());
  if (!policy.autocast() || (device != torch::kCPU && device != torch::kCUDA)) return;
  for (const AutocastEntry& entry : autocast_policy(device)) {
    const std::string name = entry.op.substr(0, entry.op.find('.'));
    lists_.emplace(name, entry.policy);  // overloads agree where it matters
  }
}

std::string Fp32Reasons::reason(const EndedOperation& operation) {
  if (!policy_.is_mixed() || !computes_in_fp32(operation)) return "";
  const std::string reason =
      operation.site.is_backward ? backward_reason(operation) : forward_reason(operation);
  if (!operation.site.is_backward) known_[{operation.site.module, operation.call.name}] = reason;
  return reason;
}

bool Fp32Reasons::computes_in_fp32(const EndedOperation& operation) const {
  const OperationCall& call = operation.call;
  if (is_cast(call) || moves_no_data(call)) return false;
  if (!operation.work.matmuls.empty()) return is_wide(operation.work.matmuls.front().dtype);
  return reads_wide(call);
}

std::string Fp32Reasons::forward_reason(const EndedOperation& operation) const {
  const bool multiplies = !operation.work.matmuls.empty();
  if (const std::string kept = kept_parameter(operation.site); !kept.empty() && multiplies)
    return fmt::format("keep_fp32 marks '{}'", kept);
  if (is_upcast(operation)) return general_reason(operation);
  for (const std::string& name : operation.around)
    if (const std::string contract = contract_of(name); !contract.empty()) return contract;
  if (const std::string contract = contract_of(operation.call.name); !contract.empty())
    return contract;
  if (routers_.contains(operation.site.module)) return "routers always compute in fp32";
  if (const std::string listed = on_fp32_list(operation); !listed.empty())
    return fmt::format("autocast's fp32 list ({})", listed);
  if (const std::string kept = kept_parameter(operation.site); !kept.empty())
    return fmt::format("keep_fp32 marks '{}'", kept);
  return general_reason(operation);
}

std::string Fp32Reasons::backward_reason(const EndedOperation& operation) const {
  if (const std::string contract = contract_of(operation.call.name); !contract.empty())
    return contract;
  const Site& site = operation.site;
  if (!operation.work.matmuls.empty())
    if (const std::string kept = kept_parameter(site); !kept.empty())
      return fmt::format("keep_fp32 marks '{}'", kept);
  if (is_upcast(operation)) return general_reason(operation);
  const auto known = known_.find({site.module, site.forward});
  if (known != known_.end()) return known->second;
  if (const std::string contract = contract_of(site.forward); !contract.empty()) return contract;
  if (is_linear_of_ours(site.forward)) return "weight gradients are added up in fp32";
  return general_reason(operation);
}

std::string Fp32Reasons::general_reason(const EndedOperation& operation) const {
  const OperationCall& call = operation.call;
  if (is_upcast(operation))
    return fmt::format("this machine multiplies {} upcast to fp32 (--kernels.matmul)",
                       dtype_name(policy_.compute_dtype()));
  if (reads_dtype(call, torch::kDouble)) return "double: autocast never casts it";
  if (policy_.quantizes() && policy_.compute_dtype() == torch::kFloat)
    return fmt::format("{} quantizes linear layers alone", policy_.name);
  if (reads_half(call)) return "promotes: one operand is fp32";
  if (!operation.site.is_backward && is_on_lower_list(call.name)) return "autocast is off here";
  return operation.site.is_backward ? "its gradient is fp32"
                                    : "autocast leaves it in its inputs' fp32";
}

std::string Fp32Reasons::kept_parameter(const Site& site) const {
  if (kept_.empty() || !site.reads_parameter) return "";
  const auto found = std::find_if(site.parameters.begin(), site.parameters.end(),
                                  [&](const std::string& name) { return kept_.contains(name); });
  return found != site.parameters.end() ? *found : "";
}

std::string Fp32Reasons::on_fp32_list(const EndedOperation& operation) const {
  const auto is_listed = [&](const std::string& name) {
    const auto entry = lists_.find(name);
    return entry != lists_.end() &&
           (entry->second == CastPolicy::kFp32 || entry->second == CastPolicy::kFp32Dtype);
  };
  if (operation.site.is_backward) return "";
  for (const std::string& name : operation.around)
    if (is_listed(name)) return name;
  return is_listed(operation.call.name) ? operation.call.name : "";
}

bool Fp32Reasons::is_on_lower_list(const std::string& operation) const {
  const auto entry = lists_.find(operation);
  return entry != lists_.end() && entry->second == CastPolicy::kLowerPrecision;
}

bool Fp32Reasons::is_upcast(const EndedOperation& operation) const {
  if (operation.work.matmuls.empty() || !is_half(policy_.compute_dtype()) ||
      operation.work.matmuls.front().dtype != torch::kFloat ||
      !kept_parameter(operation.site).empty())
    return false;
  return is_linear_of_ours(operation.site.forward) ||
         std::any_of(operation.around.begin(), operation.around.end(), is_linear_of_ours);
}

}  // namespace halftone
