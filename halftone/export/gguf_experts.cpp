// SPDX-License-Identifier: Apache-2.0
#include "halftone/export/gguf_experts.h"

#include <ATen/ops/stack.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "halftone/core/error.h"

namespace halftone {
namespace {

using torch::Tensor;

struct ExpertMatrix {
  std::string_view gguf;
  std::string_view theirs;  // Hugging Face's
};
constexpr std::array<ExpertMatrix, 3> kExpertMatrices{
    {{"ffn_gate_exps", "gate_proj"}, {"ffn_down_exps", "down_proj"}, {"ffn_up_exps", "up_proj"}}};

std::string stack_name(std::int64_t layer, const ExpertMatrix& matrix) {
  return fmt::format("blk.{}.{}.weight", layer, matrix.gguf);
}

std::string expert_name(std::int64_t layer, std::int64_t expert, const ExpertMatrix& matrix) {
  return fmt::format("model.layers.{}.mlp.experts.{}.{}.weight", layer, expert, matrix.theirs);
}

void for_each_stack(const ModelConfig& config,
                    const std::function<void(std::int64_t, const ExpertMatrix&)>& visit) {
  if (!config.use_moe) return;
  for (std::int64_t layer = 0; layer < config.n_layers; ++layer)
    for (const ExpertMatrix& matrix : kExpertMatrices) visit(layer, matrix);
}

/// Reads a stack for its first expert, and lets go of it behind its last.
class StackReader {
 public:
  StackReader(StateDict::Read read, std::int64_t experts)
      : read_(std::move(read)), experts_(experts) {}

  Tensor expert(std::int64_t index) {
    if (!stack_.defined()) stack_ = read_();
    Tensor matrix = stack_.select(0, index).clone();
    if (++given_ < experts_) return matrix;
    given_ = 0;
    stack_ = Tensor();
    return matrix;
  }

 private:
  StateDict::Read read_;
  std::int64_t experts_;
  std::int64_t given_ = 0;  // of the stack that is held
  Tensor stack_;
};

}  // namespace

void stack_experts(StateDict& state, const ModelConfig& config) {
  for_each_stack(config, [&](std::int64_t layer, const ExpertMatrix& matrix) {
    std::vector<Tensor> experts;
    for (std::int64_t e = 0; e < config.n_routed_experts; ++e) {
      const auto found = state.tensors.find(expert_name(layer, e, matrix));
      HALFTONE_CHECK(found != state.tensors.end(), "[gguf_experts] expected a tensor ",
                     expert_name(layer, e, matrix));
      experts.push_back(found->second);
      state.tensors.erase(found);
    }
    state.tensors[stack_name(layer, matrix)] = at::stack(experts);
  });
}

void unstack_experts(StateDict& state, const ModelConfig& config) {
  for_each_stack(config, [&](std::int64_t layer, const ExpertMatrix& matrix) {
    const std::string name = stack_name(layer, matrix);
    const auto found = state.tensors.find(name);
    if (found == state.tensors.end()) return;
    const Tensor stack = found->second;
    if (stack.dim() != 3 || stack.size(0) != config.n_routed_experts)
      throw UserError(
          fmt::format("tensor '{}' has the shape {}, expected the matrices of {} experts", name,
                      fmt::join(stack.sizes(), " x "), config.n_routed_experts));
    std::shared_ptr<StackReader> reader;
    if (const auto lazy = state.lazy.extract(name))
      reader = std::make_shared<StackReader>(lazy.mapped(), config.n_routed_experts);
    for (std::int64_t e = 0; e < config.n_routed_experts; ++e) {
      const std::string expert = expert_name(layer, e, matrix);
      state.tensors[expert] = stack.select(0, e);
      if (reader) state.lazy[expert] = [reader, e] { return reader->expert(e); };
    }
    state.tensors.erase(name);
  });
}

bool is_gguf_router(std::string_view name) { return name.ends_with(".ffn_gate_inp.weight"); }

}  // namespace halftone
