// SPDX-License-Identifier: Apache-2.0
// Which files of the given paths hold text, and of what kind.
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

namespace halftone {

enum class CorpusKind {
  kText,       ///< one document
  kFortune,    ///< documents divided by lines that hold only "%"
  kJsonl,      ///< one JSON object on each line
  kJsonArray,  ///< one array of such objects
};

struct CorpusFile {
  std::filesystem::path path;
  CorpusKind kind = CorpusKind::kText;
  std::uint64_t bytes = 0;
};

/// The text files among `paths`, each once, in the order given; a folder gives all below it, sorted
/// by path, links to files and folders followed. What a folder holds and is not read is said in one
/// message: hidden files, Debian's `copyright`, fortune's indexes (x.dat beside x) and aliases
/// (x.u8 beside x) in a note; in a warning files that are no text, links to nothing, and files that
/// are read already. A file that is named again is said too.
///
/// Kinds: .jsonl, .ndjson and .json are JSON lines, but a .json that begins with '[' is one array;
/// other files are fortune files if a line of
/// their first MiB is "%", unless their name says markup (.md, .tex, ...), where such lines mean
/// something else; the rest is plain text.
///
/// Throws UserError that names the path: missing, unreadable, not a file or folder, no text in a
/// folder, a table (.csv, .parquet, ...), a document (.pdf, ...), a binary, compressed or UTF-16
/// file.
std::vector<CorpusFile> find_corpus_files(const std::vector<std::filesystem::path>& paths);

}  // namespace halftone
