// SPDX-License-Identifier: Apache-2.0
// Debian's tools are played by scripts, so that every way they can go is tested on every machine.
#include "halftone/data/datasets.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "halftone/core/error.h"
#include "halftone/core/log.h"
#include "halftone/data/corpus.h"
#include "support/temp_folder.h"

namespace halftone::datasets_test {
namespace {

namespace fs = std::filesystem;
using test::message_of;
using test::read_text;
using test::TempFolder;
using test::write_text;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

// Says it is version 9 and unpacks what stands in $PACKAGE_ROOT.
constexpr const char* kDpkgDeb = R"(#!/bin/sh
case $1 in
  -x) cp -R "$PACKAGE_ROOT" "$3" ;;
  -f) echo 9 ;;
esac
)";
constexpr const char* kAptGet = R"(#!/bin/sh
[ "$1" = download ] && : > "$2_9_all.deb"
)";
constexpr const char* kNotInstalled =
    "#!/bin/sh\necho \"no packages found matching x\" >&2\nexit 1\n";

class FetchDataset : public testing::Test {
 protected:
  FetchDataset() : path_(std::getenv("PATH")) {
    fs::create_directories(folder_ / "bin");
    const fs::path data = root() / "usr/share/games/fortunes";
    const fs::path docs = root() / "usr/share/doc/fortunes-zh";
    fs::create_directories(data);
    fs::create_directories(docs);
    write_text(data / "tang300", "poem\n%\n");
    write_text(data / "tang300.dat", std::string(20, '\0'));
    fs::create_symlink("tang300", data / "tang300.u8");
    write_text(docs / "copyright", "GPL-3.0+\n");
    write_text(docs / "README", "not data");
    setenv("PACKAGE_ROOT", root().c_str(), 1);
    setenv("PATH", ((folder_ / "bin").string() + ":" + path_).c_str(), 1);
    set_log_sink([this](LogLevel, const std::string& message) { said_.push_back(message); });
  }
  ~FetchDataset() override {
    setenv("PATH", path_.c_str(), 1);
    unsetenv("PACKAGE_ROOT");
    set_log_sink({});
  }

  fs::path root() const { return folder_ / "root"; }
  fs::path out() const { return folder_ / "made/poems"; }

  void program(const std::string& name, const std::string& script) const {
    write_text(folder_ / "bin" / name, script);
    fs::permissions(folder_ / "bin" / name, fs::perms::owner_all);
  }

  void downloadable() const {
    program("dpkg-query", kNotInstalled);
    program("apt-get", kAptGet);
    program("dpkg-deb", kDpkgDeb);
  }

  void expect_nothing_left() const {
    if (!fs::exists(out().parent_path())) return;
    EXPECT_TRUE(fs::is_empty(out().parent_path()));
  }

  TempFolder folder_;
  std::string path_;
  std::vector<std::string> said_;
};

TEST_F(FetchDataset, UnpacksADownload) {
  downloadable();
  const FetchedData data = fetch_dataset("fortunes-zh", out());
  EXPECT_EQ(data.folder, out());
  EXPECT_THAT(data.files, ElementsAre("copyright", "tang300"));
  EXPECT_THAT(data.packages, ElementsAre("fortunes-zh 9"));
  EXPECT_FALSE(data.was_there);
  EXPECT_EQ(read_text(out() / "tang300"), "poem\n%\n");
  EXPECT_EQ(read_text(out() / "copyright"), "fortunes-zh 9\n\nGPL-3.0+\n\n");
  EXPECT_EQ(data.bytes, 7U + 25U);
  EXPECT_THAT(said_, ElementsAre(HasSubstr("downloading Debian's package fortunes-zh")));
  EXPECT_EQ(std::distance(fs::directory_iterator(out().parent_path()), {}), 1);
}

TEST_F(FetchDataset, IsReadyForTheCorpus) {
  downloadable();
  fetch_dataset("fortunes-zh", out());
  const Corpus corpus({.paths = {out()}});
  ASSERT_EQ(corpus.files().size(), 1U);
  EXPECT_EQ(corpus.files()[0].path.filename(), "tang300");
  EXPECT_EQ(corpus.files()[0].kind, CorpusKind::kFortune);
}

TEST_F(FetchDataset, IsDoneOnce) {
  downloadable();
  fetch_dataset("fortunes-zh", out());
  program("apt-get", "#!/bin/sh\nexit 1\n");
  const FetchedData again = fetch_dataset("fortunes-zh", out().string() + "/");
  EXPECT_TRUE(again.was_there);
  EXPECT_THAT(again.files, ElementsAre("copyright", "tang300"));
  EXPECT_THAT(again.packages, ElementsAre("fortunes-zh 9"));
}

TEST_F(FetchDataset, TakesBothPackagesOfFortunes) {
  downloadable();
  program("dpkg-deb", R"sh(#!/bin/sh
name=`basename "$2"`
case $1 in
  -x) mkdir -p "$3/usr/share/games/fortunes"; echo x > "$3/usr/share/games/fortunes/$name" ;;
  -f) echo 9 ;;
esac
)sh");
  EXPECT_THAT(fetch_dataset("fortunes", out()).files,
              ElementsAre("fortunes-min_9_all.deb", "fortunes_9_all.deb"));
}

// Two packages, one of which gives files of two folders; folders stay below a source that is one.
TEST_F(FetchDataset, KeepsFoldersAndDownloadsEachPackageOnce) {
  downloadable();
  for (const char* folder : {"annotations", "annotationsDerived"}) {
    const fs::path cldr = root() / "usr/share/unicode/cldr/common" / folder;
    fs::create_directories(cldr);
    for (const char* name : {"en.xml", "zh.xml", "fr.xml"}) write_text(cldr / name, folder);
  }
  const fs::path fonts = root() / "usr/share/fonts/truetype/noto";
  fs::create_directories(fonts);
  write_text(fonts / "NotoColorEmoji.ttf", "font");
  write_text(fonts / "NotoSans.ttf", "another");
  const FetchedData data = fetch_dataset("emoji", out());
  EXPECT_THAT(data.files,
              ElementsAre("NotoColorEmoji.ttf", "annotations/en.xml", "annotations/zh.xml",
                          "annotationsDerived/en.xml", "annotationsDerived/zh.xml"));
  EXPECT_EQ(read_text(out() / "annotationsDerived/zh.xml"), "annotationsDerived");
  EXPECT_THAT(data.packages, ElementsAre("fonts-noto-color-emoji 9", "unicode-cldr-core 9"));
  EXPECT_EQ(data.bytes, 4U + 2 * 11U + 2 * 18U);
  EXPECT_THAT(said_, ElementsAre(HasSubstr("fonts-noto"), HasSubstr("unicode-cldr-core")));
}

TEST_F(FetchDataset, TakesWholeFolders) {
  downloadable();
  const fs::path sounds = root() / "usr/share/asterisk/sounds/en_US_f_Allison";
  fs::create_directories(sounds / "digits");
  write_text(sounds / "added.wav", "w");
  write_text(sounds / "digits/1.wav", "w");
  const fs::path docs = root() / "usr/share/doc/asterisk-core-sounds-en";
  fs::create_directories(docs);
  write_text(docs / "core-sounds-en.txt.gz", "z");
  EXPECT_THAT(fetch_dataset("asterisk-sounds", out()).files,
              ElementsAre("core-sounds-en.txt.gz", "sounds/added.wav", "sounds/digits/1.wav"));
}

TEST_F(FetchDataset, TakesAnInstalledPackage) {
  if (!fs::exists("/usr/share/games/fortunes/tang300")) GTEST_SKIP() << "needs fortunes-zh";
  program("apt-get", "#!/bin/sh\nexit 1\n");
  const FetchedData data = fetch_dataset("fortunes-zh", out());
  EXPECT_THAT(data.files, ElementsAre("chinese", "copyright", "song100", "tang300"));
  EXPECT_THAT(said_, ElementsAre(HasSubstr("taking the installed package fortunes-zh ")));
}

TEST_F(FetchDataset, DownloadsWhereTheInstalledPackageLacksItsFiles) {
  downloadable();
  program("dpkg-query",
          "#!/bin/sh\ncase $1 in\n-W) printf 'installed 2.98' ;;\n"
          "-L) echo /.; echo /usr; echo /usr/share/games/fortunes/none ;;\nesac\n");
  EXPECT_THAT(fetch_dataset("fortunes-zh", out()).packages, ElementsAre("fortunes-zh 9"));
}

TEST_F(FetchDataset, NamesTheNearestDataSet) {
  EXPECT_THAT(message_of<UserError>([&] { fetch_dataset("fortune-zh", out()); }),
              AllOf(HasSubstr("unknown data set 'fortune-zh', did you mean 'fortunes-zh'?"),
                    HasSubstr("available: asterisk-sounds, dataset-fashion-mnist, emoji, fortunes, "
                              "fortunes-zh")));
  EXPECT_THAT(message_of<UserError>([&] { fetch_dataset("imagenet22k", out()); }),
              HasSubstr("unknown data set 'imagenet22k'; available: "));
}

TEST_F(FetchDataset, TellsThatTheDownloadFailed) {
  downloadable();
  program("apt-get",
          "#!/bin/sh\necho Reading...\necho 'E: Unable to locate package x' >&2\nexit 100\n");
  EXPECT_THAT(message_of<SystemError>([&] { fetch_dataset("fortunes-zh", out()); }),
              AllOf(HasSubstr("package fortunes-zh: E: Unable to locate package x;"),
                    HasSubstr("apt-get update")));
  expect_nothing_left();
}

TEST_F(FetchDataset, TellsThatThePackageIsDamaged) {
  downloadable();
  program("dpkg-deb",
          "#!/bin/sh\necho 'dpkg-deb: error: not a Debian format archive' >&2\nexit 2\n");
  EXPECT_THAT(message_of<SystemError>([&] { fetch_dataset("fortunes-zh", out()); }),
              AllOf(HasSubstr("cannot unpack fortunes-zh_9_all.deb"),
                    HasSubstr("not a Debian format archive")));
  expect_nothing_left();
}

TEST_F(FetchDataset, TellsThatThePackageIsEmpty) {
  downloadable();
  fs::remove_all(root() / "usr/share/games");
  EXPECT_THAT(message_of<SystemError>([&] { fetch_dataset("fortunes-zh", out()); }),
              HasSubstr("the package fortunes-zh 9 holds no files in usr/share/games/fortunes"));
  expect_nothing_left();
}

TEST_F(FetchDataset, TellsThatTheMachineIsNotDebian) {
  setenv("PATH", (folder_ / "bin").c_str(), 1);
  EXPECT_THAT(message_of<UserError>([&] { fetch_dataset("fortunes-zh", out()); }),
              AllOf(HasSubstr("Debian's package fortunes-zh, and this machine has no apt-get"),
                    HasSubstr("train on its folder")));
  expect_nothing_left();
}

TEST_F(FetchDataset, KeepsAFolderThatHoldsSomethingElse) {
  downloadable();
  fs::create_directories(out());
  write_text(out() / "thesis.txt", "mine");
  EXPECT_THAT(
      message_of<UserError>([&] { fetch_dataset("fortunes-zh", out()); }),
      AllOf(HasSubstr("holds something other than fortunes-zh"), HasSubstr("name another folder")));
  EXPECT_EQ(read_text(out() / "thesis.txt"), "mine");
}

TEST_F(FetchDataset, AnotherDataSetInTheFolderIsSomethingElse) {
  downloadable();
  fetch_dataset("fortunes-zh", out());
  EXPECT_THAT(message_of<UserError>([&] { fetch_dataset("fortunes", out()); }),
              HasSubstr("holds something other than fortunes"));
}

TEST_F(FetchDataset, FillsAnEmptyFolder) {
  downloadable();
  fs::create_directories(out());
  EXPECT_EQ(fetch_dataset("fortunes-zh", out()).files.size(), 2U);
}

TEST_F(FetchDataset, TellsThatTheFolderCannotBeWritten) {
  downloadable();
  write_text(folder_ / "made", "a file");
  EXPECT_THAT(message_of<UserError>([&] { fetch_dataset("fortunes-zh", out()); }),
              AllOf(HasSubstr("cannot write to"), HasSubstr("name another folder")));
}

}  // namespace
}  // namespace halftone::datasets_test
