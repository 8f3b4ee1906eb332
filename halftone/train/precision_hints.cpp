// SPDX-License-Identifier: Apache-2.0
#include "halftone/train/precision_hints.h"

#include <fmt/format.h>
#include <torch/nn/modules/embedding.h>
#include <torch/nn/modules/linear.h>

#include <algorithm>
#include <mutex>
#include <optional>
#include <set>
#include <unordered_set>

#include "halftone/core/device.h"
#include "halftone/core/dtype.h"
#include "halftone/core/log.h"
#include "halftone/kernels/gemm/matmul_format.h"
#include "halftone/nn/embedding.h"

namespace halftone {
namespace {

using Hint = std::optional<std::string>;

constexpr std::int64_t kSmallModel = 1'000'000;
constexpr std::int64_t kTensorCoreMultiple = 8;
// The first generations with Tensor Cores for the dtype: Volta and Ampere.
constexpr int kFp16TensorCores = 70;
constexpr int kBf16TensorCores = 80;

bool is_bf16(const HintInputs& facts) { return facts.policy.compute_dtype() == torch::kBFloat16; }
std::string format_name(const HintInputs& facts) {
  return std::string(to_string(facts.policy.compute));
}

bool has_tensor_cores(const HintInputs& facts, bool bf16) {
  return facts.compute_capability >= (bf16 ? kBf16TensorCores : kFp16TensorCores);
}

bool hardware_multiplies(const HintInputs& facts, bool bf16) {
  if (facts.device == torch::kCUDA) return has_tensor_cores(facts, bf16);
  return bf16 ? facts.cpu.multiplies_bf16() : facts.cpu.multiplies_fp16();
}

Hint small_model(const HintInputs& facts) {
  if (facts.parameters >= kSmallModel) return {};
  return fmt::format(
      "the model has {} parameters: below a million, {} gains no speed, because a step spends its "
      "time on other things than matmuls; 32-true is as fast and simpler",
      facts.parameters, facts.policy.name);
}

Hint cpu_without_instructions(const HintInputs& facts) {
  const std::string format = format_name(facts);
  const std::string torch_linear =
      !facts.has_torch_linear
          ? ""
          : fmt::format(
                "; torch::nn::Linear takes LibTorch's {} matmuls, which can be many times slower "
                "still: halftone::Linear chooses by measurement",
                format);
  if (!hardware_multiplies(facts, is_bf16(facts)))
    return fmt::format(
        "this CPU has no instructions for {0} ({1}): matmuls of {0} matrices run at the speed of "
        "fp32 at best{2}",
        format,
        is_bf16(facts) ? "AVX512_BF16, AMX_BF16 or Arm's BF16"
                       : "AVX512_FP16, AMX_FP16 or Arm's FP16",
        torch_linear);
  const GemmBackends& paths = is_bf16(facts) ? facts.matmuls.bf16 : facts.matmuls.fp16;
  const bool all_upcast = paths.forward == GemmBackend::kUpcast &&
                          paths.input_gradient == GemmBackend::kUpcast &&
                          paths.weight_gradient == GemmBackend::kUpcast;
  if (!all_upcast) return {};
  return fmt::format(
      "LibTorch's {0} matmuls were measured to be no faster than fp32 on this CPU, so {0} "
      "matrices are multiplied at the speed of fp32{1}",
      format, torch_linear);
}

Hint gpu_without_tensor_cores(const HintInputs& facts) {
  if (has_tensor_cores(facts, is_bf16(facts))) return {};
  const bool fp16_instead = is_bf16(facts) && has_tensor_cores(facts, false);
  return fmt::format(
      "this GPU (compute capability {}.{}) has no Tensor Cores for {}: matmuls gain "
      "little{}",
      facts.compute_capability / 10, facts.compute_capability % 10, format_name(facts),
      fp16_instead ? "; it has them for fp16 (16-mixed)" : "");
}

Hint missing_instructions(const HintInputs& facts) {
  return facts.device == torch::kCUDA ? gpu_without_tensor_cores(facts)
                                      : cpu_without_instructions(facts);
}

Hint batch_for_tensor_cores(const HintInputs& facts) {
  if (!has_tensor_cores(facts, is_bf16(facts)) || facts.batch_size % kTensorCoreMultiple == 0)
    return {};
  return fmt::format(
      "the batch size is {}: Tensor Cores are fast on multiples of {}; {} is the next",
      facts.batch_size, kTensorCoreMultiple,
      (facts.batch_size / kTensorCoreMultiple + 1) * kTensorCoreMultiple);
}

Hint widths_for_tensor_cores(const HintInputs& facts) {
  if (!has_tensor_cores(facts, is_bf16(facts))) return {};
  const auto odd = [](const WeightShape& weight) {
    return weight.in % kTensorCoreMultiple != 0 || weight.out % kTensorCoreMultiple != 0;
  };
  const auto first = std::find_if(facts.widths.begin(), facts.widths.end(), odd);
  if (first == facts.widths.end()) return {};
  const auto more = std::count_if(first + 1, facts.widths.end(), odd);
  return fmt::format(
      "{} takes {} inputs to {} outputs{}: Tensor Cores are fast on widths that are multiples of "
      "{}, so pad what can be padded",
      first->name, first->in, first->out, more == 0 ? "" : fmt::format(", and {} more", more),
      kTensorCoreMultiple);
}

Hint remark(const HintInputs& facts) {
  const std::string text = matmul_format(facts.policy.compute).remark(facts.device);
  return text.empty() ? Hint() : Hint(text);
}

Hint bf16_is_free(const HintInputs& facts) {
  if (is_bf16(facts) || !facts.policy.loss_scaling) return {};
  // As fast here, or neither of them is fast.
  if (!hardware_multiplies(facts, true) && hardware_multiplies(facts, false)) return {};
  const std::string other = facts.policy.is_mixed() ? "bf16-mixed" : "bf16-true";
  return fmt::format(
      "{} is no slower than {} on this {} and needs no loss scale, because bf16 has the range of "
      "fp32; fp16 has 3 bits more of precision in return",
      other, facts.policy.name, facts.device == torch::kCUDA ? "GPU" : "CPU");
}

bool is_embedding(const torch::nn::Module& module) {
  return module.as<torch::nn::EmbeddingImpl>() != nullptr || module.as<EmbeddingImpl>() != nullptr;
}

void add_widths(const std::string& path, const torch::nn::Module& module, HintInputs& facts) {
  if (is_embedding(module)) return;
  for (const auto& entry : module.named_parameters(/*recurse=*/false)) {
    const torch::Tensor& weight = entry.value();
    if (weight.dim() < 2) continue;
    facts.widths.push_back(
        {path.empty() ? entry.key() : path + "." + entry.key(), weight.size(1), weight.size(0)});
  }
}

}  // namespace

HintInputs collect_hint_inputs(const torch::nn::Module& module, const PrecisionPolicy& policy,
                               torch::Device device, std::int64_t batch_size) {
  HintInputs facts{.policy = policy,
                   .device = device.type(),
                   .batch_size = batch_size,
                   .compute_capability = cuda_compute_capability(device),
                   .cpu = this_processor().features};
  std::unordered_set<const c10::TensorImpl*> counted;
  for (const torch::Tensor& parameter : module.parameters())
    if (counted.insert(parameter.unsafeGetTensorImpl()).second)
      facts.parameters += parameter.numel();
  add_widths("", module, facts);
  for (const auto& entry : module.named_modules("", /*include_self=*/false)) {
    add_widths(entry.key(), *entry.value(), facts);
    facts.has_torch_linear |= entry.value()->as<torch::nn::LinearImpl>() != nullptr;
  }
  if (device.is_cpu() && is_half(policy.compute_dtype())) facts.matmuls = cpu_gemm_config();
  return facts;
}

std::vector<std::string> precision_hints(const HintInputs& facts) {
  if (facts.policy.compute == ComputeType::kFloat32) return {};
  std::vector<Hint (*)(const HintInputs&)> rules = {small_model, remark};
  if (is_half(facts.policy.compute_dtype()) && !facts.policy.quantizes())
    rules.insert(rules.end(), {missing_instructions, batch_for_tensor_cores,
                               widths_for_tensor_cores, bf16_is_free});
  std::vector<std::string> sentences;
  for (const auto rule : rules)
    if (Hint sentence = rule(facts)) sentences.push_back(std::move(*sentence));
  return sentences;
}

void log_hints(const std::vector<std::string>& sentences) {
  static std::mutex mutex;
  static std::set<std::string> said;
  for (const std::string& sentence : sentences) {
    {
      const std::lock_guard lock(mutex);
      if (!said.insert(sentence).second) continue;
    }
    log_note(sentence);
  }
}

}  // namespace halftone
