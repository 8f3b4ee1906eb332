// SPDX-License-Identifier: Apache-2.0
#include "halftone/io/gguf.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "halftone/core/error.h"
#include "support/paths.h"
#include "support/temp_folder.h"

namespace halftone::gguf_test {
namespace {

using test::message_of;
using test::read_text;
using test::TempFolder;
using test::write_text;
using testing::ElementsAre;
using testing::HasSubstr;
using torch::Tensor;

std::string golden(const std::string& name) { return std::string(test::kGoldenDir) + "/" + name; }

// The rule of tests/golden/make_gguf_golden.py.
Tensor rule(at::IntArrayRef sizes) {
  Tensor values = torch::empty(sizes, torch::kFloat);
  for (std::int64_t i = 0; i < values.numel(); ++i)
    values.data_ptr<float>()[i] = static_cast<float>(7 * i % 101 - 50) / 16;
  return values;
}

template <class T>
T value_of(const GgufFile& file, const std::string& key) {
  return std::get<T>(file.metadata.values().at(key));
}

TEST(OpenGguf, ReadsTheMetadataThatThePythonPackageWrote) {
  const GgufFile file = open_gguf(golden("gguf_python.gguf"));
  EXPECT_EQ(file.metadata.text("general.architecture"), "halftone-test");
  EXPECT_EQ(value_of<std::uint8_t>(file, "a.u8"), 200);
  EXPECT_EQ(value_of<std::int8_t>(file, "a.i8"), -100);
  EXPECT_EQ(value_of<std::uint16_t>(file, "a.u16"), 60000);
  EXPECT_EQ(value_of<std::int16_t>(file, "a.i16"), -30000);
  EXPECT_EQ(value_of<std::uint32_t>(file, "a.u32"), 4000000000U);
  EXPECT_EQ(value_of<std::int32_t>(file, "a.i32"), -2000000000);
  EXPECT_EQ(value_of<std::uint64_t>(file, "a.u64"), std::uint64_t{1} << 40U);
  EXPECT_EQ(value_of<std::int64_t>(file, "a.i64"), -(std::int64_t{1} << 40U));
  EXPECT_EQ(value_of<float>(file, "a.f32"), 0.1F);
  EXPECT_EQ(value_of<double>(file, "a.f64"), 0.1);
  EXPECT_TRUE(file.metadata.boolean("a.bool"));
  EXPECT_EQ(file.metadata.text("a.string"), "床前明月光\n\"quoted\"");
  EXPECT_THAT(file.metadata.texts("a.strings"), ElementsAre("one", "", "诗"));
  EXPECT_THAT(file.metadata.integers("a.integers"), ElementsAre(3, -1, 4));
  EXPECT_EQ(std::get<std::vector<float>>(value_of<GgufArray>(file, "a.numbers")),
            (std::vector<float>{0.5F, -2.0F}));
}

TEST(OpenGguf, ReadsTheTensorsThatThePythonPackageWrote) {
  const GgufFile file = open_gguf(golden("gguf_python.gguf"));
  EXPECT_TRUE(file.tensors.tensor("vector").equal(rule({5})));
  EXPECT_TRUE(file.tensors.tensor("cube").equal(rule({2, 3, 4})));
  EXPECT_TRUE(file.tensors.tensor("half").equal(rule({3, 5}).to(torch::kHalf)));
  EXPECT_TRUE(file.tensors.tensor("bfloat").equal(rule({3, 5}).to(torch::kBFloat16)));
  const Tensor blocks = file.tensors.tensor("blocks");
  EXPECT_EQ(blocks.sizes(), rule({3, 64}).sizes());
  EXPECT_LT((blocks - rule({3, 64})).abs().max().item<double>(), 3.2 / 127);
  EXPECT_EQ(file.types.at("blocks"), GgufType::kQ8_0);
  EXPECT_EQ(file.tensors.tensors.size(), 5U);
}

GgufMetadata every_value() {
  GgufMetadata metadata;
  metadata.set("general.architecture", std::string("test"));
  metadata.set("a.u8", std::uint8_t{7});
  metadata.set("a.i64", std::int64_t{-7});
  metadata.set("a.f64", 0.25);
  metadata.set("a.bool", false);
  metadata.set("a.bools", GgufArray(std::vector<bool>{true, false, true}));
  metadata.set("a.bytes", GgufArray(std::vector<std::uint8_t>{1, 2}));
  metadata.set("a.none", GgufArray(std::vector<float>{}));
  metadata.set("a.strings", GgufArray(std::vector<std::string>{"x", "", "诗"}));
  return metadata;
}

std::map<std::string, GgufTensor> every_type() {
  return {{"f32", {rule({2, 3, 5})}},
          {"f16", {rule({3, 5}), GgufType::kF16}},
          {"bf16", {rule({3, 5}), GgufType::kBF16}},
          {"q8", {rule({3, 64}), GgufType::kQ8_0}},
          {"scalar", {rule({})}},
          {"empty", {rule({0, 3})}}};
}

TEST(SaveGguf, WhatIsReadIsWhatWasWritten) {
  const TempFolder folder;
  GgufMetadata metadata = every_value();
  metadata.set("general.alignment", std::uint32_t{128});
  save_gguf(folder / "a.gguf", metadata, every_type());
  const GgufFile file = open_gguf(folder / "a.gguf");
  EXPECT_EQ(file.metadata.values(), metadata.values());
  EXPECT_TRUE(file.tensors.tensor("f32").equal(rule({2, 3, 5})));
  EXPECT_TRUE(file.tensors.tensor("f16").equal(rule({3, 5}).to(torch::kHalf)));
  EXPECT_TRUE(file.tensors.tensor("bf16").equal(rule({3, 5}).to(torch::kBFloat16)));
  EXPECT_TRUE(file.tensors.tensor("scalar").equal(rule({})));
  EXPECT_TRUE(file.tensors.tensor("empty").equal(rule({0, 3})));
  EXPECT_EQ(read_text(folder / "a.gguf").size() % 128, 0U);
}

// Bit for bit, but for what the package says of itself and the order of its entries.
TEST(SaveGguf, TensorsLieAsThePythonPackageLaysThem) {
  const TempFolder folder;
  const GgufFile file = open_gguf(golden("q8_0.gguf"));
  const Tensor values = file.tensors.tensor("values");
  save_gguf(folder / "a.gguf", {}, {{"blocks", {values, GgufType::kQ8_0}}});
  const std::string theirs = read_text(golden("q8_0.gguf")), ours = read_text(folder / "a.gguf");
  const auto bytes = gguf_bytes(GgufType::kQ8_0, static_cast<std::uint64_t>(values.numel()));
  const std::string data = ours.substr((4 + 4 + 8 + 8 + 8 + 6 + 4 + 16 + 4 + 8 + 31) / 32 * 32);
  EXPECT_EQ(data.size(), (bytes + 31) / 32 * 32);
  EXPECT_NE(theirs.find(data), std::string::npos);
}

TEST(SaveGguf, RefusesWhatTheFormatLacks) {
  const TempFolder folder;
  const auto saving = [&](const std::string& name, const GgufTensor& tensor) {
    return message_of<c10::Error>([&] { save_gguf(folder / "a.gguf", {}, {{name, tensor}}); });
  };
  EXPECT_THAT(saving(std::string(64, 'x'), {rule({2})}), HasSubstr("can't be called"));
  EXPECT_THAT(saving("x", {rule({1, 1, 1, 1, 1})}), HasSubstr("5 dimensions"));
  EXPECT_THAT(saving("x", {rule({2}).to(torch::kInt)}), HasSubstr("floating-point"));
  EXPECT_THAT(saving("x", {rule({48}), GgufType::kQ8_0}), HasSubstr("multiple of 32"));
  EXPECT_FALSE(std::filesystem::exists(folder / "a.gguf"));
}

TEST(GgufMetadata, NamesTheKeyThatIsMissingOrOfAnotherType) {
  const GgufMetadata metadata = every_value();
  EXPECT_EQ(metadata.integer("a.u8"), 7);
  EXPECT_EQ(metadata.number("a.u8"), 7.0);
  EXPECT_THAT(message_of<UserError>([&] { metadata.integer("b"); }), HasSubstr("\"b\" is missing"));
  EXPECT_THAT(message_of<UserError>([&] { metadata.integer("a.f64"); }), HasSubstr("\"a.f64\""));
  EXPECT_THAT(message_of<UserError>([&] { metadata.text("a.bool"); }),
              HasSubstr("expected a string"));
  EXPECT_THAT(message_of<UserError>([&] { metadata.texts("a.bytes"); }),
              HasSubstr("array of strings"));
  EXPECT_THAT(message_of<UserError>([&] { metadata.integers("a.strings"); }),
              HasSubstr("array of integers"));
}

// ---- files that are wrong

template <class T>
std::string raw(T number) {
  return {reinterpret_cast<const char*>(&number), sizeof number};
}

std::string text(const std::string& value) { return raw<std::uint64_t>(value.size()) + value; }

std::string start(std::uint64_t tensors, std::uint64_t entries, std::uint32_t version = 3) {
  return "GGUF" + raw(version) + raw(tensors) + raw(entries);
}

std::string outline(const std::string& name, const std::vector<std::uint64_t>& sizes,
                    std::uint32_t type, std::uint64_t offset) {
  std::string bytes = text(name) + raw(static_cast<std::uint32_t>(sizes.size()));
  for (const std::uint64_t size : sizes) bytes += raw(size);
  return bytes + raw(type) + raw(offset);
}

std::string with_data(std::string header, std::size_t bytes) {
  header.resize((header.size() + 31) / 32 * 32 + bytes);
  return header;
}

void expect_opens(const std::string& bytes) {
  const TempFolder folder;
  write_text(folder / "good.gguf", bytes);
  EXPECT_NO_THROW(open_gguf(folder / "good.gguf").tensors.read_all());
}

std::string refusal(const std::string& bytes) {
  const TempFolder folder;
  write_text(folder / "bad.gguf", bytes);
  return message_of<UserError>([&] { open_gguf(folder / "bad.gguf"); });
}

TEST(OpenGguf, RefusesOtherFilesAndVersions) {
  EXPECT_THAT(refusal(""), HasSubstr("the file ends at byte 0"));
  EXPECT_THAT(refusal("PK\x03\x04 more than that"), HasSubstr("does not begin with \"GGUF\""));
  EXPECT_THAT(refusal(start(0, 0, 1)), HasSubstr("version 1 of GGUF"));
  EXPECT_THAT(refusal(start(0, 0, 0x03000000)), HasSubstr("big-endian"));
  expect_opens(start(0, 0, 2));
}

TEST(OpenGguf, BelievesNoCountThatTheFileCannotHold) {
  constexpr std::uint64_t kHuge = std::uint64_t{1} << 62U;
  EXPECT_THAT(refusal(start(kHuge, 0)), HasSubstr("its number of tensors"));
  EXPECT_THAT(refusal(start(0, kHuge)), HasSubstr("its number of metadata"));
  EXPECT_THAT(refusal(start(0, 1) + raw(kHuge) + std::string(64, 'k')),
              HasSubstr("key of metadata 0"));
  const std::string key = start(0, 1) + text("k");
  EXPECT_THAT(refusal(key + raw<std::uint32_t>(8) + raw(kHuge)), HasSubstr("metadata \"k\""));
  EXPECT_THAT(refusal(key + raw<std::uint32_t>(9) + raw<std::uint32_t>(4) + raw(kHuge)),
              HasSubstr("cannot hold so many"));
}

TEST(OpenGguf, RefusesMetadataThatIsWrong) {
  const std::string key = start(0, 1) + text("k");
  EXPECT_THAT(refusal(key + raw<std::uint32_t>(13) + std::string(8, '\0')),
              HasSubstr("unknown type 13"));
  EXPECT_THAT(refusal(key + raw<std::uint32_t>(7) + "\x02"), HasSubstr("other than 0 and 1"));
  EXPECT_THAT(refusal(key + raw<std::uint32_t>(9) + raw<std::uint32_t>(9) + std::string(8, '\0')),
              HasSubstr("array of arrays"));
  EXPECT_THAT(refusal(start(0, 1) + text("") + raw<std::uint32_t>(0) + "a"), HasSubstr("is empty"));
  const std::string no_text = text("\xCB");
  EXPECT_THAT(refusal(start(0, 1) + no_text + std::string(8, '\0')),
              HasSubstr("the key of metadata 0 is not UTF-8"));
  EXPECT_THAT(refusal(key + raw<std::uint32_t>(8) + no_text),
              HasSubstr("metadata \"k\" is not UTF-8"));
  EXPECT_THAT(refusal(key + raw<std::uint32_t>(9) + raw<std::uint32_t>(8) + raw<std::uint64_t>(1) +
                      no_text),
              HasSubstr("metadata \"k\" is not UTF-8"));
  EXPECT_THAT(refusal(start(1, 0) + no_text + std::string(24, '\0')),
              HasSubstr("the name of tensor 0 is not UTF-8"));
  const std::string entry = text("k") + raw<std::uint32_t>(0) + "a";
  EXPECT_THAT(refusal(start(0, 2) + entry + entry), HasSubstr("stands there twice"));
  EXPECT_THAT(refusal(start(0, 1) + text("general.alignment") + raw<std::uint32_t>(4) +
                      raw<std::uint32_t>(33)),
              HasSubstr("expected a power of two"));
}

TEST(OpenGguf, RefusesTensorsThatAreWrong) {
  expect_opens(with_data(start(1, 0) + outline("x", {2}, 0, 0), 8));
  EXPECT_THAT(refusal(with_data(start(1, 0) + outline("x", {2}, 0, 0), 7)),
              HasSubstr("needs 8 bytes from byte 0 of 7 bytes"));
  EXPECT_THAT(refusal(with_data(start(1, 0) + outline("x", {2}, 0, 8), 64)),
              HasSubstr("a multiple of 32"));
  EXPECT_THAT(refusal(with_data(start(1, 0) + outline("x", {1, 1, 1, 1, 1}, 0, 0), 64)),
              HasSubstr("5 dimensions"));
  EXPECT_THAT(refusal(with_data(start(1, 0) + outline("x", {1ULL << 40U, 1ULL << 40U}, 0, 0), 64)),
              HasSubstr("shape of tensor \"x\" is too large"));
  EXPECT_THAT(
      refusal(with_data(start(1, 0) + outline("x", {0, 1ULL << 40U, 1ULL << 40U}, 0, 0), 64)),
      HasSubstr("too large"));
  EXPECT_THAT(refusal(with_data(start(1, 0) + outline("x", {~0ULL}, 0, 0), 64)),
              HasSubstr("too large"));
  EXPECT_THAT(refusal(with_data(start(1, 0) + outline("x", {256}, 12, 0), 64)),
              HasSubstr("type Q4_K, expected F32, F16, BF16 or Q8_0"));
  EXPECT_THAT(refusal(with_data(start(1, 0) + outline("x", {256}, 999, 0), 64)),
              HasSubstr("type 999"));
  EXPECT_THAT(refusal(with_data(start(1, 0) + outline("x", {40}, 8, 0), 64)),
              HasSubstr("no multiple of 32"));
  const std::string one = outline("x", {2}, 0, 0), two = outline("y", {16}, 0, 0);
  EXPECT_THAT(refusal(with_data(start(2, 0) + one + one, 64)), HasSubstr("stands there twice"));
  EXPECT_THAT(refusal(with_data(start(2, 0) + one + two, 64)), HasSubstr("overlap"));
}

TEST(OpenGguf, EveryCutAndEveryFlippedByteIsReadOrRefused) {
  const std::string whole = read_text(golden("gguf_python.gguf"));
  const TempFolder folder;
  std::size_t refused = 0;
  const auto try_reading = [&](const std::string& bytes) {
    write_text(folder / "bad.gguf", bytes);
    try {
      GgufFile file = open_gguf(folder / "bad.gguf");
      file.tensors.read_all();
    } catch (const UserError&) {
      ++refused;
    }
  };
  constexpr std::size_t kPadding = 20;  // behind the last tensor's 6 blocks of 34 bytes
  const std::size_t end = whole.size() - kPadding;
  for (std::size_t size = 0; size < end; ++size) try_reading(whole.substr(0, size));
  EXPECT_EQ(refused, end);
  for (std::size_t at = 0; at < whole.size(); ++at) {
    std::string bytes = whole;
    bytes[at] = static_cast<char>(bytes[at] ^ (1 << (at % 8)));
    try_reading(bytes);
  }
}

TEST(OpenGguf, ReadsTensorsWhenTheyAreAskedFor) {
  const TempFolder folder;
  save_gguf(folder / "a.gguf", {}, {{"x", {rule({2, 32}), GgufType::kQ8_0}}});
  const GgufFile file = open_gguf(folder / "a.gguf");
  EXPECT_TRUE(file.tensors.meta("x").is_meta());
  std::filesystem::remove(folder / "a.gguf");
  EXPECT_EQ(file.tensors.tensor("x").sizes(), rule({2, 32}).sizes());
}

}  // namespace
}  // namespace halftone::gguf_test
