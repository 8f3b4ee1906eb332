// SPDX-License-Identifier: Apache-2.0
// Memory that lies in a file: its pages count as the process's own only between their use and
// release_pages(), so that a machine with little of it can work on more than it holds.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <filesystem>

namespace halftone {

/// `bytes` zeros on the CPU, as a uint8 vector that begins on a page, in a file of their own in
/// `folder`. The file has no name: its room is free again once the last tensor in it is gone, or
/// the process, whatever ended it. All of the room is taken now, so that a disk that is full is a
/// SystemError here that names the folder and the bytes; a folder that is missing or can't be
/// written is a UserError. What a mapping cannot report is a disk that breaks later, or one that
/// needs new room to change what is there (copy on write) and has none: that ends the process with
/// SIGBUS.
torch::Tensor zeros_in_file(const std::filesystem::path& folder, std::int64_t bytes);

/// Throws what zeros_in_file() would, short of a full disk.
void check_file_memory(const std::filesystem::path& folder);

/// Whether what is written to `folder` takes memory all the same, as in /dev/shm.
bool is_folder_in_memory(const std::filesystem::path& folder);

bool lies_in_file(const torch::Tensor& tensor);

/// Takes the pages that a contiguous tensor in such a file lies on out of the process's memory.
/// Their content stays in the system's cache and moves to the disk when memory is short. Reading or
/// writing brings the pages back. Does nothing for any other tensor.
void release_pages(const torch::Tensor& tensor);

/// Lets the system begin to read those pages from the disk, as far as they are no longer in its
/// cache, without waiting. Of any other tensor nothing happens.
void request_pages(const torch::Tensor& tensor);

}  // namespace halftone
