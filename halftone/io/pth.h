// SPDX-License-Identifier: Apache-2.0
// The files that torch.save writes since PyTorch 1.6 (.pth, .pt, .bin): a zip archive of
// NAME/data.pkl, which says what the tensors are, and NAME/data/KEY, the bytes of each storage. No
// code of a file is run.
#pragma once

#include <filesystem>

#include "halftone/core/state_dict.h"

namespace halftone {

/// Opens a state dict, or the one under "model", "state_dict" or "model_state_dict" of a file that
/// holds more, such as a file to resume from, whose numbers and texts ("epoch", "step") are then
/// the values. Tensors stay in the file until they are asked for, as in open_safetensors(). They
/// come to the CPU, whatever device they were saved on, contiguous, each in the dtype that it has
/// there. Those that are the same bytes of the file share memory with what was read of these
/// before, while that is there: a tied weight is read once. Throws UserError that names the file
/// and the place for whatever is wrong with it, and for a file of an older PyTorch.
StateDict open_pth(const std::filesystem::path& path);

}  // namespace halftone
