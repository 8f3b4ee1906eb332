// SPDX-License-Identifier: Apache-2.0
// The options of a module as one struct: what each checkpoint keeps, and a module is built from.
//
//   struct ClassifierOptions {
//     std::int64_t width = 64;
//     double dropout = 0.1;
//     void fields(auto each) {
//       each("width", width, "of the hidden layer");
//       each("dropout", dropout);  // what it means may be said, or not
//     }
//   };
//   struct Classifier : halftone::TrainingModule<> {
//     using Options = ClassifierOptions;
//     explicit Classifier(const Options& options) {
//       save_hyper_parameters(halftone::hyper_parameters_of(options));
//       ...
//
//   const halftone::SavedModel saved = halftone::load_saved_model("runs/classifier");
//   const auto classifier = halftone::build_module<Classifier>(saved);
//   halftone::load_weights(*classifier, saved);
#pragma once

#include <map>
#include <memory>
#include <string>

#include "halftone/core/state_dict.h"
#include "halftone/train/saved_model.h"

namespace halftone {

/// The fields of `options`, each a bool, std::int64_t, double or std::string, as
/// TrainingModuleBase::save_hyper_parameters() takes them.
template <class Options>
std::map<std::string, StateDict::Value> hyper_parameters_of(Options options) {
  std::map<std::string, StateDict::Value> values;
  options.fields([&](const char* name, const auto& value, const auto&... /*meaning*/) {
    values.insert_or_assign(name, value);
  });
  return values;
}

/// The options that a module was saved with; what fields() does not name keeps its default. Throws
/// UserError that names the file where one is missing or of another type.
template <class Options>
Options saved_options(const SavedModel& saved) {
  Options options;
  options.fields([&]<class Value>(const char* name, Value& value, const auto&... /*meaning*/) {
    value = saved.hyper_parameter<Value>(name);
  });
  return options;
}

/// Module(saved_options<Module::Options>(saved)): the module that was saved, with weights drawn
/// anew until load_weights() or Trainer::load() gives it the saved ones.
template <class Module>
std::shared_ptr<Module> build_module(const SavedModel& saved) {
  return std::make_shared<Module>(saved_options<typename Module::Options>(saved));
}

}  // namespace halftone
