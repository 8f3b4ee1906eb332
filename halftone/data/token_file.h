// SPDX-License-Identifier: Apache-2.0
// Token ids of a corpus on disk.
//
// Format (little endian): a header of 72 bytes, the ids, zeros up to a multiple of 8 bytes, and for
// each sample the index of its first id, then the number of ids.
//   0  char[8]  "htTokens"       24  u64  samples
//   8  u32      version, 2       32  u64  bytes of text
//  12  u32      bytes per id     40  u64  special tokens that the text spells
//  16  u64      ids              48  u64  key: what the ids were made from
//                                56  u64  XXH64 of the ids and the samples' indexes
//                                64  u64  XXH64 of the 64 bytes before
#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string_view>
#include <utility>

#include "halftone/system/mapped_file.h"

namespace halftone {

/// Reads ids where they lie on disk: no memory grows with the file, which stays readable when it is
/// deleted. Every method is safe to call from several threads; SystemError when the file has become
/// shorter. It is mapped: MappedFile says what that cannot report.
class TokenFile {
 public:
  /// Checks all of the file first. Throws UserError when it is not a whole, undamaged token file.
  explicit TokenFile(const std::filesystem::path& path);

  std::uint64_t size() const { return tokens_; }  ///< ids in all samples
  std::uint64_t samples() const { return samples_; }
  std::uint64_t text_bytes() const { return text_bytes_; }
  std::uint64_t special_tokens() const { return special_tokens_; }  ///< that the text spells
  std::uint64_t key() const { return key_; }
  /// Indexes of the sample's first id and of the one behind its last. REQUIRES sample < samples().
  std::pair<std::uint64_t, std::uint64_t> sample_range(std::uint64_t sample) const;
  /// Ids `begin`, `begin` + 1, ... REQUIRES begin + out.size() <= size().
  void copy(std::uint64_t begin, std::span<std::int64_t> out) const;

 private:
  void load_header(const std::filesystem::path& path);
  std::string_view bytes(std::uint64_t offset, std::uint64_t count) const;

  MappedFile file_;
  mutable std::atomic<std::uint64_t> read_ = 0;  // since pages were released
  std::uint32_t id_bytes_ = 0;
  std::uint64_t tokens_ = 0;
  std::uint64_t samples_ = 0;
  std::uint64_t text_bytes_ = 0;
  std::uint64_t special_tokens_ = 0;
  std::uint64_t key_ = 0;
};

/// Writes a token file front to back in constant memory. Until finish() nothing stands at `path`,
/// and nothing is left behind when it is not called. Throws SystemError that names the file when it
/// cannot be written (a full disk).
class TokenFileWriter {
 public:
  /// Ids must be below `vocab_size`: 2 bytes each up to 65,536, else 4.
  TokenFileWriter(const std::filesystem::path& path, std::int64_t vocab_size, std::uint64_t key);
  ~TokenFileWriter();
  TokenFileWriter(const TokenFileWriter&) = delete;
  TokenFileWriter& operator=(const TokenFileWriter&) = delete;

  void begin_sample();
  void add(std::span<const std::int32_t> ids, std::uint64_t text_bytes);
  void count_special_tokens(std::uint64_t more);
  void finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace halftone
