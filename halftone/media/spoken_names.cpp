// SPDX-License-Identifier: Apache-2.0
#include "halftone/media/spoken_names.h"

#include <ATen/ops/cat.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>

#include "halftone/core/error.h"
#include "halftone/core/log.h"
#include "halftone/core/stopwatch.h"
#include "halftone/core/text.h"
#include "halftone/media/emoji_set.h"
#include "halftone/media/speech_set.h"
#include "halftone/media/spoken_names_impl.h"
#include "halftone/media/wav_file.h"
#include "halftone/system/atomic_file.h"
#include "halftone/system/file.h"
#include "halftone/system/paths.h"
#include "halftone/system/process.h"

namespace halftone {
namespace {

namespace fs = std::filesystem;

constexpr const char* kSpokenStamp = ".halftone-dataset";
constexpr std::int64_t kMostThreads = 8;

/// A name to be said.
struct SpokenName {
  std::string emoji;
  std::string text;
};

/// A folder for what the program writes, gone with this.
class WorkFolder {
 public:
  WorkFolder() {
    std::string name = (fs::temp_directory_path() / "halftone-spoken-XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr)
      throw UserError(
          fmt::format("cannot create a folder in {}; set TMPDIR to one that can be "
                      "written",
                      fs::temp_directory_path().string()));
    path_ = name;
  }
  ~WorkFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  WorkFolder(const WorkFolder&) = delete;
  WorkFolder& operator=(const WorkFolder&) = delete;
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

std::string espeak_version() {
  const ProcessResult result = run_process({"espeak-ng", "--version"});
  if (result.not_found())
    throw UserError(
        "the names are said by the program espeak-ng, which this machine lacks; install Debian's "
        "package of that name ('apt-get install espeak-ng' as root)");
  // "eSpeak NG text-to-speech: 1.51  Data at: /usr/..."
  const std::size_t begin = result.output.find(": ");
  if (result.exit_code != 0 || begin == std::string::npos)
    throw SystemError(fmt::format("'espeak-ng --version' failed: {}", result.output));
  const std::size_t from = begin + 2;
  return result.output.substr(from, result.output.find_first_of(" \n", from) - from);
}

torch::Tensor say_name(const Speaker& speaker, const std::string& text, const fs::path& file) {
  const ProcessResult result =
      run_process({"espeak-ng", "-v", speaker.voice, "-s", std::to_string(speaker.words_per_minute),
                   "-p", std::to_string(speaker.pitch), "-z", "-w", file.string(), "--", text});
  if (result.exit_code != 0 || !fs::exists(file))
    throw SystemError(fmt::format(
        "espeak-ng cannot say '{}' with the voice {}: {}; is the package "
        "espeak-ng-data whole?",
        text, speaker.voice, result.output.empty() ? "no reason given" : result.output));
  torch::Tensor samples = read_wav(file, {.rate = SpeechSet::kRate}).samples;
  fs::remove(file);
  return samples;
}

/// Runs `work(index, worker)` for 0 to count - 1; throws the first of what they throw.
template <class Work>
void share_work(std::size_t count, std::int64_t threads, const Work& work) {
  std::atomic<std::size_t> next = 0;
  std::exception_ptr failure;
  std::mutex mutex;
  const auto run = [&](std::int64_t worker) {
    try {
      for (std::size_t i = next++; i < count; i = next++) work(i, worker);
    } catch (...) {
      const std::scoped_lock lock(mutex);
      if (!failure) failure = std::current_exception();
      next = count;
    }
  };
  std::vector<std::thread> workers;
  for (std::int64_t worker = 1; worker < threads; ++worker) workers.emplace_back(run, worker);
  run(0);
  for (std::thread& thread : workers) thread.join();
  if (failure) std::rethrow_exception(failure);
}

std::vector<SpokenName> names_in(const EmojiSet& set, const std::string& language) {
  std::vector<SpokenName> names;
  for (const std::int64_t index : set.without_skin_tones()) {
    const Emoji& emoji = set[index];
    names.push_back({emoji.code, (language == "zh" ? emoji.chinese : emoji.english).name});
  }
  return names;
}

class NameSpeaker {
 public:
  NameSpeaker(fs::path folder, const EmojiSet& set, std::int64_t threads)
      : folder_(std::move(folder)), set_(set), threads_(threads) {}

  // The number of names.
  std::size_t make(const Speaker& speaker) const {
    const std::vector<SpokenName> names = names_in(set_, speaker.language);
    std::vector<torch::Tensor> sounds(names.size());
    share_work(names.size(), threads_, [&](std::size_t i, std::int64_t worker) {
      sounds[i] = say_name(speaker, names[i].text, work_.path() / fmt::format("{}.wav", worker));
    });
    std::string index = std::string(kSpokenNamesHeader) + "\n";
    std::int64_t first = 0;
    for (std::size_t i = 0; i < names.size(); ++i) {
      index += fmt::format("{}\t{}\t{}\t{}\t{}\n", names[i].emoji, first, sounds[i].size(0),
                           speaker.language, names[i].text);
      first += sounds[i].size(0);
    }
    write_wav(folder_ / (speaker.name + ".wav"), {at::cat(sounds), SpeechSet::kRate});
    // Last: whoever has this file has the other.
    write_file_atomically(folder_ / (speaker.name + ".tsv"), index);
    return names.size();
  }

 private:
  WorkFolder work_;
  fs::path folder_;
  const EmojiSet& set_;
  std::int64_t threads_;
};

// Says what made the folder, or holds it to what did.
void stamp_folder(const fs::path& folder, const std::string& origin) {
  constexpr std::uint64_t kMaxStampBytes = 4'096;
  const fs::path stamp = folder / kSpokenStamp;
  if (fs::exists(stamp)) {
    const std::string there = read_file(stamp, kMaxStampBytes);
    if (there != origin)
      throw UserError(fmt::format(
          "{} was made by {}, expected {}; name another folder, or remove it to have it made anew",
          folder.string(), there.substr(0, there.find('\n')), origin.substr(0, origin.find('\n'))));
    return;
  }
  std::error_code error;
  if (fs::exists(folder, error) && !fs::is_empty(folder, error))
    throw UserError(
        fmt::format("{} already exists and holds something other than spoken-names; "
                    "name another folder, or remove it",
                    folder.string()));
  fs::create_directories(folder, error);
  if (error)
    throw UserError(fmt::format("cannot write to {}: {}; name another folder", folder.string(),
                                error.message()));
  write_file_atomically(stamp, origin);
}

FetchedData described(const fs::path& folder, const std::string& origin) {
  FetchedData data{.folder = folder};
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.path().filename() == kSpokenStamp) continue;
    data.files.push_back(entry.path().filename().string());
    data.bytes += entry.file_size();
  }
  std::sort(data.files.begin(), data.files.end());
  data.packages = {origin.substr(0, origin.find('\n'))};
  return data;
}

std::int64_t worker_count(std::int64_t asked) {
  const std::int64_t cores = std::max<std::int64_t>(1, std::thread::hardware_concurrency());
  return asked > 0 ? asked : std::min(cores, kMostThreads);
}

void make_missing(const NameSpeaker& maker, std::vector<Speaker> missing) {
  const Stopwatch watch;
  log_note(fmt::format("saying the names by {} speakers; stopped, it goes on where it was",
                       missing.size()));
  for (std::size_t i = 0; i < missing.size(); ++i) {
    const std::size_t names = maker.make(missing[i]);
    const double left =
        watch.seconds() / static_cast<double>(i + 1) * static_cast<double>(missing.size() - i - 1);
    log_note(fmt::format("{} has said {} names, speaker {} of {}; {} left", missing[i].name, names,
                         i + 1, missing.size(), format_seconds(left)));
  }
}

}  // namespace

const std::vector<Speaker>& espeak_speakers() {
  static const std::vector<Speaker> all = {
      {"en-us", "en-us", 160, 50, "en"},
      {"en-gb-f3", "en-gb+f3", 150, 60, "en"},
      {"zh", "cmn", 150, 50, "zh"},
      {"en-us-m3", "en-us+m3", 185, 40, "en"},
      {"zh-f3", "cmn+f3", 165, 60, "zh"},
      {"en-scotland-f2", "en-gb-scotland+f2", 170, 55, "en"},
      {"en-rp-m7", "en-gb-x-rp+m7", 140, 45, "en"},
      {"en-us-f4", "en-us+f4", 175, 65, "en"},
      {"zh-m3", "cmn+m3", 180, 40, "zh"},
      {"en-lancaster-m1", "en-gb-x-gbclan+m1", 155, 35, "en"},
      {"zh-f2", "cmn+f2", 140, 55, "zh"},
      {"en-caribbean-f1", "en-029+f1", 165, 50, "en"},
  };
  return all;
}

FetchedData make_spoken_names(const SpokenNamesOptions& options) {
  const auto known = static_cast<std::int64_t>(espeak_speakers().size());
  if (options.speakers < 1 || options.speakers > known)
    throw UserError(fmt::format("expected 1 to {} speakers, got {}", known, options.speakers));
  const fs::path folder =
      fs::absolute(options.folder.empty() ? cache_folder() / "data/spoken-names" : options.folder);
  const std::string version = espeak_version();
  const EmojiSet set(options.emoji.empty() ? fetch_dataset("emoji").folder : options.emoji);
  const std::string origin = fmt::format("espeak-ng {}\n{}\n", version, set.fingerprint());
  stamp_folder(folder, origin);
  std::vector<Speaker> missing;
  for (std::int64_t i = 0; i < options.speakers; ++i)
    if (const Speaker& one = espeak_speakers()[static_cast<std::size_t>(i)];
        !fs::exists(folder / (one.name + ".tsv")))
      missing.push_back(one);
  if (!missing.empty())
    make_missing(NameSpeaker(folder, set, worker_count(options.threads)), missing);
  FetchedData data = described(folder, origin);
  data.was_there = missing.empty();
  return data;
}

}  // namespace halftone
