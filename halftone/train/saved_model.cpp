// SPDX-License-Identifier: Apache-2.0
#include "halftone/train/saved_model.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>

#include "halftone/core/error.h"
#include "halftone/core/log.h"
#include "halftone/io/weights.h"
#include "halftone/run/checkpoint.h"
#include "halftone/train/model_checkpoint.h"
#include "halftone/train/network_state.h"

namespace halftone {
namespace fs = std::filesystem;
namespace {

std::string names(const std::vector<std::string>& all) {
  constexpr std::size_t kMost = 5;
  const std::vector<std::string> first(
      all.begin(), all.begin() + static_cast<std::ptrdiff_t>(std::min(kMost, all.size())));
  std::string text = fmt::format("{}", fmt::join(first, ", "));
  if (all.size() > kMost) text += fmt::format(" and {} more", all.size() - kMost);
  return text;
}

}  // namespace

void SavedModel::throw_missing(const std::string& name) const {
  std::vector<std::string> there;
  for (const auto& [known, value] : hyper_parameters.values) there.push_back(known);
  throw UserError(fmt::format(
      "'{}' has no hyper-parameter '{}', it has {}; is it of this model, and did the model call "
      "save_hyper_parameters()?",
      path.string(), name, there.empty() ? "none" : names(there)));
}

void SavedModel::throw_other_type(const std::string& name) const {
  constexpr std::array kTypes = {"a bool", "an integer", "a floating-point number", "a text"};
  throw UserError(fmt::format(
      "'{}' has the hyper-parameter '{}' as {}, which is not the type that the program asks for; "
      "is it of this model?",
      path.string(), name, kTypes.at(hyper_parameters.values.at(name).index())));
}

fs::path find_saved_model(const fs::path& where) {
  std::error_code error;
  if (fs::is_regular_file(where, error)) return where;
  if (!fs::is_directory(where, error))
    throw UserError(
        fmt::format("'{}' does not exist; expected a run directory, a checkpoint such as "
                    "RUN/checkpoints/step-00000100, or a file of weights "
                    "(.safetensors, .pth)",
                    where.string()));
  if (is_checkpoint(where)) return where;
  if (const auto best = best_checkpoint(where)) return *best;
  return where;
}

SavedModel load_saved_model(const fs::path& where) {
  const fs::path path = find_saved_model(where);
  SavedModel saved{.path = path};
  if (!fs::is_directory(path)) {
    saved.weights = open_weights(path);
    saved.weights.values.clear();  // the file's own notes
    return saved;
  }
  Checkpoint checkpoint = is_checkpoint(path) ? load_model_of(path) : load_latest_model(path);
  if (!is_checkpoint(path)) saved.path = checkpoint_folder(path, checkpoint.step);
  saved.hyper_parameters.values = std::exchange(checkpoint.model.values, {});
  saved.weights = std::move(checkpoint.model);
  saved.step = checkpoint.step;
  if (checkpoint.trainer.values.contains("precision"))
    saved.precision = checkpoint.trainer.get<std::string>("precision");
  saved.layers = saved_layer_choices(checkpoint.trainer);
  return saved;
}

void load_weights(torch::nn::Module& module, const SavedModel& saved) {
  load_network_state(module, saved.weights, "'" + saved.path.string() + "'");
}

WarmStart warm_start(torch::nn::Module& module, const SavedModel& saved) {
  const torch::NoGradGuard no_grad;
  WarmStart found;
  const StateDict own = network_state(module);
  for (const auto& [name, tensor] : own.tensors) {
    if (!saved.weights.tensors.contains(name)) {
      found.missing.push_back(name);
    } else if (saved.weights.meta(name).sizes() != tensor.sizes()) {
      found.other_shape.push_back(name);
    } else {
      tensor.copy_(saved.weights.tensor(name));
      found.loaded.push_back(name);
    }
  }
  for (const auto& [name, tensor] : saved.weights.tensors)
    if (!own.tensors.contains(name)) found.unexpected.push_back(name);
  if (found.loaded.empty())
    throw UserError(
        fmt::format("'{}': none of its {} tensors fits the module; it has {}, the module has {}",
                    saved.path.string(), saved.weights.tensors.size(), names(found.unexpected),
                    names(found.missing.empty() ? found.other_shape : found.missing)));
  log_note("warm start from '" + saved.path.string() + "': " + found.to_string());
  return found;
}

std::string WarmStart::to_string() const {
  std::string text = fmt::format("{} of {} tensors", loaded.size(),
                                 loaded.size() + missing.size() + other_shape.size());
  const auto add = [&](const std::vector<std::string>& list, const char* one, const char* several) {
    if (!list.empty())
      text += fmt::format("; {} {}", names(list), list.size() == 1 ? one : several);
  };
  add(missing, "is not in the file and keeps its values",
      "are not in the file and keep their values");
  add(other_shape, "is of another shape and keeps its values",
      "are of another shape and keep their values");
  add(unexpected, "is in the file only", "are in the file only");
  return text;
}

}  // namespace halftone
