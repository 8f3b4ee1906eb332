// SPDX-License-Identifier: Apache-2.0
#include "halftone/models/parameter_names.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <functional>
#include <string_view>
#include <utility>
#include <vector>

#include "halftone/core/error.h"

namespace halftone {
namespace {

using torch::Tensor;

constexpr std::string_view kEmbedding = "tok_embeddings.weight";
constexpr std::string_view kHead = "output.weight";
constexpr std::string_view kHfHead = "lm_head.weight";

using Replacement = std::pair<std::string_view, std::string_view>;
/// Hugging Face's pieces of a name and V2's, applied in this order to names that start with
/// "model.".
constexpr std::array<Replacement, 15> kPieces{{{"self_attn.q_proj.", "attention.wq."},
                                               {"self_attn.k_proj.", "attention.wk."},
                                               {"self_attn.v_proj.", "attention.wv."},
                                               {"self_attn.o_proj.", "attention.wo."},
                                               {"self_attn.q_norm.", "attention.q_norm."},
                                               {"self_attn.k_norm.", "attention.k_norm."},
                                               {"post_attention_layernorm.", "ffn_norm."},
                                               {"input_layernorm.", "attention_norm."},
                                               {"mlp.shared_experts.0.", "mlp.shared_experts."},
                                               {"mlp.", "feed_forward."},
                                               {"gate_proj.", "w1."},
                                               {"down_proj.", "w2."},
                                               {"up_proj.", "w3."},
                                               {"embed_tokens.", "tok_embeddings."},
                                               {"model.", ""}}};

std::string v2_name(const std::string& name) {
  if (name == kHfHead) return std::string(kHead);
  if (!name.starts_with("model.")) return name;
  std::string result = name;
  for (const auto& [from, to] : kPieces) {
    const std::size_t at = result.find(from);
    if (at != std::string::npos) result.replace(at, from.size(), to);
  }
  return result;
}

std::string hugging_face_name(const std::string& name) {
  if (name == kHead) return std::string(kHfHead);
  std::string result = name;
  std::for_each(kPieces.rbegin(), kPieces.rend(), [&](const Replacement& piece) {
    const auto& [theirs, ours] = piece;
    const std::size_t at = ours.empty() ? std::string::npos : result.find(ours);
    if (at != std::string::npos) result.replace(at, ours.size(), theirs);
  });
  return "model." + result;
}

/// Whether the rows of the parameter are those of rotated heads.
bool is_rotated(std::string_view name) {
  constexpr std::array<std::string_view, 8> kEnds{
      ".attention.wq.weight",        ".attention.wk.weight",       ".attention.wq.bias",
      ".attention.wk.bias",          ".attention.q_norm.weight",   ".attention.k_norm.weight",
      ".attention.wq.lora_B.weight", ".attention.wk.lora_B.weight"};
  return std::any_of(kEnds.begin(), kEnds.end(),
                     [&](std::string_view end) { return name.ends_with(end); });
}

void check_heads(const std::string& name, const Tensor& tensor, std::int64_t head_dim) {
  if (tensor.dim() == 0 || tensor.dim() > 2 || tensor.size(0) % head_dim != 0)
    throw UserError(fmt::format("tensor '{}' has {} rows, expected a multiple of head_dim {}", name,
                                tensor.dim() == 0 ? 0 : tensor.size(0), head_dim));
}

/// Rows of each head from the half-rotation order (pair i is rows i and i + d/2) to adjacent pairs.
Tensor to_adjacent_pairs(const Tensor& tensor, std::int64_t head_dim) {
  // All sizes are spelled out: a matrix of a file may have no columns.
  return tensor
      .reshape({tensor.size(0) / head_dim, 2, head_dim / 2, tensor.dim() == 2 ? tensor.size(1) : 1})
      .transpose(1, 2)
      .reshape(tensor.sizes());
}

Tensor to_half_rotation(const Tensor& tensor, std::int64_t head_dim) {
  return tensor
      .reshape({tensor.size(0) / head_dim, head_dim / 2, 2, tensor.dim() == 2 ? tensor.size(1) : 1})
      .transpose(1, 2)
      .reshape(tensor.sizes());
}

bool same_values(const Tensor& a, const Tensor& b) {
  return a.data_ptr() == b.data_ptr() || (a.sizes() == b.sizes() && a.to(b.scalar_type()).equal(b));
}

using Change = std::function<Tensor(const Tensor&)>;

/// Puts the file's `from` into `named` as `to`, changed; if it is lazy, that is done when it is
/// read.
void adopt(StateDict& named, const std::string& to, const StateDict& file, const std::string& from,
           const Change& change) {
  named.tensors[to] = change(file.meta(from));
  if (const auto read = file.lazy.find(from); read != file.lazy.end())
    named.lazy[to] = [read = read->second, change] { return change(read()); };
}

Tensor unchanged(const Tensor& tensor) { return tensor; }

void merge_tied(StateDict& named) {
  const auto head = named.tensors.find(std::string(kHead));
  if (head == named.tensors.end()) return;
  const std::string embedding(kEmbedding);
  if (!named.tensors.contains(embedding))
    adopt(named, embedding, named, head->first, unchanged);
  else if (!same_values(named.tensor(embedding), named.tensor(head->first)))
    throw UserError(fmt::format(
        "'{}' and '{}' differ, but this model has one matrix for both; name the one to keep by "
        "removing the other",
        kEmbedding, kHead));
  named.lazy.erase(head->first);
  named.tensors.erase(head);
}

StateDict v2_names_of(const StateDict& file, const ModelConfig& config, const std::string& source) {
  try {
    return to_v2_names(file, config);
  } catch (const UserError& error) {
    throw UserError(fmt::format("{}: {}", source, error.what()));
  }
}

void check_fits(const StateDict& expected, const StateDict& named, const std::string& source) {
  const std::string wrong = tensor_mismatches(expected, named);
  if (!wrong.empty())
    throw UserError(
        fmt::format("{}: its tensors do not fit the model ({}); set model.* as the file was made",
                    source, wrong));
}

}  // namespace

StateDict to_v2_names(const StateDict& file, const ModelConfig& config) {
  StateDict named;
  for (const auto& entry : file.tensors) {
    const std::string& name = entry.first;
    const std::string ours = v2_name(name);
    const auto to_pairs = [name, head_dim = head_dim_of(config)](const Tensor& tensor) {
      check_heads(name, tensor, head_dim);
      return to_adjacent_pairs(tensor, head_dim);
    };
    adopt(named, ours, file, name, ours != name && is_rotated(ours) ? Change(to_pairs) : unchanged);
  }
  if (config.tie_embeddings) merge_tied(named);
  return named;
}

StateDict to_hugging_face_names(const StateDict& parameters, const ModelConfig& config) {
  StateDict named;
  for (const auto& entry : parameters.tensors) {
    const std::string& name = entry.first;
    const auto to_halves = [head_dim = head_dim_of(config)](const Tensor& tensor) {
      return to_half_rotation(tensor, head_dim);
    };
    adopt(named, hugging_face_name(name), parameters, name,
          is_rotated(name) ? Change(to_halves) : unchanged);
  }
  return named;
}

void check_parameters(const StateDict& file, const ModelConfig& config, const std::string& source,
                      const LoraConfig& lora) {
  validate(config);
  StateDict expected;
  for (const NamedShape& shape : parameter_shapes(config))
    expected.tensors[shape.name] = torch::empty(shape.sizes, torch::kMeta);
  for (const NamedShape& shape : adapter_shapes(lora, config))
    expected.tensors[shape.name] = torch::empty(shape.sizes, torch::kMeta);
  check_fits(expected, v2_names_of(file, config, source), source);
}

void load_parameters(CausalLM& model, const StateDict& file, const std::string& source) {
  const StateDict parameters = parameters_of(model);
  const StateDict named = v2_names_of(file, model->config(), source);
  check_fits(parameters, named, source);
  const torch::NoGradGuard no_grad;
  for (const auto& [name, parameter] : parameters.tensors) parameter.copy_(named.tensor(name));
}

StateDict parameters_of(const CausalLM& model) {
  StateDict state;
  for (const auto& item : model->named_parameters())
    state.tensors[item.key()] = item.value().detach();
  return state;
}

}  // namespace halftone
