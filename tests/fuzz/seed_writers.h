// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>

namespace halftone::test {

void write_seed(const std::filesystem::path& path, const std::string& bytes);

/// Writes FOLDER/tokenizer, FOLDER/config and FOLDER/jsonl, which must be there.
void write_text_seeds(const std::filesystem::path& folder);

/// Writes FOLDER/png, FOLDER/wav, FOLDER/font, FOLDER/annotations and FOLDER/speech, which must be
/// there.
void write_media_seeds(const std::filesystem::path& folder);

}  // namespace halftone::test
