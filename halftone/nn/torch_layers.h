// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/nn/module.h>

#include <string>

namespace halftone {

/// A layer of torch::nn that multiplies by a weight: its name ("torch::nn::Conv2d"), and
/// halftone's layer in its place, or nothing where there is none. Such a layer multiplies in the
/// dtype of its tensors, under autocast in autocast's; it never quantizes.
struct TorchLayer {
  std::string name;
  std::string ours;
};

/// What `module` is; an empty name for any other module.
TorchLayer torch_layer(const torch::nn::Module& module);

}  // namespace halftone
