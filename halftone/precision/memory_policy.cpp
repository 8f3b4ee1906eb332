// SPDX-License-Identifier: Apache-2.0
#include "halftone/precision/memory_policy.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

#include "halftone/core/error.h"

namespace halftone {
namespace {

template <class Value, std::size_t kCount>
using Names = std::array<std::pair<const char*, Value>, kCount>;

constexpr Names<MomentStorage, 3> kMoments{{{"fp32", MomentStorage::kFloat32},
                                            {"bf16", MomentStorage::kBFloat16},
                                            {"int8", MomentStorage::kInt8}}};
constexpr Names<bool, 2> kGradients{{{"bf16", false}, {"fp32", true}}};
constexpr Names<bool, 2> kRecompute{{{"none", false}, {"blocks", true}}};
constexpr Names<bool, 2> kRelease{{{"off", false}, {"on", true}}};
constexpr Names<ClipMode, 2> kClipModes{
    {{"exact", ClipMode::kExact}, {"previous", ClipMode::kPrevious}}};

/// What the words of master_weights stand for.
struct Weights {
  bool bf16 = false;
  MasterWeights master = MasterWeights::kNone;
};
constexpr Names<Weights, 4> kWeights{{{"fp32", {}},
                                      {"split16", {true, MasterWeights::kSplit16}},
                                      {"split8", {true, MasterWeights::kSplit8}},
                                      {"none", {true, MasterWeights::kNone}}}};

template <class Value, std::size_t kCount>
Value named(const Names<Value, kCount>& names, const char* key, const std::string& word) {
  std::vector<std::string_view> known{"auto"};
  for (const auto& [name, value] : names) {
    if (word == name) return value;
    known.push_back(name);
  }
  throw UserError(
      fmt::format("expected {} to be one of {}, got '{}'", key, fmt::join(known, ", "), word));
}

bool computes_in_bf16(const PrecisionPolicy& precision) {
  return precision.compute_dtype() == torch::kBFloat16;
}

Weights weights_for(const std::string& word, const PrecisionPolicy& precision) {
  const Weights weights = named(kWeights, "master_weights", word);
  if (weights.bf16 && !computes_in_bf16(precision))
    throw UserError(fmt::format(
        "master_weights {} keeps weights in bf16, but {} multiplies them in another format; "
        "choose bf16-mixed or bf16-true, or leave master_weights out",
        word, precision.name));
  if (!weights.bf16 && precision.parameter != torch::kFloat)
    throw UserError(fmt::format(
        "master_weights fp32 contradicts {}, whose weights have 16 bits; choose a -mixed "
        "precision, or leave master_weights out",
        precision.name));
  return weights;
}

bool fp32_gradients(const std::string& word, const MemoryPolicy& recipe,
                    const PrecisionPolicy& precision) {
  const bool fp32 = named(kGradients, "gradients", word);
  const bool fp32_weights = precision.parameter == torch::kFloat && !recipe.bf16_weights;
  if (!fp32 && (fp32_weights || precision.parameter == torch::kHalf))
    throw UserError(
        fmt::format("gradients bf16 goes with weights that are kept in bf16, but {} with memory {} "
                    "keeps them in "
                    "{}; add master_weights none, split8 or split16, or leave gradients out",
                    precision.name, recipe.name, fp32_weights ? "fp32" : "fp16"));
  return fp32;
}

bool releases_gradients(const MemoryOptions& choice, const PrecisionPolicy& precision) {
  const bool release = choice.release_gradients == "auto"
                           ? choice.memory == "leanest"
                           : named(kRelease, "release_gradients", choice.release_gradients);
  if (release && precision.loss_scaling)
    throw UserError(
        fmt::format("{} applies gradients as they come, but in {} only the last of them tells "
                    "whether the loss scale made one overflow and all are to be dropped; choose "
                    "bf16-mixed, or memory lean",
                    choice.release_gradients == "auto" ? "memory leanest" : "release_gradients on",
                    precision.name));
  return release;
}

ClipMode clip_mode_for(const std::string& word, bool release) {
  const ClipMode norm = named(kClipModes, "clip_mode", word);
  if (norm == ClipMode::kPrevious && !release)
    throw UserError(
        "clip_mode previous goes with gradients that are applied before all are known; add "
        "release_gradients on, or leave clip_mode out: clipping is exact without");
  return norm;
}

}  // namespace

const std::vector<std::string>& memory_names() {
  static const std::vector<std::string> names{"standard", "lean", "leanest"};
  return names;
}

MemoryPolicy memory_policy(const MemoryOptions& choice, const PrecisionPolicy& precision) {
  const std::vector<std::string>& names = memory_names();
  if (std::find(names.begin(), names.end(), choice.memory) == names.end())
    throw UserError(fmt::format("expected memory to be one of {}, got '{}'", fmt::join(names, ", "),
                                choice.memory));

  MemoryPolicy recipe{.name = choice.memory, .stochastic_rounding = precision.stochastic_rounding};
  if (choice.memory != "standard") {
    recipe.bf16_weights = computes_in_bf16(precision);
    recipe.moments = MomentStorage::kInt8;
    recipe.recompute_blocks = true;
  }
  if (choice.master_weights != "auto") {
    const Weights weights = weights_for(choice.master_weights, precision);
    recipe.bf16_weights = weights.bf16;
    recipe.master = weights.master;
  }
  if (choice.gradients != "auto")
    recipe.fp32_gradients = fp32_gradients(choice.gradients, recipe, precision);
  if (choice.moments != "auto") recipe.moments = named(kMoments, "moments", choice.moments);
  if (choice.recompute != "auto")
    recipe.recompute_blocks = named(kRecompute, "recompute", choice.recompute);
  recipe.release_gradients = releases_gradients(choice, precision);
  if (recipe.release_gradients) recipe.clip_mode = ClipMode::kPrevious;
  if (choice.clip_mode != "auto")
    recipe.clip_mode = clip_mode_for(choice.clip_mode, recipe.release_gradients);
  recipe.stochastic_rounding |= recipe.bf16_weights;
  recipe.offload = choice.offload;
  return recipe;
}

void MemoryPolicy::apply_to(AdamWOptions& options) const {
  options.master = master;
  options.moments = moments;
  options.fp32_gradients = fp32_gradients;
  options.stochastic_rounding = stochastic_rounding;
  options.release_gradients = release_gradients;
  options.offload = offload;
}

}  // namespace halftone
