// SPDX-License-Identifier: Apache-2.0
#include "halftone/machine/machine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <limits>
#include <string>

#include "support/paths.h"
#include "support/temp_folder.h"

namespace halftone {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

// Two packages of two cores, with two hardware threads each.
std::string two_packages() {
  std::string text;
  for (int thread = 0; thread < 8; ++thread)
    text += "processor\t: " + std::to_string(thread) +
            "\nmodel name\t: Some CPU @ 2.00GHz : rev 1\nphysical id\t: " +
            std::to_string(thread / 2 % 2) + "\ncore id\t\t: " + std::to_string(thread % 2) +
            "\nflags\t\t: fpu fma avx2 avx512f avx512_bf16 avx512_vnni x\nbugs\t\t: amx_bf16\n\n";
  return text;
}

TEST(Processor, CountsCoresOfAllPackagesAndTheirThreads) {
  const Processor processor = parse_processor(two_packages());
  EXPECT_EQ(processor.name, "Some CPU @ 2.00GHz : rev 1");
  EXPECT_EQ(processor.cores, 4);
  EXPECT_EQ(processor.threads, 8);
}

TEST(Processor, NamesTheInstructionSetsThatMatter) {
  EXPECT_THAT(parse_processor(two_packages()).instruction_sets,
              ElementsAre("AVX2", "FMA", "AVX-512", "AVX512_VNNI", "AVX512_BF16"));
  EXPECT_THAT(parse_processor("flags : avx2x avx").instruction_sets, IsEmpty());
}

TEST(Processor, UnderstandsArm) {
  const Processor processor = parse_processor(
      "processor\t: 0\nBogoMIPS\t: 100.00\nFeatures\t: fp asimd bf16 i8mm\n\nprocessor\t: 1\n"
      "Features\t: fp asimd bf16 i8mm\n");
  EXPECT_EQ(processor.cores, 2);
  EXPECT_EQ(processor.threads, 2);
  EXPECT_THAT(processor.instruction_sets, ElementsAre("NEON", "NEON_BF16", "NEON_I8MM"));
}

TEST(Processor, KnowsNothingOfAnotherText) {
  for (const char* text : {"", "\n\n", "no colon", ":", "flags", "model name"}) {
    const Processor processor = parse_processor(text);
    EXPECT_EQ(processor.name, "") << text;
    EXPECT_EQ(processor.cores, 0) << text;
    EXPECT_THAT(processor.instruction_sets, IsEmpty()) << text;
  }
}

TEST(Processor, OfThisMachineAgreesWithTheCompilersOwnTest) {
  const Processor processor = this_processor();
  EXPECT_GE(processor.threads, processor.cores);
  EXPECT_EQ(processor.threads, sysconf(_SC_NPROCESSORS_ONLN));
#if defined(__x86_64__)
  const bool named =
      testing::Value(processor.instruction_sets, testing::Contains(std::string("AVX2")));
  EXPECT_EQ(named, __builtin_cpu_supports("avx2") != 0);
#endif
}

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
}  // namespace halftone
