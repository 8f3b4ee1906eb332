// SPDX-License-Identifier: Apache-2.0
// The safetensors file format: 8 bytes little-endian length N, N bytes of JSON
// {"name": {"dtype", "shape", "data_offsets": [begin, end]}, ..., "__metadata__": {string:
// string}}, then the tensors' bytes, C-contiguous, little-endian, without holes. Offsets count from
// byte 8 + N. Files written here start their data at a multiple of 64 bytes and put the widest
// elements first, so that every tensor is aligned to its element.
#pragma once

#include <filesystem>
#include <map>
#include <string>

#include "halftone/core/state_dict.h"

namespace halftone {

class AtomicFile;

/// Reads every tensor of the file (to the CPU, each into its own storage) and the strings of its
/// `__metadata__` as values. The file is taken as hostile: whatever is wrong with it is a UserError
/// that names the file and the place.
StateDict load_safetensors(const std::filesystem::path& path);

/// The same without its tensors' bytes: StateDict::tensor() reads each when it is asked for, from
/// the file that was opened here, whatever has happened to its name since. What is wrong with the
/// header is a UserError here, what is wrong with a tensor is one there.
StateDict open_safetensors(const std::filesystem::path& path);

/// Writes `tensors` and `metadata` to `path`, replacing the file as a whole or not at all (see
/// atomic_file.h for the errors). Tensors may be on any device and of any strides; those that share
/// memory are stored once each. No copy is made of what lies in one piece on the CPU. Throws
/// c10::Error for a dtype that the format lacks and for a tensor that is lazy.
void save_safetensors(const std::filesystem::path& path,
                      const std::map<std::string, torch::Tensor>& tensors,
                      const std::map<std::string, std::string>& metadata = {});
/// The same into a file that the caller commits.
void save_safetensors(AtomicFile& file, const std::map<std::string, torch::Tensor>& tensors,
                      const std::map<std::string, std::string>& metadata = {});

}  // namespace halftone
