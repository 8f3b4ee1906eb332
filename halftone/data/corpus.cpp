// SPDX-License-Identifier: Apache-2.0
#include "halftone/data/corpus.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <fstream>
#include <system_error>

#include "halftone/core/error.h"
#include "halftone/data/document_reader.h"
#include "halftone/system/hash.h"

namespace halftone {
namespace {

// Raised when a rule of corpus.h changes, so that no cache made by the old rule is taken.
constexpr char kRuleVersion = 1;

// Kinds beside text came later: without them, hashes and stamps are those of before.
std::string wanted_text(const CorpusOptions& options) {
  return options.wanted ? fmt::format("kind {}", static_cast<int>(*options.wanted)) : "any kind";
}

void hash_file(const std::filesystem::path& path, Hasher& hasher) {
  std::ifstream stream(path, std::ios::binary);
  if (!stream)
    throw UserError(
        fmt::format("cannot open the data file {}: {}", path.string(), std::strerror(errno)));
  std::string buffer(std::size_t{256} << 10U, '\0');
  while (stream) {
    stream.read(buffer.data(), static_cast<std::streamsize>(buffer.size()));
    hasher.update({buffer.data(), static_cast<std::size_t>(stream.gcount())});
  }
  if (stream.bad()) throw SystemError(fmt::format("cannot read {}", path.string()));
}

std::string empty_part(const CorpusOptions& options, std::uint64_t samples,
                       const std::vector<CorpusFile>& files) {
  const bool has_whole_files =
      !options.split_paragraphs && std::any_of(files.begin(), files.end(), [](const auto& file) {
        return file.kind == CorpusKind::kText;
      });
  const std::string remedy = fmt::format(
      "name text of its own with val_data{}",
      has_whole_files ? " (a plain text file is one document; with pack = false each paragraph is)"
                      : "");
  if (samples == 1)
    return fmt::format("the data has 1 document, which val_split can't divide; {}", remedy);
  const bool holds_out = options.part.side == SamplePart::Side::kHeldOut;
  return fmt::format(
      "the data has {} documents, of which a val_split of {} leaves none for {}; {} it, take "
      "another seed, or {}",
      samples, options.part.share, holds_out ? "validation" : "training",
      holds_out ? "raise" : "lower", remedy);
}

}  // namespace

Corpus::Corpus(CorpusOptions options)
    : options_(std::move(options)), files_(find_corpus_files(options_.paths)) {}

Corpus::~Corpus() = default;
Corpus::Corpus(Corpus&&) noexcept = default;
Corpus& Corpus::operator=(Corpus&&) noexcept = default;

// Files that are named one by one are those that were found, and nothing is said again of what
// their folders hold beside them.
Corpus Corpus::other_part(const SamplePart& part) const {
  CorpusOptions options = options_;
  options.part = part;
  options.paths.clear();
  for (const CorpusFile& file : files_) options.paths.push_back(file.path);
  return Corpus(std::move(options));
}

std::uint64_t Corpus::bytes() const {
  std::uint64_t sum = 0;
  for (const CorpusFile& file : files_) sum += file.bytes;
  return sum;
}

std::uint64_t Corpus::bytes_read() const {
  return bytes_before_ + (reader_ ? reader_->bytes_read() : 0);
}

std::uint64_t Corpus::content_hash() const {
  Hasher hasher;
  hasher.update({&kRuleVersion, 1});
  for (const CorpusFile& file : files_) {
    const bool splits = options_.split_paragraphs && file.kind == CorpusKind::kText;
    hasher.update_field(fmt::format("{} {} {} {}", static_cast<int>(file.kind), splits,
                                    options_.replace_invalid_utf8, file.bytes));
    hash_file(file.path, hasher);
  }
  if (!options_.part.is_all()) hasher.update_field(options_.part.identity());
  if (options_.wanted != SampleKind::kText) hasher.update_field(wanted_text(options_));
  return hasher.digest();
}

std::optional<std::string> Corpus::stamp(double settled) const {
  const auto seconds = [](const timespec& time) {
    return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
  };
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  std::string text = fmt::format("{} {} {}\n", int{kRuleVersion}, options_.split_paragraphs,
                                 options_.replace_invalid_utf8);
  if (!options_.part.is_all()) text += options_.part.identity() + "\n";
  if (options_.wanted != SampleKind::kText) text += wanted_text(options_) + "\n";
  for (const CorpusFile& file : files_) {
    struct stat status {};
    if (::stat(file.path.c_str(), &status) != 0) return std::nullopt;
    // The time of change can't be set by programs, unlike the time of modification.
    if (seconds(now) - seconds(status.st_ctim) < settled) return std::nullopt;
    std::error_code error;
    const std::filesystem::path path = std::filesystem::canonical(file.path, error);
    if (error) return std::nullopt;
    text += fmt::format("{} {} {} {} {} {}.{:09} {}.{:09}\n", path.string(),
                        static_cast<int>(file.kind), status.st_dev, status.st_ino, status.st_size,
                        status.st_mtim.tv_sec, status.st_mtim.tv_nsec, status.st_ctim.tv_sec,
                        status.st_ctim.tv_nsec);
  }
  return text;
}

bool Corpus::next_of_any_part(Document& document) {
  for (; file_ < files_.size(); ++file_) {
    if (!reader_) reader_ = open_piece_reader(files_[file_], options_);
    if (reader_->next(document)) return any_ = true;
    reader_.reset();
    bytes_before_ += files_[file_].bytes;
  }
  return false;
}

bool Corpus::next(Document& document) {
  while (next_of_any_part(document)) {
    if (document.begins) is_in_part_ = options_.part.has(samples_++);
    if (!is_in_part_) continue;
    part_is_empty_ = false;
    return true;
  }
  if (!any_)
    throw UserError(
        fmt::format("no text found in {}{}; expected at least one line that is not blank",
                    files_[0].path.string(), files_.size() > 1 ? ", ..." : ""));
  if (part_is_empty_) throw UserError(empty_part(options_, samples_, files_));
  return false;
}

void Corpus::rewind() {
  reader_.reset();
  file_ = 0;
  bytes_before_ = 0;
  samples_ = 0;
}

SampleKind Corpus::kind() {
  if (options_.wanted) return *options_.wanted;
  rewind();
  Document first;
  next(first);
  rewind();
  return first.kind;
}

}  // namespace halftone
