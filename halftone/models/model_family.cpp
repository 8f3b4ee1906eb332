// SPDX-License-Identifier: Apache-2.0
#include "halftone/models/model_family.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>

#include "halftone/core/error.h"
#include "halftone/core/text.h"
#include "halftone/models/families/families_impl.h"

namespace halftone {

const std::vector<const ModelFamily*>& model_families() {
  static const std::vector<const ModelFamily*> families{
      &minimind_v2_family(), &minimind_2504_family(), &minimind_v3_family(),
      &llama_family(),       &qwen2_family(),         &qwen3_family()};
  return families;
}

const ModelFamily& family_of(const ModelConfig& config) {
  std::vector<std::string> known;
  for (const ModelFamily* const family : model_families()) {
    if (family->generation == config.generation) return *family;
    known.emplace_back(family->generation);
  }
  throw UserError(fmt::format("model: expected generation {}, got '{}'", fmt::join(known, ", "),
                              config.generation));
}

const FileForm* export_form(const ModelConfig& config) {
  const ModelFamily& own = family_of(config);
  const std::string_view wanted = config.use_moe ? own.exports_experts_as : own.exports_as;
  for (const ModelFamily* const family : model_families())
    for (const FileForm& form : family->forms)
      if (form.architecture == wanted) return &form;
  return nullptr;
}

}  // namespace halftone
