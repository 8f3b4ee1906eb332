// SPDX-License-Identifier: Apache-2.0
// espeak-ng is played by a script; the font is that of `halftone data fetch emoji`.
#include "halftone/media/spoken_names.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <string>

#include "halftone/core/error.h"
#include "halftone/core/log.h"
#include "halftone/media/speech_set.h"
#include "halftone/media/wav_file.h"
#include "halftone/system/paths.h"
#include "support/temp_folder.h"

namespace halftone::spoken_names_test {
namespace {

namespace fs = std::filesystem;
using test::message_of;
using test::read_text;
using test::TempFolder;
using test::write_text;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

// Called as espeak-ng -v V -s S -p P -z -w FILE -- TEXT; fails for the voice in $BROKEN_VOICE.
constexpr const char* kEspeak = R"(#!/bin/sh
if [ "$1" = --version ]; then echo "eSpeak NG text-to-speech: 9.9  Data at: /x"; exit; fi
if [ "$2" = "$BROKEN_VOICE" ]; then echo "no such voice" >&2; exit 1; fi
[ "$4 $6 $7" = "160 50 -z" ] || [ "$2" != en-us ] || exit 3
echo "$2 ${11}" >> "$SPOKEN/said"
case ${11} in red*) cp "$SPOKEN/long" "$9" ;; *) cp "$SPOKEN/short" "$9" ;; esac
)";

std::string names(const std::string& face, const std::string& heart, const std::string& wave) {
  return "<ldml><annotation cp=\"😀\" type=\"tts\">" + face +
         "</annotation><annotation cp=\"❤\" type=\"tts\">" + heart +
         "</annotation><annotation cp=\"👋🏿\" type=\"tts\">" + wave + "</annotation></ldml>";
}

class MakeSpokenNames : public testing::Test {
 protected:
  MakeSpokenNames() : path_(std::getenv("PATH")) {
    set_log_sink([this](LogLevel, const std::string& message) { said_.push_back(message); });
  }
  ~MakeSpokenNames() override {
    setenv("PATH", path_.c_str(), 1);
    unsetenv("SPOKEN");
    unsetenv("BROKEN_VOICE");
    set_log_sink({});
  }
  void SetUp() override {
    const fs::path font = cache_folder() / "data/emoji/NotoColorEmoji.ttf";
    if (!fs::exists(font)) GTEST_SKIP() << "needs 'halftone data fetch emoji'";
    for (const char* folder : {"annotations", "annotationsDerived"}) {
      fs::create_directories(emoji() / folder);
      write_text(emoji() / folder / "en.xml", names("grinning face", "red heart", "hand: dark"));
      write_text(emoji() / folder / "zh.xml", names("嘿嘿", "红心", "挥手"));
    }
    fs::create_symlink(font, emoji() / "NotoColorEmoji.ttf");
    write_wav(folder_ / "short", {torch::full({32}, 0.25F), 16'000});
    write_wav(folder_ / "long", {torch::full({64}, -0.5F), 16'000});
    fs::create_directories(folder_ / "bin");
    write_text(folder_ / "bin/espeak-ng", kEspeak);
    fs::permissions(folder_ / "bin/espeak-ng", fs::perms::owner_all);
    setenv("PATH", ((folder_ / "bin").string() + ":" + path_).c_str(), 1);
    setenv("SPOKEN", folder_.path().c_str(), 1);
  }

  fs::path emoji() const { return folder_ / "emoji"; }
  fs::path out() const { return folder_ / "made/names"; }
  FetchedData make(std::int64_t speakers) const {
    return make_spoken_names(
        {.folder = out(), .emoji = emoji(), .speakers = speakers, .threads = 2});
  }

  TempFolder folder_;
  std::string path_;
  std::vector<std::string> said_;
};

TEST_F(MakeSpokenNames, PacksWhatTheProgramSays) {
  const FetchedData data = make(3);
  EXPECT_THAT(data.files, ElementsAre("en-gb-f3.tsv", "en-gb-f3.wav", "en-us.tsv", "en-us.wav",
                                      "zh.tsv", "zh.wav"));
  EXPECT_THAT(data.packages, ElementsAre("espeak-ng 9.9"));
  EXPECT_FALSE(data.was_there);
  const SpeechSet set = SpeechSet::spoken_names(out());
  ASSERT_EQ(set.size(), 6);  // the form with a tone of skin is left out
  EXPECT_EQ(set[3].text, "red heart");
  EXPECT_EQ(set[3].emoji, "2764");
  EXPECT_TRUE(set.sound(3).equal(torch::full({64}, -0.5F)));
  EXPECT_TRUE(set.sound(2).equal(torch::full({32}, 0.25F)));
  EXPECT_EQ(set[4].text, "嘿嘿");
  EXPECT_EQ(set[4].language, "zh");
  EXPECT_THAT(said_.back(), HasSubstr("zh has said 2 names, speaker 3 of 3; "));
}

TEST_F(MakeSpokenNames, GoesOnWhereItWas) {
  setenv("BROKEN_VOICE", "en-gb+f3", 1);
  EXPECT_THAT(message_of<SystemError>([&] { make(3); }),
              AllOf(HasSubstr("espeak-ng cannot say '"), HasSubstr("the voice en-gb+f3: no such")));
  EXPECT_TRUE(fs::exists(out() / "en-us.tsv"));
  EXPECT_FALSE(fs::exists(out() / "en-gb-f3.wav"));
  unsetenv("BROKEN_VOICE");
  fs::remove(folder_ / "said");
  make(3);
  EXPECT_EQ(read_text(folder_ / "said").find("en-us"), std::string::npos);
  const std::string before = read_text(out() / "zh.wav");
  fs::remove(folder_ / "said");
  EXPECT_TRUE(make(2).was_there);
  EXPECT_FALSE(fs::exists(folder_ / "said"));
  fs::remove(out() / "zh.tsv");
  make(3);
  EXPECT_EQ(read_text(out() / "zh.wav"), before);
}

TEST_F(MakeSpokenNames, KeepsWhatIsNotItsOwn) {
  fs::create_directories(out());
  write_text(out() / "thesis.txt", "mine");
  EXPECT_THAT(message_of<UserError>([&] { make(1); }),
              HasSubstr("holds something other than spoken-names; name another folder"));
  fs::remove(out() / "thesis.txt");
  make(1);
  write_text(folder_ / "bin/espeak-ng", "#!/bin/sh\necho 'eSpeak NG text-to-speech: 10.0  x'\n");
  EXPECT_THAT(message_of<UserError>([&] { make(1); }),
              HasSubstr("was made by espeak-ng 9.9, expected espeak-ng 10.0"));
}

TEST_F(MakeSpokenNames, SaysWhatIsMissing) {
  EXPECT_THAT(message_of<UserError>([&] { make(0); }), HasSubstr("expected 1 to 12 speakers"));
  EXPECT_THAT(message_of<UserError>([&] { make(13); }), HasSubstr("got 13"));
  setenv("PATH", "/none", 1);
  EXPECT_THAT(message_of<UserError>([&] { make(1); }), HasSubstr("apt-get install espeak-ng"));
}

}  // namespace
}  // namespace halftone::spoken_names_test
