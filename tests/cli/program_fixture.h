// SPDX-License-Identifier: Apache-2.0
// The built program as a person meets it: arguments, exit code, what stands on stdout and stderr,
// and what has become of the files.
#pragma once

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>

#include "cli/served_program.h"
#include "support/paths.h"
#include "support/temp_folder.h"

namespace halftone::test {

namespace fs = std::filesystem;
using testing::HasSubstr;

struct Outcome {
  int code = -1;
  std::string out;
  std::string err;
};

struct Mistake {
  std::string words;  // after the program's name, on a shell's command line
  std::string error;  // part of the last line on stderr
  int code = 2;
};

inline const char* const kModel = " --preset tiny --model.dim 16 --model.n-layers 1 ";

/// A folder with data of every kind, a tokenizer, and a run of four steps, made once. Commands run
/// in it.
class Program : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    place_ = std::make_unique<TempFolder>();
    fs::create_directories(*place_ / "work");
    setenv("XDG_CACHE_HOME", (*place_ / "cache").c_str(), 1);
    served_ = std::make_unique<ServedProgram>();
    make_data();
    ASSERT_EQ(halftone("tokenizer train --data poem.txt --vocab-size 270 --out tok").code, 0);
    const Outcome run = halftone(std::string("train --data poem.txt --tokenizer tok --out run") +
                                 kModel + "--max-steps 4 --save-every 2");
    ASSERT_EQ(run.code, 0) << run.err;
    ASSERT_EQ(run.out, "run\n");
  }
  static void TearDownTestSuite() {
    served_.reset();
    place_.reset();
  }

  static fs::path work() { return *place_ / "work"; }

  /// `before` is what the shell does first, such as a limit.
  static Outcome halftone(const std::string& words, const std::string& before = "true") {
    const std::string command = "{ cd " + work().string() + " && { " + before + "; } && " +
                                test::kBuildDir + "/halftone " + words + "\n} >" +
                                (*place_ / "out").string() + " 2>" + (*place_ / "err").string() +
                                " </dev/null";
    const int status = std::system(command.c_str());
    return {WEXITSTATUS(status), read_text(*place_ / "out"), read_text(*place_ / "err")};
  }

  /// The same without a start of the program, unless a shell is needed.
  static Outcome served_halftone(const std::string& words) {
    const std::optional<std::vector<std::string>> arguments = shell_words(words);
    if (!arguments) return halftone(words);
    std::vector<std::string> request = {work(), *place_ / "out", *place_ / "err"};
    request.insert(request.end(), arguments->begin(), arguments->end());
    const int code = served_->run(request);
    return {code, read_text(*place_ / "out"), read_text(*place_ / "err")};
  }

  static std::map<fs::path, std::string> files() {
    std::map<fs::path, std::string> found;
    for (const fs::directory_entry& entry : fs::recursive_directory_iterator(work()))
      found[entry.path()] = entry.is_regular_file() ? read_text(entry.path()) : "";
    return found;
  }

  // One line that says what is wrong, and no file has come, gone or changed. The first of them by a
  // program that is started for it, the others by one that is loaded already.
  static void expect_refused(const std::vector<Mistake>& mistakes) {
    const auto before = files();
    for (const Mistake& mistake : mistakes) {
      const bool is_first = &mistake == &mistakes.front();
      const Outcome outcome = is_first ? halftone(mistake.words) : served_halftone(mistake.words);
      EXPECT_EQ(outcome.code, mistake.code) << mistake.words << '\n' << outcome.err;
      EXPECT_EQ(outcome.out, "") << mistake.words;
      ASSERT_TRUE(outcome.err.ends_with('\n')) << mistake.words;
      const std::size_t last_line = outcome.err.rfind('\n', outcome.err.size() - 2) + 1;
      EXPECT_THAT(outcome.err.substr(last_line), testing::StartsWith("halftone: error: "))
          << mistake.words;
      EXPECT_THAT(outcome.err.substr(last_line), HasSubstr(mistake.error)) << mistake.words;
      EXPECT_TRUE(files() == before) << mistake.words << " has changed files";
    }
  }

  // A copy of the run, for damage.
  static fs::path copy_of_run(const std::string& name) {
    fs::remove_all(work() / name);
    fs::copy(work() / "run", work() / name, fs::copy_options::recursive);
    return work() / name;
  }

 private:
  static void make_data() {
    std::string poem;
    for (int line = 0; line < 60; ++line)
      poem += "spring sleep " + std::to_string(line * line) + " 春眠不覺曉，處處聞啼鳥。\n";
    write_text(work() / "poem.txt", poem);
    write_text(work() / "empty.txt", "");
    write_text(work() / "latin1.txt", "one line\nna\xEFve\n");
    write_text(work() / "binary.txt", std::string("\0\1\2", 3));
    write_text(work() / "bad.jsonl", "{\"text\": \"ok\"}\n{\"text\": oops}\n");
    write_text(work() / "other.jsonl", "{\"txt\": \"ok\"}\n");
    write_text(work() / "unigram.json", R"({"model": {"type": "Unigram", "vocab": []}})");
    write_text(work() / "cut.json", R"({"model": {"type")");
    write_text(work() / "syntax.toml", "lr = 1e-3\npreset = tiny\n");
    write_text(work() / "key.toml", "lr = 1e-3\n\n[model]\ndimm = 3\n");
    write_text(work() / "type.toml", "batch_size = 3.0\n");
    write_text(work() / "cut.safetensors", "\x10");
    write_text(work() / "cut.pth", "PK");
    fs::create_directories(work() / "nothing");
    fs::create_directories(work() / "mine");
    fs::create_directories(work() / "yarn");
    write_text(work() / "yarn" / "config.json", R"({"rope_scaling": {"type": "yarn"}})");
    fs::create_directories(work() / "fraction");
    write_text(work() / "fraction" / "config.json", R"({"hidden_size": 32.5})");
    fs::create_directories(work() / "granite");
    write_text(work() / "granite" / "config.json", R"({"embedding_multiplier": 12.0})");
    write_text(work() / "mine" / "letter.txt", "dear");
  }

  static inline std::unique_ptr<TempFolder> place_;
  static inline std::unique_ptr<ServedProgram> served_;
};

inline std::string training(const std::string& more) {
  return std::string("train") + kModel + "--max-steps 1 " + more;
}

}  // namespace halftone::test
