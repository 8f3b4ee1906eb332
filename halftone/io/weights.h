// SPDX-License-Identifier: Apache-2.0
// Weights in any of the files that programs exchange them in.
#pragma once

#include <filesystem>

#include "halftone/core/state_dict.h"

namespace halftone {

/// The file that open_weights() opens first: `path` itself, or the first that a folder has of
/// model.safetensors, model.safetensors.index.json, pytorch_model.bin and
/// pytorch_model.bin.index.json. Throws UserError when it has none.
std::filesystem::path weights_file(const std::filesystem::path& path);

/// Opens a file of weights, or the one of a Hugging Face folder: safetensors, what torch.save wrote
/// (.pth, .pt, .bin, .ckpt, see open_pth()), or an index of shards (.index.json) with the shards
/// beside it, all of whose tensors come together. Tensors are read when they are asked for. The
/// files are taken as hostile: whatever is wrong is a UserError that names the file, and no file
/// outside the folder is opened by an index's names.
StateDict open_weights(const std::filesystem::path& path);

}  // namespace halftone
