// SPDX-License-Identifier: Apache-2.0
// A trained model without the Trainer that trained it:
//
//   const halftone::SavedModel saved = halftone::load_saved_model("runs/classifier");
//   Classifier model(saved.hyper_parameter<std::int64_t>("width"));
//   halftone::load_weights(model, saved);
//   model.eval();
#pragma once

#include <torch/nn/module.h>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "halftone/core/state_dict.h"
#include "halftone/train/layer_choices.h"

namespace halftone {

struct SavedModel {
  StateDict weights;           // the network's parameters and buffers by name; read when asked for
  StateDict hyper_parameters;  // the values of TrainingModuleBase::save_hyper_parameters()
  std::int64_t step = 0;       // of a checkpoint
  std::string precision;       // that it was trained in; empty where the file does not tell
  std::optional<LayerChoices> layers;  // that it was trained with, likewise
  std::filesystem::path path;          // the checkpoint's folder, or the file

  /// Throws UserError that names the file and the hyper-parameters that there are.
  template <class T>
  T hyper_parameter(const std::string& name) const {
    const auto found = hyper_parameters.values.find(name);
    if (found == hyper_parameters.values.end()) throw_missing(name);
    if (const T* const value = std::get_if<T>(&found->second)) return *value;
    throw_other_type(name);
  }

 private:
  [[noreturn]] void throw_missing(const std::string& name) const;
  [[noreturn]] void throw_other_type(const std::string& name) const;
};

/// What `where` names: a run directory, whose newest whole checkpoint counts; for RUN/best the
/// folder of the best checkpoint in it; a checkpoint's own folder; or a file of weights
/// (.safetensors, or .pth of PyTorch: see io/weights.h). Throws
/// UserError where there is nothing.
std::filesystem::path find_saved_model(const std::filesystem::path& where);

/// Opens find_saved_model(`where`). Throws UserError for what is damaged or holds no model.
SavedModel load_saved_model(const std::filesystem::path& where);

/// Copies the weights into the module, each in the module's own dtype and on its device. Throws
/// UserError that names what is missing, unexpected or of another shape, and leaves the module as
/// it was then.
void load_weights(torch::nn::Module& module, const SavedModel& saved);

/// What a module took of other weights, by name.
struct WarmStart {
  std::vector<std::string> loaded;
  std::vector<std::string> missing;  // of the module, that the file lacks: they keep their values
  std::vector<std::string>
      other_shape;  // both have it, in different shapes: the module keeps its own
  std::vector<std::string> unexpected;  // of the file, that the module lacks

  /// "12 of 14 tensors; head.weight, head.bias are of another shape and keep their values"
  std::string to_string() const;
};

/// Copies those weights that the module has in the same shape, and says in the log which. Throws
/// UserError where none fits.
WarmStart warm_start(torch::nn::Module& module, const SavedModel& saved);

}  // namespace halftone
