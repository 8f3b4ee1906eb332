// SPDX-License-Identifier: Apache-2.0
// What tells one family of decoders from another, as data. A new family is one file in families/
// and a line in model_families().
#pragma once

#include <cstdint>
#include <string_view>
#include <variant>
#include <vector>

#include "halftone/models/model_config.h"
#include "halftone/nn/moe.h"

namespace halftone {

/// A key of a config.json and the field that it sets.
struct FileKey {
  std::string_view name;
  std::variant<std::int64_t ModelConfig::*, double ModelConfig::*, bool ModelConfig::*> field;
  std::int64_t least = 1;    // of an integer
  bool is_required = false;  // else the field keeps its default
  bool is_read = true;       // else it is only written
};

/// A key whose other values would make another model: refused when it is read, written as it is.
struct FileConstant {
  std::string_view name;
  std::string_view value;  // JSON
};

/// One class of another library, as its config.json describes it.
struct FileForm {
  std::string_view architecture;  // "LlamaForCausalLM"
  std::string_view model_type;    // "llama"
  bool has_experts = false;
  /// A key that only this form has among those of the same model_type; empty: the others have one.
  std::string_view marker;
  std::vector<FileKey> keys;
  std::vector<FileConstant> constants;
  std::vector<std::string_view> ignored;  // keys that change nothing in this form
};

struct ModelFamily {
  std::string_view generation;  // as ModelConfig::generation
  std::string_view title;       // "a MiniMind of generation V2"

  // The layers.
  bool has_qkv_bias = false;
  bool has_qk_norm = false;
  bool may_untie = false;  // whether the output head may have a matrix of its own
  std::int64_t (*hidden_dim)(std::int64_t dim) = nullptr;  // where the configuration says 0

  // The experts, of those that have them.
  bool may_have_experts = false;
  bool may_share_experts = false;
  bool normalises_single_expert = false;
  LoadBalance balance = LoadBalance::kSequences;

  // The files.
  std::vector<FileForm> forms;            // those that are read as this family
  std::string_view exports_as;            // architecture of the form that a dense model is saved in
  std::string_view exports_experts_as{};  // of one with experts; empty: there is none
};

/// All of them, V2 first.
const std::vector<const ModelFamily*>& model_families();

/// The family of config.generation. Throws UserError when there is none.
const ModelFamily& family_of(const ModelConfig& config);

/// The form that other libraries read a model of `config` in; nullptr: there is none.
const FileForm* export_form(const ModelConfig& config);

}  // namespace halftone
