// SPDX-License-Identifier: Apache-2.0
#include "halftone/pretrain/peft_adapter.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <set>
#include <system_error>
#include <vector>

#include "halftone/core/error.h"
#include "halftone/io/safetensors.h"
#include "halftone/io/weights.h"
#include "halftone/models/file_names.h"
#include "halftone/models/parameter_names.h"
#include "halftone/pretrain/foreign_config_impl.h"
#include "halftone/system/atomic_file.h"

namespace halftone {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using nlohmann::ordered_json;

constexpr const char* kConfigName = "adapter_config.json";
constexpr const char* kTensorsName = "adapter_model.safetensors";
constexpr const char* kPeftPrefix = "base_model.model.";
constexpr std::uint64_t kMaxAdapterConfigBytes = std::uint64_t{1} << 20U;

bool is_switched_off(const json& value) {
  return value.is_null() || value == false ||
         ((value.is_object() || value.is_array()) && value.empty());
}

/// How the matrices were drawn makes no difference to what they are now, unless the layer's own
/// weight was changed for it.
bool leaves_weights_alone(const json& value) {
  return value.is_boolean() || value == "gaussian" || value == "orthogonal" || value == "eva";
}

/// What PEFT's options say; `is_stabilized`: alpha is divided by the root of the rank.
std::vector<ForeignKey> peft_keys(LoraConfig& lora, bool& is_stabilized) {
  std::vector<ForeignKey> table = {
      only("peft_type", {"LORA"}),
      only("task_type", {"CAUSAL_LM"}),
      only("bias", {"none"}),
      only_if("init_lora_weights", leaves_weights_alone),
      requires_key("r",
                   [&](const JsonField& field) {
                     lora.rank = field.as_integer(1, std::numeric_limits<std::int32_t>::max());
                   }),
      requires_key("lora_alpha", [&](const JsonField& field) { lora.alpha = field.as_number(); }),
      reads("lora_dropout", [&](const JsonField& field) { lora.dropout = field.as_number(); }),
      reads("use_rslora", [&](const JsonField& field) { is_stabilized = field.as_bool(); })};
  // The tensors say which layers are adapted.
  for (ForeignKey& key : harmless(
           {"target_modules", "exclude_modules", "layers_to_transform", "layers_pattern",
            "base_model_name_or_path", "revision", "peft_version", "auto_mapping", "inference_mode",
            "megatron_core", "qalora_group_size", "runtime_config", "ensure_weight_tying"}))
    table.push_back(std::move(key));
  return table;
}

LoraConfig read_peft_config(const fs::path& path) {
  JsonDocument document = read_json_file(path, {.max_bytes = kMaxAdapterConfigBytes});
  LoraConfig lora;
  bool is_stabilized = false;
  const std::vector<ForeignKey> table = peft_keys(lora, is_stabilized);
  // An option of another version of PEFT that is off changes nothing.
  if (document.value.is_object())
    for (auto entry = document.value.begin(); entry != document.value.end();)
      entry = is_switched_off(entry.value()) ? document.value.erase(entry) : std::next(entry);
  read_foreign_config(document.root(), table, "a LoRA adapter of plain linear layers",
                      path.string());
  if (is_stabilized) lora.alpha = *lora.alpha * std::sqrt(static_cast<double>(lora.rank));
  return lora;
}

fs::path peft_tensors(const fs::path& folder) {
  std::error_code error;
  for (const char* name : {kTensorsName, "adapter_model.bin"})
    if (fs::exists(folder / name, error)) return folder / name;
  throw UserError(
      fmt::format("{}: expected the file {} beside {}, found none; save the adapter again",
                  folder.string(), kTensorsName, kConfigName));
}

/// "NAME.lora.A.weight" of MiniMind as PEFT's "NAME.lora_A.weight".
StateDict in_pefts_spelling(const StateDict& file) {
  StateDict renamed;
  for (const auto& [name, tensor] : file.tensors) {
    std::string to = name;
    for (const char* matrix : {"A", "B"}) {
      const std::string theirs = fmt::format(".lora.{}.weight", matrix);
      if (to.ends_with(theirs))
        to.replace(to.size() - theirs.size(), theirs.size(),
                   fmt::format(".lora_{}.weight", matrix));
    }
    renamed.tensors[to] = tensor;
    if (const auto read = file.lazy.find(name); read != file.lazy.end())
      renamed.lazy[to] = read->second;
  }
  return renamed;
}

StateDict open_adapter(const fs::path& path, const ModelConfig& model) {
  const std::string source = path.string();
  const StateDict file = in_pefts_spelling(without_wrappers(open_weights(path), source));
  try {
    return to_v2_names(file, model);
  } catch (const UserError& error) {
    throw UserError(fmt::format("{}: {}", source, error.what()));
  }
}

std::vector<std::string> targets_in(const StateDict& parameters, const std::string& source) {
  std::set<std::string> found;
  for (const auto& [name, tensor] : parameters.tensors) {
    const std::optional<std::string> target = lora_target_of(name);
    if (!target)
      throw UserError(fmt::format(
          "{}: expected adapters of {}, found the tensor '{}'; train it without that layer", source,
          fmt::join(lora_target_names(), ", "), name));
    found.insert(*target);
  }
  if (found.empty())
    throw UserError(
        fmt::format("{}: expected the matrices of an adapter, found no tensor", source));
  std::vector<std::string> targets;
  for (const std::string& name : lora_target_names())
    if (found.contains(name)) targets.push_back(name);
  return targets;
}

/// Without a configuration: the rows of any A.
std::int64_t rank_in(const StateDict& parameters, const std::string& source) {
  for (const auto& [name, tensor] : parameters.tensors)
    if (name.ends_with(".lora_A.weight") && tensor.dim() == 2) return tensor.size(0);
  throw UserError(fmt::format("{}: expected the matrices of an adapter, found none", source));
}

void check_fits_adapters(const LoraConfig& lora, const ModelConfig& model,
                         const StateDict& parameters, const std::string& source) {
  StateDict expected;
  for (const NamedShape& shape : adapter_shapes(lora, model))
    expected.tensors[shape.name] = torch::empty(shape.sizes, torch::kMeta);
  const std::string wrong = tensor_mismatches(expected, parameters);
  if (!wrong.empty())
    throw UserError(fmt::format(
        "{}: its tensors are no adapter of rank {} of this model ({}); name the model that it was "
        "trained for with init_from",
        source, lora.rank, wrong));
}

ordered_json peft_config(const LoraConfig& lora) {
  const double alpha = lora_alpha(lora);
  const bool is_whole = alpha == std::floor(alpha) && alpha < 1e9;
  return {{"peft_type", "LORA"},
          {"task_type", "CAUSAL_LM"},
          {"base_model_name_or_path", nullptr},
          {"r", lora.rank},
          {"lora_alpha",
           is_whole ? ordered_json(static_cast<std::int64_t>(alpha)) : ordered_json(alpha)},
          {"lora_dropout", lora.dropout},
          {"target_modules", lora_targets(lora)},
          {"bias", "none"},
          {"fan_in_fan_out", false},
          {"inference_mode", true},
          {"init_lora_weights", true},
          {"modules_to_save", nullptr},
          {"use_dora", false},
          {"use_rslora", false}};
}

}  // namespace

bool is_peft_folder(const fs::path& folder) {
  std::error_code error;
  return fs::exists(folder / kConfigName, error);
}

Adapter read_adapter(const fs::path& path, const ModelConfig& model) {
  validate(model);
  std::error_code error;
  const bool is_folder = fs::is_directory(path, error);
  if (!fs::exists(path, error) || (is_folder && !is_peft_folder(path)))
    throw UserError(
        fmt::format("lora.adapter: expected a folder with {} and {}, as PEFT saves one, or a file "
                    "of MiniMind's, got '{}'",
                    kConfigName, kTensorsName, path.string()));
  Adapter adapter;
  if (is_folder) adapter.lora = read_peft_config(path / kConfigName);
  const fs::path file = is_folder ? peft_tensors(path) : path;
  adapter.source = file.string();
  adapter.parameters = open_adapter(file, model);
  if (!is_folder) {
    adapter.lora.rank = rank_in(adapter.parameters, adapter.source);
    adapter.lora.alpha = static_cast<double>(adapter.lora.rank);
  }
  adapter.lora.targets = targets_in(adapter.parameters, adapter.source);
  validate(adapter.lora, model);
  check_fits_adapters(adapter.lora, model, adapter.parameters, adapter.source);
  return adapter;
}

void load_adapter(CausalLM& model, const Adapter& adapter) {
  const LoraConfig& own = model->lora();
  const auto refuse = [&](const char* key, const auto& theirs, const auto& ours) {
    throw UserError(fmt::format("{}: its {} is {}, got lora.{} {}; leave that out", adapter.source,
                                key, theirs, key, ours));
  };
  if (adapter.lora.rank != own.rank) refuse("rank", adapter.lora.rank, own.rank);
  if (lora_alpha(adapter.lora) != lora_alpha(own))
    refuse("alpha", lora_alpha(adapter.lora), lora_alpha(own));
  check_fits_adapters(own, model->config(), adapter.parameters, adapter.source);
  const torch::NoGradGuard no_grad;
  for (const auto& item : model->named_parameters())
    if (lora_target_of(item.key())) item.value().copy_(adapter.parameters.tensor(item.key()));
}

void write_peft_adapter(const fs::path& folder, const StateDict& parameters, const LoraConfig& lora,
                        const ModelConfig& model) {
  std::map<std::string, torch::Tensor> tensors;
  for (const auto& [name, tensor] :
       to_hugging_face_names(adapter_parameters(parameters), model).tensors)
    tensors[kPeftPrefix + name] = tensor.contiguous();
  save_safetensors(folder / kTensorsName, tensors, {{"format", "pt"}});
  write_file_atomically(folder / kConfigName, peft_config(lora).dump(2) + "\n");
}

}  // namespace halftone
