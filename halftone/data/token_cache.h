// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "halftone/data/corpus.h"
#include "halftone/data/token_file.h"

namespace halftone {

using EncodeChatFunction = std::function<ChatIds(std::span<const ChatMessage>)>;
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
  EncodeChatFunction encode_chat = {};  ///< throws UserError where a chat does not fit
  std::string chat_identity = {};       ///< differs when ids of chats would
};

struct TokenCacheOptions {
  std::filesystem::path folder;  ///< empty: `tokens` in cache_folder()
  double settled =
      2.0;  ///< seconds that files must have been left alone to be known by their times
  /// Told bytes done and bytes in all while text is encoded; not called for tokens from the cache.
  std::function<void(std::uint64_t, std::uint64_t)> progress;
};

/// An id with whether an assistant has to say it, as a TokenFile of chats holds both.
constexpr std::int64_t with_answer(std::int64_t id, bool is_answer) {
  return 2 * id + (is_answer ? 1 : 0);
}
constexpr bool is_answer(std::int64_t id_with_answer) { return id_with_answer % 2 != 0; }
constexpr std::int64_t without_answer(std::int64_t id_with_answer) { return id_with_answer / 2; }

/// The ids of a corpus, with where they came from, for resuming.
struct TokenizedData {
  std::shared_ptr<const TokenFile> tokens;
  std::uint64_t content_hash = 0;    ///< of the corpus
  std::uint64_t tokenizer_hash = 0;  ///< of its identity and special ids
  std::int64_t pad_id = 0;
  bool reads_special_tokens = false;  ///< as the tokenizer that encoded it
  /// Of chats, `tokens` holds with_answer() of each id; of preferences the better chat and the
  /// other one in turn, a sample each.
  SampleKind kind = SampleKind::kText;
};

/// Encodes each sample as bos, ids, eos, and a chat as the tokenizer does, in one pass and constant
/// memory, or takes what an earlier call with equal text and tokenizer left in the cache. The text
/// is known by its content, and files that were read before by Corpus::stamp(). A damaged cache
/// file is made again; where the cache cannot be written, the system's temporary folder is used,
/// with a note. Throws what Corpus::next throws, and SystemError when the disk is full. Rewinds the
/// corpus first.
TokenizedData tokenize_corpus(Corpus& corpus, const TokenizerInterface& tokenizer,
                              const TokenCacheOptions& options = {});

}  // namespace halftone
