// SPDX-License-Identifier: Apache-2.0
// The key layer_precision: formats of single linear layers in a mixed precision.
#pragma once

#include <torch/nn/module.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "halftone/kernels/gemm/compute_type.h"
#include "halftone/kernels/linear/layer_formats.h"
#include "halftone/precision/policy.h"

namespace halftone {

/// "feed_forward=int8": the layers that a pattern matches multiply in a format.
struct LayerPrecision {
  std::string pattern;  // as those of keep_fp32()
  ComputeType format = ComputeType::kFloat32;
};

/// Reads "REGEX=FORMAT"; the last "=" counts. Throws UserError for a text without one, a pattern
/// that is no regular expression, and an unknown format.
LayerPrecision parse_layer_precision(const std::string& text);

/// Throws UserError for texts that can't be read, for any beside a precision that is not mixed, and
/// for a format that can't stand among the precision's tensors (can_stand_among()).
void check_layer_precision(const std::vector<std::string>& texts, const PrecisionPolicy& policy);

/// The formats that `texts` give to layers of `root`, by the path of the layer: of all
/// halftone::Linear and Conv2d that a pattern matches or that are below what it matches, and of an
/// Embedding as the output head. Of two texts that match one layer the later one wins. Throws
/// UserError as check_layer_precision(), for a pattern that matches no such layer, and for one that
/// matches a layer of torch::nn (nn/torch_layers.h), whose format is the precision's own.
std::map<std::string, ComputeType> layer_types(torch::nn::Module& root,
                                               const std::vector<std::string>& texts,
                                               const PrecisionPolicy& policy);

/// The same by weight, for a ComputeContext. A layer that keep_fp32() has marked stays in fp32.
std::shared_ptr<const LayerFormats> layer_formats(torch::nn::Module& root,
                                                  const std::map<std::string, ComputeType>& types);

/// Logs how many layers multiply in which format, and what a format's speed is like on `device`.
void log_layer_types(const std::map<std::string, ComputeType>& types, torch::Device device);

}  // namespace halftone
