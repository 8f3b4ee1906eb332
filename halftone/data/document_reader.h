// SPDX-License-Identifier: Apache-2.0
// How each kind of file becomes documents; corpus.h has the rules.
#pragma once

#include <cstdint>
#include <memory>

#include "halftone/data/corpus.h"

namespace halftone {

class DocumentReader {
 public:
  virtual ~DocumentReader() = default;
  virtual bool next(Document& document) = 0;
  virtual std::uint64_t bytes_read() const = 0;
};

/// Throws UserError when the file cannot be opened.
std::unique_ptr<DocumentReader> open_piece_reader(const CorpusFile& file,
                                                  const CorpusOptions& options);

/// `text` as a terminal would show it: ANSI escapes gone, backspaces carried out.
std::string strip_terminal_codes(const std::string& text);

}  // namespace halftone
