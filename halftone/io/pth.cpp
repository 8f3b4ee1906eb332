// SPDX-License-Identifier: Apache-2.0
#include "halftone/io/pth.h"

#include <fmt/format.h>

#include <array>
#include <memory>
#include <string>
#include <string_view>

#include "halftone/core/error.h"
#include "halftone/core/text.h"
#include "halftone/io/pth_tensor_impl.h"
#include "halftone/system/json_reader_impl.h"

namespace halftone {
namespace {

// Under which a file that holds more than weights has them.
constexpr std::array<std::string_view, 3> kWeightKeys = {"model", "state_dict", "model_state_dict"};

bool has_tensors(const PickleObject& dict) {
  for (std::size_t i = 1; dict.kind == PickleKind::kDict && i < dict.items.size(); i += 2)
    if (PthArchive::is_tensor(*dict.items[i])) return true;
  return false;
}

std::string keys_of(const PickleObject& dict) {
  constexpr std::size_t kShown = 5;
  std::string text;
  for (std::size_t i = 0; i < dict.items.size() && i < 2 * kShown; i += 2)
    text += (i > 0 ? ", " : "") + quoted_json(dict.items[i]->text);
  return dict.items.size() > 2 * kShown ? text + ", ..." : text;
}

const PickleObject& find_state_dict(const PthArchive& file, const PickleObject& root) {
  if (has_tensors(root)) return root;
  for (const std::string_view key : kWeightKeys)
    if (const PickleObject* dict = root.find(key); dict != nullptr && has_tensors(*dict))
      return *dict;
  throw UserError(
      fmt::format("'{}' has no weights: expected a dict of tensors by name, or one under \"model\" "
                  "or \"state_dict\", found {}; save model.state_dict()",
                  file.path(),
                  root.kind == PickleKind::kDict
                      ? "a dict of " + (root.items.empty() ? "nothing" : keys_of(root))
                      : "something else"));
}

std::optional<StateDict::Value> value_of(const PickleObject& object) {
  switch (object.kind) {
    case PickleKind::kBool:
      return object.integer != 0;
    case PickleKind::kInteger:
      return object.integer;
    case PickleKind::kFloat:
      return object.number;
    case PickleKind::kText:
      return object.text;
    default:
      return std::nullopt;
  }
}

void add_values(StateDict& state, const PickleObject& dict) {
  for (std::size_t i = 0; i < dict.items.size(); i += 2)
    if (const auto value = value_of(*dict.items[i + 1]);
        value && dict.items[i]->kind == PickleKind::kText)
      state.values[dict.items[i]->text] = *value;
}

void add_tensor(StateDict& state, const std::shared_ptr<const PthArchive>& file,
                const PickleObject& key, const PickleObject& object) {
  if (key.kind != PickleKind::kText || find_invalid_utf8(key.text))
    file->fail("the name of a tensor is not a text");
  const PthTensor tensor = file->tensor(key.text, object);
  const bool is_new =
      state.tensors
          .emplace(key.text,
                   torch::empty(tensor.sizes, torch::dtype(tensor.dtype).device(torch::kMeta)))
          .second;
  if (!is_new) file->fail(fmt::format("tensor {} is there twice", quoted_json(key.text)));
  state.lazy.emplace(key.text, [file, tensor] { return file->read(tensor); });
}

}  // namespace

StateDict open_pth(const std::filesystem::path& path) {
  const auto file = std::make_shared<const PthArchive>(path);
  const Pickle pickle = file->read_pickle();
  const PickleObject& dict = find_state_dict(*file, pickle.root());
  StateDict state;
  for (std::size_t i = 0; i < dict.items.size(); i += 2) {
    const PickleObject& value = *dict.items[i + 1];
    if (PthArchive::is_tensor(value))
      add_tensor(state, file, *dict.items[i], value);
    else if (value.kind != PickleKind::kNone && !value_of(value))
      throw UserError(fmt::format(
          "'{}': expected a tensor as {}, found something else; save model.state_dict()",
          file->path(), quoted_json(dict.items[i]->text)));
  }
  if (pickle.root().kind == PickleKind::kDict) add_values(state, pickle.root());
  return state;
}

}  // namespace halftone
