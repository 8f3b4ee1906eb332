// SPDX-License-Identifier: Apache-2.0
// A trained module in one line, for a program that uses it:
//
//   halftone::LoadedModel<Classifier> loaded("runs/classifier");
//   const auto scores = loaded.trainer.predict(loaded.module, data);
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "halftone/train/hyper_parameters.h"
#include "halftone/train/saved_model.h"
#include "halftone/train/trainer.h"

namespace halftone {

/// The module that was saved (build_module()) with its weights, and a Trainer that computes as its
/// own did (options_of()), or in another way. The module is in eval mode.
template <class Module>
struct LoadedModel {
  /// What find_saved_model() takes. Throws what load_saved_model(), build_module() and
  /// Trainer::load() throw.
  explicit LoadedModel(const std::string& where) : LoadedModel(load_saved_model(where)) {}
  LoadedModel(const std::string& where, TrainerOptions options)
      : LoadedModel(load_saved_model(where), std::move(options)) {}

  SavedModel saved;
  std::shared_ptr<Module> module;
  Trainer trainer;

 private:
  explicit LoadedModel(SavedModel the_saved) : LoadedModel(the_saved, options_of(the_saved)) {}
  LoadedModel(SavedModel the_saved, TrainerOptions options)
      : saved(std::move(the_saved)),
        module(build_module<Module>(saved)),
        trainer(std::move(options)) {
    trainer.load(saved, module);
    module->eval();
  }
};

}  // namespace halftone
