// SPDX-License-Identifier: Apache-2.0
#include "halftone/media/speech_set.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <sstream>
#include <string_view>
#include <utility>

#include "halftone/core/error.h"
#include "halftone/data/collate.h"
#include "halftone/data/gzip_file.h"
#include "halftone/media/spoken_names_impl.h"
#include "halftone/media/wav_file.h"
#include "halftone/system/file.h"
#include "halftone/system/hash.h"

namespace halftone {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kMaxIndexBytes = std::uint64_t{64} << 20U;
constexpr std::size_t kMaxUtterances = 1'000'000;  // in memory each takes many times its line

/// A text file with one record in each line.
class LineFile {
 public:
  LineFile(fs::path path, std::string text, std::string remedy)
      : path_(std::move(path)), text_(std::move(text)), remedy_(std::move(remedy)) {}

  bool next(std::string& line) {
    ++number_;
    return static_cast<bool>(std::getline(text_, line));
  }
  void check_room(std::size_t utterances) const {
    if (utterances >= kMaxUtterances)
      fail(fmt::format("at most {} utterances in all", kMaxUtterances));
  }
  [[noreturn]] void fail(const std::string& expected) const {
    throw UserError(
        fmt::format("'{}', line {}: expected {}; {}", path_.string(), number_, expected, remedy_));
  }

 private:
  fs::path path_;
  std::istringstream text_;
  std::string remedy_;
  std::int64_t number_ = 0;
};

std::vector<std::string> fields_of(const std::string& line) {
  std::vector<std::string> fields;
  for (std::size_t from = 0; from < line.size();) {
    const std::size_t to = std::min(line.find('\t', from), line.size());
    fields.push_back(line.substr(from, to - from));
    from = to + 1;
  }
  return fields;
}

std::int64_t count_in(const std::string& text, const LineFile& file) {
  std::int64_t value = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 0)
    file.fail(fmt::format("a number of frames, got '{}'", text));
  return value;
}

std::vector<fs::path> indices_in(const fs::path& folder) {
  std::vector<fs::path> files;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error))
    if (entry.path().extension() == ".tsv") files.push_back(entry.path());
  if (files.empty())
    throw UserError(fmt::format(
        "'{}' has no SPEAKER.tsv; 'halftone data fetch spoken-names' prints a folder that has some",
        folder.string()));
  std::sort(files.begin(), files.end());
  return files;
}

std::string read_packed(const fs::path& path) {
  GzipFile file(path);
  std::string text;
  std::array<char, 65'536> part;
  while (const std::size_t bytes = file.read(part.data(), part.size())) {
    text.append(part.data(), bytes);
    if (text.size() > kMaxIndexBytes)
      throw UserError(fmt::format("'{}' is larger than {} bytes; fetch it again", path.string(),
                                  kMaxIndexBytes));
  }
  return text;
}

// "at [@]" is said as "at", "[a tone]" and "(1 second of silence)" as nothing.
std::string spoken_part(std::string_view text) {
  text.remove_prefix(std::min(text.find_first_not_of(' '), text.size()));
  text = text.substr(0, text.find_first_of("(["));
  while (!text.empty() && (text.back() == ' ' || text.back() == '\r')) text.remove_suffix(1);
  return std::string(text);
}

bool stays_below(const fs::path& path) {
  return path.is_relative() && std::find(path.begin(), path.end(), "..") == path.end();
}

}  // namespace

SpeechSet SpeechSet::spoken_names(const fs::path& folder) {
  SpeechSet set;
  for (const fs::path& path : indices_in(folder)) {
    LineFile file(path, read_file(path, kMaxIndexBytes),
                  "remove it and its .wav file, and fetch spoken-names again");
    std::string line;
    if (!file.next(line) || line != kSpokenNamesHeader)
      file.fail(fmt::format("'{}'", kSpokenNamesHeader));
    set.files_.push_back(fs::path(path).replace_extension(".wav"));
    const std::string speaker = path.stem().string();
    while (file.next(line)) {
      file.check_room(set.entries_.size());
      const std::vector<std::string> fields = fields_of(line);
      if (fields.size() != 5) file.fail(fmt::format("5 fields, got {}", fields.size()));
      set.entries_.push_back({.utterance = {.text = fields[4],
                                            .speaker = speaker,
                                            .language = fields[3],
                                            .emoji = fields[0]},
                              .file = set.files_.size() - 1,
                              .first = count_in(fields[1], file),
                              .frames = count_in(fields[2], file)});
    }
  }
  return set;
}

SpeechSet SpeechSet::asterisk_sounds(const fs::path& folder) {
  const fs::path index = folder / "core-sounds-en.txt.gz";
  if (!fs::exists(index))
    throw UserError(
        fmt::format("'{}' has no core-sounds-en.txt.gz; 'halftone data fetch "
                    "asterisk-sounds' prints a folder that has it",
                    folder.string()));
  SpeechSet set;
  LineFile file(index, read_packed(index), "fetch asterisk-sounds again");
  for (std::string line; file.next(line);) {
    if (line.empty() || line[0] == ';') continue;
    const std::size_t colon = line.find(':');
    if (colon == std::string::npos) file.fail("a path, a colon and a text");
    const fs::path name = line.substr(0, colon) + ".wav";
    if (!stays_below(name)) file.fail("a path below sounds/");
    std::string text = spoken_part(std::string_view(line).substr(colon + 1));
    const fs::path sound = folder / "sounds" / name;
    std::error_code no_such_file;  // nor can there be one, where the name is too long
    if (text.empty() || !fs::exists(sound, no_such_file)) continue;
    file.check_room(set.entries_.size());
    set.files_.push_back(sound);
    set.entries_.push_back(
        {.utterance = {.text = std::move(text), .speaker = "Allison", .language = "en"},
         .file = set.files_.size() - 1});
  }
  if (set.entries_.empty())
    throw UserError(
        fmt::format("'{}' names no file in sounds/; fetch asterisk-sounds again", index.string()));
  return set;
}

const Utterance& SpeechSet::operator[](std::int64_t index) const {
  HALFTONE_CHECK(index >= 0 && index < size(), "[speech_set] expected an index from 0 to ",
                 size() - 1, ", got ", index);
  return entries_[static_cast<std::size_t>(index)].utterance;
}

torch::Tensor SpeechSet::sound(std::int64_t index) const {
  (*this)[index];  // checks it
  const Entry& entry = entries_[static_cast<std::size_t>(index)];
  return read_wav(files_[entry.file], {.rate = kRate, .first = entry.first, .frames = entry.frames})
      .samples;
}

std::vector<std::string> SpeechSet::speakers() const {
  std::vector<std::string> names;
  for (const Entry& entry : entries_)
    if (std::find(names.begin(), names.end(), entry.utterance.speaker) == names.end())
      names.push_back(entry.utterance.speaker);
  return names;
}

std::vector<std::int64_t> SpeechSet::said_by(const std::vector<std::string>& speakers) const {
  std::vector<std::int64_t> indices;
  for (std::int64_t i = 0; i < size(); ++i)
    if (std::find(speakers.begin(), speakers.end(), (*this)[i].speaker) != speakers.end())
      indices.push_back(i);
  return indices;
}

std::string SpeechSet::fingerprint() const {
  Hasher hasher;
  for (const Entry& entry : entries_) {
    for (const std::string* field : {&entry.utterance.text, &entry.utterance.speaker,
                                     &entry.utterance.language, &entry.utterance.emoji})
      hasher.update_field(*field);
    hasher.update_field(
        fmt::format("{} {} {}", files_[entry.file].filename().string(), entry.first, entry.frames));
  }
  return fmt::format("{} utterances {:016x}", size(), hasher.digest());
}

SpeechSamples::SpeechSamples(std::shared_ptr<const SpeechSet> set,
                             std::vector<std::int64_t> indices)
    : set_(std::move(set)), indices_(std::move(indices)) {
  HALFTONE_CHECK(set_ != nullptr, "[speech_set] expected a set");
  for (const std::int64_t index : indices_) (*set_)[index];  // checks it
}

torch::data::Example<> SpeechSamples::get(std::int64_t index) const {
  HALFTONE_CHECK(index >= 0 && index < size(), "[speech_set] expected an index from 0 to ",
                 size() - 1, ", got ", index);
  const std::int64_t utterance = indices_[static_cast<std::size_t>(index)];
  return {set_->sound(utterance), torch::tensor(utterance)};
}

std::string SpeechSamples::fingerprint() const {
  Hasher hasher;
  for (const std::int64_t index : indices_) hasher.update_field(std::to_string(index));
  return fmt::format("{}, {} of them {:016x}", set_->fingerprint(), size(), hasher.digest());
}

SpeechBatch PadSpeech::operator()(std::vector<torch::data::Example<>> samples) const {
  const auto sounds = column_of(samples, [](const auto& one) { return one.data; });
  const PaddedSequences padded = pad_sequences(sounds);
  return {.sounds = padded.padded,
          .lengths = padded.lengths,
          .mask = padded.mask,
          .target = stack_samples(column_of(samples, [](const auto& one) { return one.target; }))};
}

}  // namespace halftone
