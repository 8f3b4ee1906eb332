// SPDX-License-Identifier: Apache-2.0
#include "halftone/models/file_names.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <string_view>

#include "halftone/core/error.h"

namespace halftone {
namespace {

// Around a whole model.
constexpr std::array<std::string_view, 2> kOuterWrappers = {"module.", "base_model.model."};
// Around a module anywhere within it.
constexpr std::array<std::string_view, 3> kInnerWrappers = {
    "_orig_mod.", "_checkpoint_wrapped_module.", "_fsdp_wrapped_module."};
constexpr std::array<std::string_view, 8> kBuffers = {"rotary_emb.inv_freq",
                                                      "freqs_cos",
                                                      "freqs_sin",
                                                      "pos_cis",
                                                      "mask",
                                                      "attn.bias",
                                                      "attn.masked_bias",
                                                      "attention.masked_bias"};
constexpr std::array<std::string_view, 4> kScales = {"weight_scale_inv", "weight_scale",
                                                     "input_scale", "activation_scale"};

/// Whether the last parts of `name` are those of `end`.
bool ends_with_parts(std::string_view name, std::string_view end) {
  return name.ends_with(end) &&
         (name.size() == end.size() || name[name.size() - end.size() - 1] == '.');
}

template <class Names>
bool is_one_of(std::string_view name, const Names& ends) {
  return std::any_of(ends.begin(), ends.end(),
                     [&](std::string_view end) { return ends_with_parts(name, end); });
}

bool strip_front(std::string& name) {
  for (const std::string_view wrapper : kOuterWrappers)
    if (name.starts_with(wrapper)) {
      name.erase(0, wrapper.size());
      return true;
    }
  return false;
}

std::string unwrapped(std::string name) {
  for (const std::string_view wrapper : kInnerWrappers)
    for (std::size_t at = name.find(wrapper); at != std::string::npos;
         at = name.find(wrapper, at)) {
      if (at == 0 || name[at - 1] == '.')
        name.erase(at, wrapper.size());
      else
        at += wrapper.size();
    }
  while (strip_front(name)) {
  }
  return name;
}

}  // namespace

StateDict without_wrappers(const StateDict& file, const std::string& source) {
  StateDict bare;
  bare.values = file.values;
  for (const auto& [name, tensor] : file.tensors) {
    if (is_one_of(name, kBuffers)) continue;
    if (is_one_of(name, kScales))
      throw UserError(fmt::format(
          "{}: '{}' scales quantized weights, which are not supported; expected weights "
          "that are their own values: convert the model to bf16",
          source, name));
    const std::string own = unwrapped(name);
    if (!bare.tensors.emplace(own, tensor).second)
      throw UserError(fmt::format(
          "{}: '{}' and another tensor are both '{}' without the names of wrappers; remove one",
          source, name, own));
    if (const auto read = file.lazy.find(name); read != file.lazy.end())
      bare.lazy.emplace(own, read->second);
  }
  return bare;
}

}  // namespace halftone
