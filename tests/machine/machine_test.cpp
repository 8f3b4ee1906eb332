// SPDX-License-Identifier: Apache-2.0
#include "halftone/machine/machine.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <limits>
#include <string>

#include "support/paths.h"
#include "support/temp_folder.h"

namespace halftone::machine_test {
namespace {

TEST(SystemMemory, ReadsKibibytes) {
  const SystemMemory memory =
      parse_memory("MemTotal:       24684084 kB\nMemFree: 7 kB\nMemAvailable:   1000 kB\n");
  EXPECT_EQ(memory.total_bytes, 24684084ULL * 1024);
  EXPECT_EQ(memory.available_bytes, 1000ULL * 1024);
  EXPECT_EQ(parse_memory("MemTotal: many kB\nMemAvailable:\n").total_bytes, 0);
}

TEST(SystemMemory, OfThisMachineIsNotMoreThanItHas) {
  const SystemMemory memory = system_memory();
  EXPECT_GT(memory.available_bytes, 0);
  EXPECT_LE(memory.available_bytes, memory.total_bytes);
}

TEST(MemoryLimit, IsThatOfTheControlGroup) {
  const test::TempFolder root;
  constexpr std::uint64_t kNone = std::numeric_limits<std::uint64_t>::max();
  EXPECT_EQ(memory_limit(root.path()), kNone);
  test::write_text(root / "memory.max", "max\n");
  EXPECT_EQ(memory_limit(root.path()), kNone);
  test::write_text(root / "memory.max", "8589934592\n");
  EXPECT_EQ(memory_limit(root.path()), std::uint64_t{8} << 30U);
}

TEST(FreeDisk, IsThatOfTheNearestFolderThatExists) {
  EXPECT_GT(free_disk_bytes(test::kBuildDir), 0);
  EXPECT_GT(free_disk_bytes(std::filesystem::path(test::kBuildDir) / "not" / "yet"), 0);
}

}  // namespace
}  // namespace halftone::machine_test
