// SPDX-License-Identifier: Apache-2.0
// Finds the origin of the first inf or nan of a training step.
#pragma once

#include <torch/nn/module.h>
#include <torch/types.h>

#include <functional>
#include <optional>
#include <string>

#include "halftone/inspect/non_finite_cause.h"
#include "halftone/inspect/site.h"

namespace halftone {

struct NonFiniteOrigin {
  enum class Kind {
    kForward,    // an operation of the forward pass made it from finite numbers
    kBackward,   // one of the backward pass did
    kInput,      // an operation read it, and none that was seen had made it: data, or foreign code
    kParameter,  // it was there before: a parameter holds it
    kUpdate,     // an optimizer made it: a parameter that was finite holds it after the update
  };
  Kind kind = Kind::kForward;
  /// Where it began; of kParameter and kUpdate, the module of the first parameter and all
  /// `parameters`. Of several weights that one matmul reads, it names those whose part of its
  /// result is not finite; in the backward pass, all.
  Site site;
  std::string gradient;  // the first parameter whose gradient it reached
  /// Why. Its inputs are what the operation read; of kParameter, the parameters, eight at most.
  NonFiniteDiagnosis diagnosis;
};

/// "forward", "backward", "input", "parameter", "update".
std::string to_string(NonFiniteOrigin::Kind kind);

/// What the origin is, without why: "aten::mm in MmBackward0, the backward pass of aten::mm with
/// 'layers.3.weight', makes the first non-finite gradient; it reaches that of 'layers.3.weight'"
std::string place_of(const NonFiniteOrigin& origin);

/// Why, and the inputs: "it overflows fp16, which ends at 65504: the largest result would be
/// 1.2e+05; inputs: self fp16 [64, 512] up to 310, 'layers.3.weight' fp16 [512, 8] up to 6e+04"
std::string explanation_of(const NonFiniteOrigin& origin);

/// Both: the place, a colon and the explanation.
std::string to_string(const NonFiniteOrigin& origin);

/// The parameters of `module` that are not finite, as an origin of kParameter.
std::optional<NonFiniteOrigin> find_bad_parameters(const torch::nn::Module& module);

/// Runs `loss` (forward, scaled if training scales it: pass scaler.scale(...)) and, if what it
/// gives is finite, its backward pass, looking at the result of every operation. Follows what is
/// not finite from the loss, or from the parameters' gradients, back to where it began: a mask of
/// -inf that a softmax takes in is not blamed. Nothing when all of it is finite. Gradients in .grad
/// stay as they are. `loss` repeats a step if it sets the generators to their state before that
/// step (GeneratorScope). Every operation waits for the device, those of other threads too; one
/// search at a time.
std::optional<NonFiniteOrigin> find_first_non_finite(const torch::nn::Module& module,
                                                     const std::function<torch::Tensor()>& loss);

}  // namespace halftone
