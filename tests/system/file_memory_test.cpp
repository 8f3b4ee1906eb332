// SPDX-License-Identifier: Apache-2.0
#include "halftone/system/file_memory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/vfs.h>
#include <torch/types.h>

#include <csignal>
#include <filesystem>

#include "halftone/core/error.h"
#include "halftone/system/memory.h"
#include "support/paths.h"
#include "support/temp_folder.h"

namespace halftone::file_memory_test {
namespace {

namespace fs = std::filesystem;
using test::message_of;
using test::TempFolder;
using test::write_text;
using testing::AllOf;
using testing::HasSubstr;

constexpr std::int64_t kMebibyte = std::int64_t{1} << 20U;

TEST(FileMemory, IsZeroAndCanBeWrittenAndLeavesNoName) {
  const TempFolder folder;
  for (const std::int64_t bytes : {std::int64_t{0}, std::int64_t{1}, std::int64_t{4096},
                                   std::int64_t{4097}, 3 * kMebibyte + 8}) {
    const torch::Tensor memory = zeros_in_file(folder.path(), bytes);
    EXPECT_TRUE(fs::is_empty(folder.path()));
    EXPECT_TRUE(lies_in_file(memory));
    EXPECT_EQ(memory.numel(), bytes);
    EXPECT_EQ(memory.count_nonzero().item<std::int64_t>(), 0);
    memory.fill_(7);
    EXPECT_EQ(memory.sum().item<std::int64_t>(), 7 * bytes);
  }
  const torch::Tensor floats = zeros_in_file(folder.path(), 4096).view(torch::kFloat);
  EXPECT_TRUE(lies_in_file(floats.narrow(0, 3, 5)));
  EXPECT_FALSE(lies_in_file(floats.clone()));
  EXPECT_FALSE(lies_in_file(torch::Tensor()));
}

TEST(FileMemory, OutlivesItsFirstTensor) {
  const TempFolder folder;
  torch::Tensor part;
  {
    const torch::Tensor memory = zeros_in_file(folder.path(), kMebibyte);
    part = memory.narrow(0, 5000, 10);
  }
  part.fill_(3);
  EXPECT_EQ(part.sum().item<std::int64_t>(), 30);
}

TEST(FileMemory, CountsOnlyUntilItsPagesAreReleased) {
  const TempFolder folder{fs::path(test::kBuildDir)};
  constexpr std::int64_t kBytes = 64 * kMebibyte;
  const torch::Tensor memory = zeros_in_file(folder.path(), kBytes);
  const std::uint64_t before = resident_bytes();
  memory.fill_(7);
  EXPECT_GT(resident_bytes(), before + kBytes * 3 / 4);
  release_pages(memory.narrow(0, 0, kBytes / 2));
  EXPECT_LT(resident_bytes(), before + kBytes * 3 / 4);
  release_pages(memory);
  EXPECT_LT(resident_bytes(), before + kBytes / 8);
  request_pages(memory);
  EXPECT_LT(resident_bytes(), before + kBytes / 8);
  EXPECT_TRUE(memory.eq(7).all().item<bool>());
}

TEST(FileMemory, PartsNeedNotLieOnPages) {
  const TempFolder folder;
  const torch::Tensor memory = zeros_in_file(folder.path(), 3 * 4096 + 17);
  memory.copy_(torch::arange(memory.numel()).remainder(251));
  const torch::Tensor expected = memory.clone();
  for (const auto& [begin, size] : {std::pair{1, 1}, {4095, 2}, {100, 9000}, {3 * 4096, 17}}) {
    release_pages(memory.narrow(0, begin, size));
    request_pages(memory.narrow(0, begin, size));
    EXPECT_TRUE(memory.equal(expected));
  }
}

TEST(FileMemory, OtherTensorsKeepTheirBytes) {
  const torch::Tensor ordinary = torch::ones({1 << 20});
  release_pages(ordinary);
  request_pages(ordinary);
  EXPECT_EQ(ordinary.sum().item<float>(), 1 << 20);
  release_pages(torch::Tensor());
  release_pages(torch::empty({3}, torch::kMeta));
}

TEST(FileMemory, AFolderThatCannotHoldFilesIsTheUsersMistake) {
  const TempFolder folder;
  write_text(folder / "file", "");
  for (const fs::path& bad : {folder / "missing", folder / "file", fs::path("/proc")}) {
    for (const std::string& message : {message_of<UserError>([&] { zeros_in_file(bad, 10); }),
                                       message_of<UserError>([&] { check_file_memory(bad); })})
      EXPECT_THAT(message,
                  AllOf(HasSubstr("cannot keep data in the folder"), HasSubstr(bad.string())));
  }
  EXPECT_FALSE(is_folder_in_memory(folder / "missing"));
  check_file_memory(folder.path());
  EXPECT_FALSE(fs::exists(folder / "missing"));
}

TEST(FileMemory, TooLargeAFileIsAnErrorNotASignal) {
  const TempFolder folder;
  const auto before = signal(SIGXFSZ, SIG_IGN);
  rlimit old_limit{};
  getrlimit(RLIMIT_FSIZE, &old_limit);
  const rlimit limit{100000, old_limit.rlim_max};
  setrlimit(RLIMIT_FSIZE, &limit);
  const std::string message =
      message_of<SystemError>([&] { zeros_in_file(folder.path(), 8 * kMebibyte); });
  setrlimit(RLIMIT_FSIZE, &old_limit);
  signal(SIGXFSZ, before);
  EXPECT_THAT(message, AllOf(HasSubstr("(8388608 bytes)"), HasSubstr(folder.path().string()),
                             HasSubstr("ulimit -f")));
}

TEST(FileMemory, AFullDiskIsAnErrorBeforeAnythingIsWritten) {
  constexpr long kTmpfs = 0x01021994;
  const TempFolder folder;
  struct statfs system {};
  ASSERT_EQ(statfs(folder.path().c_str(), &system), 0);
  EXPECT_EQ(is_folder_in_memory(folder.path()), system.f_type == kTmpfs);
  if (system.f_type != kTmpfs || system.f_blocks == 0)
    GTEST_SKIP() << "needs a bounded file system in memory, which refuses at once";
  const auto capacity = static_cast<std::int64_t>(fs::space(folder.path()).capacity);
  EXPECT_THAT(message_of<SystemError>([&] { zeros_in_file(folder.path(), 2 * capacity); }),
              AllOf(HasSubstr("the disk has no room"), HasSubstr(folder.path().string())));
}

}  // namespace
}  // namespace halftone::file_memory_test
