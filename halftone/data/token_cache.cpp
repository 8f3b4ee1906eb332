// SPDX-License-Identifier: Apache-2.0
#include "halftone/data/token_cache.h"

#include <fmt/format.h>
#include <unistd.h>

#include <optional>
#include <system_error>

#include "halftone/core/error.h"
#include "halftone/core/hash.h"
#include "halftone/core/log.h"
#include "halftone/core/paths.h"

namespace halftone {
namespace {

namespace fs = std::filesystem;

std::uint64_t hash_tokenizer(const TokenizerInterface& tokenizer) {
  Hasher hasher;
  hasher.update_field(tokenizer.identity);
  hasher.update_field(fmt::format("{} {} {} {}", tokenizer.vocab_size, tokenizer.bos_id,
                                  tokenizer.eos_id, tokenizer.pad_id));
  return hasher.digest();
}

std::uint64_t combine(std::uint64_t first, std::uint64_t second) {
  return hash_bytes(fmt::format("{:016x}{:016x}", first, second));
}

std::shared_ptr<const TokenFile> open_cached(const fs::path& path, std::uint64_t key) {
  std::error_code ignored;
  if (!fs::exists(path, ignored)) return nullptr;
  try {
    auto tokens = std::make_shared<const TokenFile>(path);
    if (tokens->key() == key) return tokens;
  } catch (const UserError& error) {
    log_note(fmt::format("making the cached tokens again: {}", error.what()));
  }
  return nullptr;
}

void write_tokens(Corpus& corpus, const TokenizerInterface& tokenizer, TokenFileWriter& writer,
                  const TokenCacheOptions& options) {
  const std::uint64_t total = corpus.bytes();
  corpus.rewind();
  Piece piece;
  std::vector<std::int32_t> ids;
  while (corpus.next(piece)) {
    ids.clear();
    if (piece.begins) {
      writer.begin_sample();
      ids.push_back(static_cast<std::int32_t>(tokenizer.bos_id));
    }
    const std::vector<std::int32_t> encoded = tokenizer.encode(piece.text);
    ids.insert(ids.end(), encoded.begin(), encoded.end());
    if (piece.ends) ids.push_back(static_cast<std::int32_t>(tokenizer.eos_id));
    writer.add(ids, piece.text.size());
    if (options.progress) options.progress(corpus.bytes_read(), total);
  }
  writer.finish();
}

bool is_writable_folder(const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  return !error && access(folder.c_str(), W_OK | X_OK) == 0;
}

}  // namespace

TokenizedData tokenize_corpus(Corpus& corpus, const TokenizerInterface& tokenizer,
                              const TokenCacheOptions& options) {
  TokenizedData data{.content_hash = corpus.content_hash(),
                     .tokenizer_hash = hash_tokenizer(tokenizer),
                     .pad_id = tokenizer.pad_id,
                     .eos_id = tokenizer.eos_id};
  const std::uint64_t key = combine(data.content_hash, data.tokenizer_hash);
  fs::path folder = options.folder.empty() ? cache_folder() / "tokens" : options.folder;
  const std::string name = fmt::format("{:016x}.tokens", key);
  if ((data.tokens = open_cached(folder / name, key))) return data;

  const bool keeps = is_writable_folder(folder);
  if (!keeps) {
    log_note(fmt::format("cannot write the cache {}; the tokens are made anew in each run",
                         folder.string()));
    folder = fs::temp_directory_path();
  }
  const fs::path path = keeps ? folder / name : folder / fmt::format("{}-{}", getpid(), name);
  {
    TokenFileWriter writer(path, tokenizer.vocab_size, key);
    write_tokens(corpus, tokenizer, writer, options);
  }
  data.tokens = std::make_shared<const TokenFile>(path);
  if (!keeps) fs::remove(path);  // it stays readable until the last user is gone
  return data;
}

}  // namespace halftone
