// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "halftone/data/corpus.h"
#include "halftone/data/token_file.h"

namespace halftone {

using EncodeFunction = std::function<std::vector<std::int32_t>(std::string_view)>;

/// The part of a tokenizer that the data layer needs.
struct TokenizerInterface {
  EncodeFunction encode;  ///< ids of a text; adds neither bos nor eos
  /// How often a text spells a special token; empty: nothing is counted.
  std::function<std::uint64_t(std::string_view)> count_special_tokens;
  /// Whether `encode` gives the ids of special tokens that a text spells. A sample that brings its
  /// own bos or eos gets no second one.
  bool reads_special_tokens = false;
  std::int64_t vocab_size = 0;
  std::int64_t bos_id = 0;
  std::int64_t eos_id = 0;
  std::int64_t pad_id = 0;
  std::string identity;  ///< differs when ids would, such as a hash of tokenizer.json
};

struct TokenCacheOptions {
  std::filesystem::path folder;  ///< empty: `tokens` in cache_folder()
  double settled =
      2.0;  ///< seconds that files must have been left alone to be known by their times
  /// Told bytes done and bytes in all while text is encoded; not called for tokens from the cache.
  std::function<void(std::uint64_t, std::uint64_t)> progress;
};

/// The ids of a corpus, with where they came from, for resuming.
struct TokenizedData {
  std::shared_ptr<const TokenFile> tokens;
  std::uint64_t content_hash = 0;    ///< of the corpus
  std::uint64_t tokenizer_hash = 0;  ///< of its identity and special ids
  std::int64_t pad_id = 0;
  bool reads_special_tokens = false;  ///< as the tokenizer that encoded it
};

/// Encodes each sample as bos, ids, eos, in one pass and constant memory, or takes what an earlier
/// call with equal text and tokenizer left in the cache. The text is known by its content, and
/// files that were read before by Corpus::stamp(). A damaged cache file is made again; where the
/// cache cannot be written, the system's temporary folder is used, with a note. Throws what
/// Corpus::next throws, and SystemError when the disk is full. Rewinds the corpus first.
TokenizedData tokenize_corpus(Corpus& corpus, const TokenizerInterface& tokenizer,
                              const TokenCacheOptions& options = {});

}  // namespace halftone
