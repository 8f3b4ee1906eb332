// SPDX-License-Identifier: Apache-2.0
// The families, and what several of them share. Private to models/.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "halftone/models/model_family.h"

namespace halftone {

const ModelFamily& minimind_v2_family();
const ModelFamily& minimind_2504_family();
const ModelFamily& minimind_v3_family();
const ModelFamily& llama_family();
const ModelFamily& qwen2_family();
const ModelFamily& qwen3_family();

/// 8/3 dim, rounded up to a multiple of 64: SwiGLU with the parameters of a 4 dim wide layer.
std::int64_t eight_thirds(std::int64_t dim);

/// The keys of Llama's config.json, which most decoders share; the width of the feed-forward layer
/// is `hidden_key`.
std::vector<FileKey> llama_keys(std::string_view hidden_key = "intermediate_size");

/// llama_keys() and `more`.
std::vector<FileKey> llama_keys_and(const std::vector<FileKey>& more,
                                    std::string_view hidden_key = "intermediate_size");

}  // namespace halftone
