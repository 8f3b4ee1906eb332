// SPDX-License-Identifier: Apache-2.0
// Text for training, one document at a time, whatever the kind of file. Memory: one document.
//
// A sample is:
//   .jsonl        each line's "text", exactly as written; or its chat, or its two chats of which
//   one
//                 is preferred (json_documents.h)
//   .json         the same of the elements of one array
//   fortune file  each text between "%" lines, without the blank lines around it and without what
//                 is meant for a terminal: ANSI escapes (fortunes-zh colours its titles) and
//                 overstrikes ("____\b\b\b\bBODY" is read as "BODY"); empty ones are left out
//   plain text    the whole file, or each paragraph (blank lines between) with split_paragraphs
// A sample too long for one document comes in several, in order. They are cut where GPT-2's
// pre-tokeniser cuts in any case, before a line break that is followed by a word, so encoding them
// one by one gives the ids of the whole; only a line over 256 KiB may be cut elsewhere.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "halftone/core/chat_message.h"
#include "halftone/data/corpus_files.h"
#include "halftone/data/sample_part.h"

namespace halftone {

enum class SampleKind {
  kText,
  kConversation,
  kPreference,  ///< two chats, one of them better
};

struct CorpusOptions {
  std::vector<std::filesystem::path> paths;
  bool split_paragraphs = false;
  bool replace_invalid_utf8 = false;  ///< with U+FFFD, instead of an error
  SamplePart part;                    ///< of the samples: the others are passed over
  /// Another kind is an error that names the task for it; nothing: any.
  std::optional<SampleKind> wanted = SampleKind::kText;
};

struct Document {
  std::string text;
  bool begins = true;  ///< a sample starts here
  bool ends = true;    ///< a sample ends here
  SampleKind kind = SampleKind::kText;
  std::vector<ChatMessage> messages;  ///< of a chat; of a preference, the better one
  std::vector<ChatMessage> rejected;  ///< of a preference, the other one
  std::string place;                  ///< of a chat: "FILE:LINE"
};

class DocumentReader;

class Corpus {
 public:
  /// Throws UserError as find_corpus_files does.
  explicit Corpus(CorpusOptions options);
  ~Corpus();
  Corpus(Corpus&&) noexcept;
  Corpus& operator=(Corpus&&) noexcept;
  /// Another part of the same files, from their start.
  Corpus other_part(const SamplePart& part) const;

  const CorpusOptions& options() const { return options_; }
  const std::vector<CorpusFile>& files() const { return files_; }
  std::uint64_t bytes() const;       ///< of all files
  std::uint64_t bytes_read() const;  ///< of them, up to the last document

  /// Changes when the content of a file, their order, or an option that changes samples does; not
  /// when files move. Reads every file.
  std::uint64_t content_hash() const;
  /// Identifies these files and their present content without reading them: paths, inodes, sizes
  /// and times. Empty if a file changed less than `settled` seconds ago, because a second change
  /// could have the same time.
  std::optional<std::string> stamp(double settled = 2.0) const;

  /// The next document, or false after the last. Throws UserError that names file and place: text
  /// that is not UTF-8, a line that is not JSON or has no "text", no text in all files together, no
  /// sample in options().part.
  bool next(Document& document);
  void rewind();
  /// What is wanted, else the kind of the first sample. Throws what next() throws; rewinds.
  SampleKind kind();

 private:
  CorpusOptions options_;
  std::vector<CorpusFile> files_;
  std::unique_ptr<DocumentReader> reader_;  // of files_[file_], when open
  std::size_t file_ = 0;
  std::uint64_t bytes_before_ = 0;  // of the files before files_[file_]
  bool any_ = false;
  std::uint64_t samples_ = 0;  // begun since the first file, of all parts
  bool is_in_part_ = true;     // the sample that was begun last
  bool part_is_empty_ = true;  // so far

  bool next_of_any_part(Document& document);
};

}  // namespace halftone
