// SPDX-License-Identifier: Apache-2.0
// What a file holds, by its name and its first bytes.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include "halftone/data/corpus_files.h"

namespace halftone {

/// The first MiB of a file. Throws UserError when it cannot be opened.
std::string read_head(const std::filesystem::path& path);

/// Kind of a text file whose first bytes are `head`.
CorpusKind corpus_kind_of(const std::filesystem::path& path, std::string_view head);

struct CorpusRefusal {
  std::string what;    // "a table (.csv)"
  std::string remedy;  // a command, or what to do
};

/// Why a file cannot be trained on as text, or nothing.
std::optional<CorpusRefusal> corpus_refusal_of(const std::filesystem::path& path,
                                               std::string_view head);

}  // namespace halftone
