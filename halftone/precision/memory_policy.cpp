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
  bool operator==(const Weights&) const = default;
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

template <class Value, std::size_t kCount>
std::string word_of(const Names<Value, kCount>& names, const Value& value) {
  return std::find_if(names.begin(), names.end(),
                      [&](const auto& one) { return one.second == value; })
      ->first;
}

std::string word_of(MomentStorage moments) { return word_of(kMoments, moments); }
std::string word_of(MasterWeights master) { return word_of(kWeights, Weights{true, master}); }
std::string word_of(const std::filesystem::path& folder) { return "'" + folder.string() + "'"; }

/// Gives `own` what is asked for, if anything is.
template <class Value>
void ask(const char* key, Value& own, const Value& asked) {
  if (asked == Value{} || own == asked) return;
  if (own != Value{})
    throw UserError(fmt::format(
        "the memory recipe asks for {0} {1}, but AdamWOptions of this module for {0} {2}; leave "
        "one of them out",
        key, word_of(asked), word_of(own)));
  own = asked;
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

bool rounds_stochastically(const std::string& word) {
  if (word == "stochastic" || word == "nearest") return word == "stochastic";
  throw UserError(
      fmt::format("expected rounding to be one of stochastic, nearest, got '{}'", word));
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

  MemoryPolicy recipe{.name = choice.memory};
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
  recipe.stochastic_rounding = rounds_stochastically(choice.rounding) &&
                               (precision.stochastic_rounding || recipe.bf16_weights);
  recipe.offload = choice.offload;
  return recipe;
}

AdamWOptions MemoryPolicy::adamw(AdamWOptions own) const {
  ask("moments", own.moments, moments);
  ask("master_weights", own.master, master);
  ask("offload", own.offload, offload);
  own.fp32_gradients |= fp32_gradients;
  own.stochastic_rounding |= stochastic_rounding;
  own.release_gradients |= release_gradients;
  return own;
}

std::vector<MemoryPart> MemoryPolicy::missing_in(const OptimizerTraits& traits) const {
  std::vector<MemoryPart> missing;
  if (moments != MomentStorage::kFloat32 && traits.moments != moments)
    missing.push_back({"moments " + word_of(moments), "moments fp32"});
  if (master != MasterWeights::kNone && traits.master != master)
    missing.push_back({"master_weights " + word_of(master), "master_weights none"});
  if (fp32_gradients && !traits.fp32_gradients)
    missing.push_back({"gradients fp32", "gradients auto"});
  // All 16 bits beside a weight leave nothing to round.
  if (stochastic_rounding && !traits.stochastic_rounding &&
      traits.master != MasterWeights::kSplit16)
    missing.push_back({"rounding stochastic", "rounding nearest"});
  if (release_gradients && !traits.releases_gradients)
    missing.push_back({"release_gradients on", "release_gradients off"});
  if (!offload.empty() && !traits.offloads_states)
    missing.push_back({"offload " + word_of(offload), "no offload"});
  return missing;
}

}  // namespace halftone
