// SPDX-License-Identifier: Apache-2.0
#include "halftone/data/token_cache.h"

#include <fmt/format.h>
#include <unistd.h>

#include <charconv>
#include <fstream>
#include <optional>
#include <system_error>

#include "halftone/core/error.h"
#include "halftone/core/log.h"
#include "halftone/data/json_documents.h"
#include "halftone/system/hash.h"
#include "halftone/system/paths.h"

namespace halftone {
namespace {

namespace fs = std::filesystem;

std::uint64_t hash_tokenizer(const TokenizerInterface& tokenizer, SampleKind kind) {
  Hasher hasher;
  hasher.update_field(tokenizer.identity);
  hasher.update_field(fmt::format("{} {} {} {}", tokenizer.vocab_size, tokenizer.bos_id,
                                  tokenizer.eos_id, tokenizer.pad_id));
  if (kind != SampleKind::kText) hasher.update_field(tokenizer.chat_identity);
  return hasher.digest();
}

std::uint64_t combine(std::uint64_t first, std::uint64_t second) {
  return hash_bytes(fmt::format("{:016x}{:016x}", first, second));
}

bool is_writable_folder(const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  return !error && access(folder.c_str(), W_OK | X_OK) == 0;
}

/// Beside the tokens: the hash of the text that has this stamp, and the hash of both.
fs::path hash_path(const fs::path& folder, const std::string& stamp) {
  return folder / fmt::format("{:016x}.text", hash_bytes(stamp));
}

std::string hash_line(const std::string& stamp, std::uint64_t content) {
  return fmt::format("{:016x} {:016x}\n", content, combine(hash_bytes(stamp), content));
}

std::optional<std::uint64_t> remembered_hash(const fs::path& path, const std::string& stamp) {
  std::string line;
  std::getline(std::ifstream(path) >> std::ws, line);
  std::uint64_t content = 0;
  const auto [end, error] = std::from_chars(line.data(), line.data() + line.size(), content, 16);
  if (error != std::errc() || hash_line(stamp, content) != line + "\n") return std::nullopt;
  return content;
}

/// Where it can't be kept, it is computed again.
void remember_hash(const fs::path& path, const std::string& stamp, std::uint64_t content) {
  const fs::path temporary = path.string() + fmt::format(".tmp-{}", getpid());
  std::ofstream(temporary) << hash_line(stamp, content);
  std::error_code error;
  fs::rename(temporary, path, error);
  if (error) fs::remove(temporary, error);
}

std::uint64_t content_hash_of(const Corpus& corpus, const fs::path& folder, double settled) {
  const std::optional<std::string> stamp = corpus.stamp(settled);
  if (!stamp) return corpus.content_hash();
  const fs::path path = hash_path(folder, *stamp);
  if (const auto known = remembered_hash(path, *stamp)) return *known;
  const std::uint64_t content = corpus.content_hash();
  if (is_writable_folder(folder)) remember_hash(path, *stamp, content);
  return content;
}

std::shared_ptr<const TokenFile> open_cached(const fs::path& path, std::uint64_t key) {
  std::error_code ignored;
  if (!fs::exists(path, ignored)) return nullptr;
  try {
    auto tokens = std::make_shared<const TokenFile>(path);
    if (tokens->key() == key) return tokens;
  } catch (const UserError& error) {
    log_note(fmt::format("building the cached tokens again: {}", error.what()));
  }
  return nullptr;
}

/// Puts bos before a sample's ids and eos behind them, but not beside marks that the sample brings
/// along as tokens.
class SampleMarks {
 public:
  explicit SampleMarks(const TokenizerInterface& tokenizer)
      : bos_(static_cast<std::int32_t>(tokenizer.bos_id)),
        eos_(static_cast<std::int32_t>(tokenizer.eos_id)),
        keeps_own_(tokenizer.reads_special_tokens) {}

  void add(const Document& document, std::vector<std::int32_t>& ids) {
    if (document.begins) {
      size_ = 0;
      if (!keeps_own_ || ids.empty() || ids.front() != bos_) ids.insert(ids.begin(), bos_);
    }
    if (!ids.empty()) last_ = ids.back();
    size_ += ids.size();
    const bool has_eos = keeps_own_ && size_ > 1 && last_ == eos_;
    if (document.ends && !has_eos) ids.push_back(eos_);
  }

 private:
  std::int32_t bos_;
  std::int32_t eos_;
  bool keeps_own_;
  std::int32_t last_ = 0;  // id of the sample so far
  std::size_t size_ = 0;   // ids of the sample so far
};

std::vector<std::int32_t> encoded_chat(const std::vector<ChatMessage>& messages,
                                       const std::string& place,
                                       const TokenizerInterface& tokenizer) {
  HALFTONE_CHECK(tokenizer.encode_chat != nullptr,
                 "[token_cache] expected a tokenizer that encodes chats");
  ChatIds chat;
  try {
    chat = tokenizer.encode_chat(messages);
  } catch (const UserError& error) {
    throw UserError(fmt::format("{}: {}", place, error.what()));
  }
  for (std::size_t i = 0; i < chat.ids.size(); ++i)
    chat.ids[i] = static_cast<std::int32_t>(with_answer(chat.ids[i], chat.is_answer[i] != 0));
  return std::move(chat.ids);
}

void write_chat(const std::vector<ChatMessage>& messages, const std::string& place,
                const TokenizerInterface& tokenizer, TokenFileWriter& writer) {
  std::uint64_t bytes = 0, special = 0;
  for (const ChatMessage& message : messages) {
    bytes += message.content.size();
    if (tokenizer.count_special_tokens) special += tokenizer.count_special_tokens(message.content);
  }
  writer.begin_sample();
  writer.add(encoded_chat(messages, place, tokenizer), bytes);
  writer.count_special_tokens(special);
}

void write_text(const Document& document, const TokenizerInterface& tokenizer, SampleMarks& marks,
                TokenFileWriter& writer) {
  if (document.begins) writer.begin_sample();
  std::vector<std::int32_t> ids = tokenizer.encode(document.text);
  marks.add(document, ids);
  writer.add(ids, document.text.size());
  if (tokenizer.count_special_tokens)
    writer.count_special_tokens(tokenizer.count_special_tokens(document.text));
}

void write_tokens(Corpus& corpus, const TokenizerInterface& tokenizer, TokenFileWriter& writer,
                  const TokenCacheOptions& options) {
  const std::uint64_t total = corpus.bytes();
  corpus.rewind();
  SampleMarks marks(tokenizer);
  const SampleKind kind = corpus.kind();
  Document document;
  while (corpus.next(document)) {
    check_sample_kind(document.kind, kind,
                      document.place.empty() ? "a file of the data" : document.place);
    if (kind == SampleKind::kText)
      write_text(document, tokenizer, marks, writer);
    else
      write_chat(document.messages, document.place, tokenizer, writer);
    if (kind == SampleKind::kPreference)
      write_chat(document.rejected, document.place, tokenizer, writer);
    if (options.progress) options.progress(corpus.bytes_read(), total);
  }
  writer.finish();
}

}  // namespace

TokenizedData tokenize_corpus(Corpus& corpus, const TokenizerInterface& tokenizer,
                              const TokenCacheOptions& options) {
  fs::path folder = options.folder.empty() ? cache_folder() / "tokens" : options.folder;
  const SampleKind kind = corpus.kind();
  TokenizedData data{.content_hash = content_hash_of(corpus, folder, options.settled),
                     .tokenizer_hash = hash_tokenizer(tokenizer, kind),
                     .pad_id = tokenizer.pad_id,
                     .reads_special_tokens = tokenizer.reads_special_tokens,
                     .kind = kind};
  const std::uint64_t key = combine(combine(data.content_hash, data.tokenizer_hash),
                                    static_cast<std::uint64_t>(tokenizer.reads_special_tokens));
  const std::string name = fmt::format("{:016x}.tokens", key);
  if ((data.tokens = open_cached(folder / name, key))) return data;

  const bool keeps = is_writable_folder(folder);
  if (!keeps) {
    log_note(fmt::format("cannot write the cache {}; each run will encode the text again",
                         folder.string()));
    folder = fs::temp_directory_path();
  }
  const fs::path path = keeps ? folder / name : folder / fmt::format("{}-{}", getpid(), name);
  {
    const std::int64_t ids = kind == SampleKind::kText ? 1 : 2;  // of one token: with_answer()
    TokenFileWriter writer(path, ids * tokenizer.vocab_size, key);
    write_tokens(corpus, tokenizer, writer, options);
  }
  data.tokens = std::make_shared<const TokenFile>(path);
  if (!keeps) fs::remove(path);  // it stays readable until the last user is gone
  return data;
}

}  // namespace halftone
