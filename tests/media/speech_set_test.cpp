// SPDX-License-Identifier: Apache-2.0
#include "halftone/media/speech_set.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <zlib.h>

#include <filesystem>
#include <string>

#include "halftone/core/error.h"
#include "halftone/data/data_loader.h"
#include "halftone/media/wav_file.h"
#include "halftone/system/paths.h"
#include "support/temp_folder.h"

namespace halftone::speech_set_test {
namespace {

namespace fs = std::filesystem;
using test::message_of;
using test::TempFolder;
using test::write_text;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

const std::string kHeader = "emoji\tfirst\tframes\tlanguage\ttext\n";

class SpokenNames : public testing::Test {
 protected:
  void write(const std::string& speaker, const std::string& rows) const {
    write_text(folder_ / (speaker + ".tsv"), kHeader + rows);
    write_wav(folder_ / (speaker + ".wav"), {torch::arange(100.F) / 128, SpeechSet::kRate});
  }
  std::string error_of(const std::string& index) const {
    write_text(folder_ / "a.tsv", index);
    return message_of<UserError>([&] { SpeechSet::spoken_names(folder_.path()); });
  }
  TempFolder folder_;
};

TEST_F(SpokenNames, LieBehindOneAnother) {
  write("zh", "1F600\t0\t30\tzh\t嘿嘿\n");
  write("en", "1F600\t0\t40\ten\tgrinning face\n2764\t40\t60\ten\tred heart\n");
  const SpeechSet set = SpeechSet::spoken_names(folder_.path());
  ASSERT_EQ(set.size(), 3);
  EXPECT_THAT(set.speakers(), ElementsAre("en", "zh"));
  EXPECT_EQ(set[1].text, "red heart");
  EXPECT_EQ(set[1].speaker, "en");
  EXPECT_EQ(set[2].emoji, "1F600");
  EXPECT_EQ(set[2].language, "zh");
  EXPECT_TRUE(set.sound(1).equal(torch::arange(40.F, 100.F) / 128));
  EXPECT_TRUE(set.sound(2).equal(torch::arange(30.F) / 128));
  EXPECT_THAT(set.said_by({"zh"}), ElementsAre(2));
  EXPECT_THROW(set[3], c10::Error);
  const std::string before = set.fingerprint();
  EXPECT_EQ(SpeechSet::spoken_names(folder_.path()).fingerprint(), before);
  write("zh", "1F600\t1\t30\tzh\t嘿嘿\n");
  EXPECT_NE(SpeechSet::spoken_names(folder_.path()).fingerprint(), before);
}

TEST_F(SpokenNames, AreBatchesOfALoader) {
  write("en", "1\t0\t10\ten\ta\n2\t10\t30\ten\tb\n3\t40\t20\ten\tc\n");
  const auto set = std::make_shared<const SpeechSet>(SpeechSet::spoken_names(folder_.path()));
  DataLoader loader(SpeechSamples(set, {0, 1, 2}), {.batch_size = 3, .num_workers = 2},
                    PadSpeech());
  const SpeechBatch batch = loader.batch_at(0);
  ASSERT_EQ(batch.sounds.sizes(), torch::IntArrayRef({3, 30}));
  for (std::int64_t row = 0; row < 3; ++row) {
    const torch::Tensor sound = set->sound(batch.target[row].item<std::int64_t>());
    EXPECT_EQ(batch.lengths[row].item<std::int64_t>(), sound.size(0));
    EXPECT_TRUE(batch.sounds[row].slice(0, 0, sound.size(0)).equal(sound));
    EXPECT_EQ(batch.sounds[row].slice(0, sound.size(0)).abs().sum().item<float>(), 0);
    EXPECT_EQ(batch.mask[row].sum().item<std::int64_t>(), sound.size(0));
  }
}

TEST_F(SpokenNames, OfADamagedIndexAreRefusedByLine) {
  EXPECT_THAT(error_of("emoji\n"),
              AllOf(HasSubstr("a.tsv', line 1: expected 'emoji\tfirst"), HasSubstr("fetch")));
  EXPECT_THAT(error_of(""), HasSubstr("line 1"));
  EXPECT_THAT(error_of(kHeader + "1\t0\t9\ten\ta\n1\t0\t9\n"),
              HasSubstr("line 3: expected 5 fields, got 3"));
  for (const char* number : {"-1", "x", "", "9999999999999999999", "1e3", "1 "})
    EXPECT_THAT(error_of(kHeader + "1\t" + number + "\t9\ten\ta\n"),
                HasSubstr(std::string("a number of frames, got '") + number + "'"));
  const std::string row = "1\t0\t9\ten\ta\n";
  std::string rows = kHeader;
  for (int i = 0; i < 600'000; ++i) rows += row;
  write_text(folder_ / "b.tsv", rows);
  EXPECT_THAT(error_of(rows), HasSubstr("b.tsv', line 400002: expected at most 1000000 utter"));
  fs::remove(folder_ / "b.tsv");
  fs::remove(folder_ / "a.tsv");
  EXPECT_THAT(message_of<UserError>([&] { SpeechSet::spoken_names(folder_.path()); }),
              HasSubstr("has no SPEAKER.tsv; 'halftone data fetch spoken-names'"));
}

TEST_F(SpokenNames, BehindTheEndAreRefused) {
  write("en", "1\t90\t11\ten\ta\n1\t0\t0\ten\tb\n1\t9223372036854775807\t1\ten\tc\n");
  const SpeechSet set = SpeechSet::spoken_names(folder_.path());
  for (std::int64_t i = 0; i < 3; ++i)
    EXPECT_THAT(message_of<UserError>([&] { set.sound(i); }), HasSubstr("got 100 in all")) << i;
}

class AsteriskSounds : public testing::Test {
 protected:
  void write(const std::string& index) const {
    gzFile file = gzopen((folder_ / "core-sounds-en.txt.gz").c_str(), "wb");
    EXPECT_EQ(gzwrite(file, index.data(), static_cast<unsigned>(index.size())),
              static_cast<int>(index.size()));
    gzclose(file);
  }
  std::string error_of(const std::string& index) const {
    write(index);
    return message_of<UserError>([&] { SpeechSet::asterisk_sounds(folder_.path()); });
  }
  TempFolder folder_;
};

TEST_F(AsteriskSounds, HaveTheirTexts) {
  fs::create_directories(folder_ / "sounds/letters");
  for (const char* name : {"added", "beep", "letters/at"})
    write_wav(folder_ / ("sounds/" + std::string(name) + ".wav"), {torch::ones({80}) / 4, 8'000});
  write(
      "; Core\n\nadded: Added.\nbeep: [a tone]\nletters/at: at [@]\nadded: (silence)\ngone: Not "
      "here.\n" +
      std::string(5000, 'x') + ": Too long for a file's name.\n");
  const SpeechSet set = SpeechSet::asterisk_sounds(folder_.path());
  ASSERT_EQ(set.size(), 2);
  EXPECT_EQ(set[0].text, "Added.");
  EXPECT_EQ(set[1].text, "at");
  EXPECT_EQ(set[1].emoji, "");
  EXPECT_EQ(set.sound(1).size(0), 160);  // 8 kHz becomes 16
}

TEST_F(AsteriskSounds, OfADamagedIndexAreRefused) {
  EXPECT_THAT(error_of("; x\nno colon\n"), HasSubstr("line 2: expected a path, a colon"));
  EXPECT_THAT(error_of("../../../etc/passwd: x\n"), HasSubstr("line 1: expected a path below"));
  EXPECT_THAT(error_of("/etc/passwd: x\n"), HasSubstr("line 1: expected a path below"));
  EXPECT_THAT(error_of("a: x\n"), HasSubstr("names no file in sounds/"));
  fs::remove(folder_ / "core-sounds-en.txt.gz");
  EXPECT_THAT(message_of<UserError>([&] { SpeechSet::asterisk_sounds(folder_.path()); }),
              HasSubstr("has no core-sounds-en.txt.gz"));
}

TEST(FetchedSpeech, OfAsteriskIsRead) {
  const fs::path folder = cache_folder() / "data/asterisk-sounds";
  if (!fs::exists(folder / "core-sounds-en.txt.gz"))
    GTEST_SKIP() << "needs 'halftone data fetch asterisk-sounds'";
  const SpeechSet set = SpeechSet::asterisk_sounds(folder);
  EXPECT_GT(set.size(), 500);
  for (std::int64_t i = 0; i < set.size(); i += 50) {
    EXPECT_GT(set.sound(i).abs().max().item<float>(), 0.01) << set[i].text;
    EXPECT_EQ(set[i].text.find('['), std::string::npos);
  }
}

}  // namespace
}  // namespace halftone::speech_set_test
