// SPDX-License-Identifier: Apache-2.0
#include "halftone/io/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "halftone/core/error.h"
#include "halftone/core/random.h"
#include "support/golden_tensor.h"
#include "support/paths.h"
#include "support/temp_folder.h"

namespace halftone::safetensors_test {
namespace {

using test::expect_equal_bits;
using test::golden_tensor;
using test::message_of;
using test::read_text;
using test::TempFolder;
using test::write_text;
using testing::HasSubstr;

const std::map<std::string, std::vector<std::int64_t>> kShapes = {
    {"scalar", {}}, {"empty", {0, 3}}, {"row", {5}}, {"matrix", {3, 5}}, {"诗/cube", {2, 3, 4}}};

std::map<std::string, torch::Tensor> every_kind() {
  std::map<std::string, torch::Tensor> tensors;
  for (const auto& [name, dtype] : test::kGoldenDtypes)
    for (const auto& [place, shape] : kShapes)
      tensors.emplace(name + "." + place, golden_tensor(name, dtype, shape));
  return tensors;
}

std::string with_header(const std::string& header, const std::string& data) {
  const std::uint64_t length = header.size();
  return std::string(reinterpret_cast<const char*>(&length), sizeof length) + header + data;
}

TEST(LoadSafetensors, ReadsWhatTheReferenceImplementationWrote) {
  const StateDict state =
      load_safetensors(std::string(test::kGoldenDir) + "/safetensors_python.safetensors");
  const auto expected = every_kind();
  EXPECT_EQ(state.tensors.size(), expected.size());
  for (const auto& [name, tensor] : expected) {
    SCOPED_TRACE(name);
    expect_equal_bits(state.tensor(name), tensor);
  }
  EXPECT_EQ(state.get<std::string>("format"), "pt");
  EXPECT_EQ(state.get<std::string>("poem"), "床前明月光\n\"quoted\"");
}

TEST(SaveSafetensors, RoundTripsEveryDtypeAndShape) {
  const TempFolder folder;
  const auto tensors = every_kind();
  save_safetensors(folder / "a.safetensors", tensors, {{"key", "value \" 诗"}});
  const StateDict state = load_safetensors(folder / "a.safetensors");
  EXPECT_EQ(state.tensors.size(), tensors.size());
  for (const auto& [name, tensor] : tensors) {
    SCOPED_TRACE(name);
    expect_equal_bits(state.tensor(name), tensor);
  }
  EXPECT_EQ(state.get<std::string>("key"), "value \" 诗");
}

TEST(SaveSafetensors, WritesTheFormatByteForByte) {
  const TempFolder folder;
  save_safetensors(folder / "a.safetensors", {{"a", torch::tensor({1, 2}, torch::kByte)},
                                              {"b", torch::tensor({1.0F}, torch::kFloat)}});
  std::string header = R"({"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
                       R"("a":{"dtype":"U8","shape":[2],"data_offsets":[4,6]}})";
  header.resize((8 + header.size() + 63) / 64 * 64 - 8, ' ');
  EXPECT_EQ(read_text(folder / "a.safetensors"),
            with_header(header, std::string("\0\0\x80\x3F\1\2", 6)));
}

TEST(SaveSafetensors, KeepsNonFiniteNumbersAndNegativeZero) {
  const TempFolder folder;
  const torch::Tensor odd = torch::tensor({NAN, INFINITY, -INFINITY, -0.0F, 1e-45F});
  save_safetensors(folder / "a.safetensors", {{"odd", odd}});
  expect_equal_bits(load_safetensors(folder / "a.safetensors").tensor("odd"), odd);
}

TEST(SaveSafetensors, StoresStridedAndSharedTensorsPlainly) {
  const TempFolder folder;
  const torch::Tensor matrix = torch::arange(12).reshape({3, 4});
  save_safetensors(folder / "a.safetensors",
                   {{"t", matrix.t()}, {"slice", matrix.slice(1, 1, 3)}, {"whole", matrix}});
  const StateDict state = load_safetensors(folder / "a.safetensors");
  EXPECT_TRUE(state.tensor("t").equal(matrix.t()));
  EXPECT_TRUE(state.tensor("slice").equal(matrix.slice(1, 1, 3)));
  EXPECT_TRUE(state.tensor("whole").equal(matrix));
}

TEST(SaveSafetensors, AnEmptySetIsAFileToo) {
  const TempFolder folder;
  save_safetensors(folder / "a.safetensors", {});
  EXPECT_TRUE(load_safetensors(folder / "a.safetensors").tensors.empty());
}

TEST(SaveSafetensors, RefusesWhatTheFormatLacks) {
  const TempFolder folder;
  const auto save = [&](const std::string& name, const torch::Tensor& tensor) {
    return message_of<c10::Error>([&] {
      save_safetensors(folder / "a.safetensors", {{name, tensor}});
    });
  };
  EXPECT_THAT(save("z", torch::zeros({1}, torch::kComplexFloat)), HasSubstr("'z' has the dtype"));
  EXPECT_THAT(save("u", torch::Tensor()), HasSubstr("expected a dense tensor as 'u'"));
  EXPECT_THAT(save("__metadata__", torch::zeros({1})), HasSubstr("can't be called"));
  EXPECT_THAT(save("\xFF", torch::zeros({1})), HasSubstr("can't be called"));
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

TEST(LoadSafetensors, NamesFileAndPlaceOfEveryDefect) {
  const TempFolder folder;
  const std::string f32 = R"({"dtype":"F32","shape":[1],"data_offsets":[0,4]})";
  const std::string four(4, '\0');
  const auto entry = [](const std::string& dtype, const std::string& shape,
                        const std::string& offsets) {
    return R"({"a":{"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" +
           offsets + "}}";
  };
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"", "expected at least 8 bytes, found 0"},
      {"1234567", "found 7"},
      {std::string(8, '\xFF'), "header of 18446744073709551615 bytes"},
      {std::string("\x09\0\0\0\0\0\0\0{}", 10),
       "should end at byte 17, but the file ends at byte 10"},
      {with_header("", ""), "does not begin with '{'"},
      {with_header(" {}", ""), "does not begin with '{'"},
      {with_header("{\"a\":", ""), "its header: expected JSON, found a syntax error at byte"},
      {with_header("{\"a\xFF\":1}", ""), "its header: expected JSON, found a syntax error at byte"},
      {with_header("{}x", ""), "its header: expected JSON, found a syntax error at byte"},
      {with_header("{\"a\":1e999}", ""), "a must be a number below 1.8e308"},
      {with_header(R"({"a":[[[[[[]]]]]]})", ""),
       "expected JSON nested at most 3 deep, found more in a[0][0]"},
      {with_header(R"({"a":)" + f32 + R"(,"a":)" + f32 + "}", four),
       "expected different keys in an object, found a twice"},
      {with_header(R"({"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}})", four),
       "found a.dtype twice"},
      {with_header(R"({"__metadata__":1})", ""), "__metadata__ is not an object"},
      {with_header(R"({"__metadata__":{"k":1}})", ""), "entry \"k\" is not a string"},
      {with_header(R"({"a":1})", ""), "tensor \"a\" has no valid 'dtype'"},
      {with_header(R"({"a":{}})", ""), "has no valid 'dtype'"},
      {with_header(R"({"a":{"dtype":"F32","shape":4,"data_offsets":[0,4]}})", four), "'shape'"},
      {with_header(entry("F4", "[1]", "[0,4]"), four), "dtype \"F4\", which is not supported"},
      {with_header(entry("F32", "[-1]", "[0,4]"), four), "must be an integer of 0 or more"},
      {with_header(entry("F32", "[1.0]", "[0,4]"), four), "must be an integer of 0 or more"},
      {with_header(entry("F32", "[18446744073709551615]", "[0,4]"), four), "too large"},
      {with_header(entry("F32", "[4611686018427387904,4]", "[0,4]"), four), "too large"},
      {with_header(entry("F64", "[2305843009213693952]", "[0,4]"), four), "too large"},
      {with_header(entry("F32", "[0,4611686018427387904,4611686018427387904]", "[0,0]"), ""),
       "too large"},
      {with_header(entry("F32", "[1]", "[0]"), four), "has no valid 'data_offsets'"},
      {with_header(entry("F32", "[1]", "[4,0]"), four), "lies at [4, 0) of 4 bytes"},
      {with_header(entry("F32", "[2]", "[0,8]"), four), "lies at [0, 8) of 4 bytes"},
      {with_header(entry("F32", "[2]", "[0,4]"), four),
       "has 4 bytes of data, but its dtype and shape need 8"},
      {with_header(entry("U8", "[2]", "[0,2]"), four),
       "end at byte 2 of the data, but the data has 4"},
      {with_header(entry("U8", "[2]", "[2,4]"), four),
       "begins at byte 2 of the data, expected 0 (there is a hole)"},
      {with_header(R"({"a":)" + f32 + R"(,"b":)" + f32 + "}", four), "tensors overlap"},
      {with_header(entry("BOOL", "[4]", "[0,4]"), std::string("\0\1\2\0", 4)),
       "bytes other than 0 and 1"},
  };
  for (const auto& [content, expected] : cases) {
    SCOPED_TRACE(expected);
    write_text(folder / "bad.safetensors", content);
    const std::string message =
        message_of<UserError>([&] { load_safetensors(folder / "bad.safetensors"); });
    EXPECT_THAT(message, HasSubstr("bad.safetensors' is not a valid safetensors file: "));
    EXPECT_THAT(message, HasSubstr(expected));
    EXPECT_EQ(message.find('\n'), std::string::npos);
  }
}

TEST(OpenSafetensors, ReadsATensorWhenItIsAskedFor) {
  const TempFolder folder;
  for (const auto& [name, shape] : kShapes)
    for (const auto& [dtype_name, dtype] : test::kGoldenDtypes) {
      const torch::Tensor tensor = golden_tensor(dtype_name, dtype, shape);
      save_safetensors(folder / "a", {{name, tensor}}, {{"format", "pt"}});
      const StateDict state = open_safetensors(folder / "a");
      EXPECT_TRUE(state.meta(name).is_meta());
      EXPECT_EQ(state.meta(name).sizes(), tensor.sizes());
      EXPECT_EQ(state.meta(name).scalar_type(), dtype);
      EXPECT_EQ(state.get<std::string>("format"), "pt");
      expect_equal_bits(state.tensor(name), tensor);
    }
}

TEST(OpenSafetensors, KeepsTheFileThatItOpened) {
  const TempFolder folder;
  save_safetensors(folder / "a", {{"part.x", torch::ones({3})}, {"y", torch::zeros({2})}});
  StateDict state;
  state.insert("whole.", open_safetensors(folder / "a"));
  std::filesystem::remove(folder / "a");
  const StateDict part = state.extract("whole.part.");
  EXPECT_EQ(part.tensors.size(), 1U);
  EXPECT_EQ(part.lazy.size(), 1U);
  EXPECT_TRUE(part.tensor("x").equal(torch::ones({3})));
  state.tensors["whole.y"] = torch::ones({2});  // in place of the one that is lazy
  state.read_all();
  EXPECT_TRUE(state.lazy.empty());
  EXPECT_TRUE(state.tensors.at("whole.part.x").equal(torch::ones({3})));
  EXPECT_TRUE(state.tensors.at("whole.y").equal(torch::ones({2})));
}

TEST(OpenSafetensors, TellsOfAFileThatWasCutOffSince) {
  const TempFolder folder;
  save_safetensors(folder / "a", {{"x", torch::ones({1000})}});
  const StateDict state = open_safetensors(folder / "a");
  std::filesystem::resize_file(folder / "a", 200);
  EXPECT_THAT(message_of<UserError>([&] { state.tensor("x"); }), HasSubstr("ended at byte 200"));
  EXPECT_THROW(save_safetensors(folder / "b", state.tensors), c10::Error);
}

TEST(LoadSafetensors, NamesPathsThatAreNoFiles) {
  const TempFolder folder;
  EXPECT_THAT(message_of<UserError>([&] { load_safetensors(folder / "none"); }),
              HasSubstr("none': No such file or directory"));
  EXPECT_THAT(message_of<UserError>([&] { load_safetensors(folder.path()); }),
              HasSubstr("expected a file, found a folder"));
  EXPECT_THAT(message_of<UserError>([&] { load_safetensors("/dev/null"); }),
              HasSubstr("found something else"));
}

// Any bytes give tensors or a UserError, never a crash or another exception.
TEST(LoadSafetensors, SurvivesDamagedFiles) {
  const TempFolder folder;
  const std::string path = folder / "fuzz.safetensors";
  save_safetensors(path,
                   {{"w", torch::ones({3, 2})},
                    {"flag", torch::ones({5}, torch::kBool)},
                    {"诗", torch::ones({}, torch::kHalf)}},
                   {{"format", "pt"}});
  const std::string good = read_text(path);
  const std::string alphabet = "{}[]\",:0123456789-eE.\\ \xFF";
  int refused = 0;
  constexpr std::uint64_t kRounds = 3000;
  for (std::uint64_t round = 0; round < kRounds; ++round) {
    std::uint64_t draws = 0;
    const auto draw = [&](std::size_t below) { return random_word(round, draws++) % below; };
    std::string bytes = good;
    for (std::size_t edits = 1 + draw(4); edits > 0; --edits) {
      const std::size_t at =
          draw(2) == 0 ? draw(bytes.size()) : draw(std::min<std::size_t>(bytes.size(), 200));
      switch (draw(4)) {
        case 0:
          bytes[at] = static_cast<char>(draw(256));
          break;
        case 1:
          bytes[at] = alphabet[draw(alphabet.size())];
          break;
        case 2:
          bytes.erase(at, 1 + draw(9));
          break;
        default:
          bytes.insert(at, bytes.substr(draw(bytes.size()), draw(20)));
      }
      if (bytes.empty()) bytes = "x";
    }
    write_text(path, bytes);
    try {
      load_safetensors(path);
    } catch (const UserError&) {
      ++refused;
    }
  }
  EXPECT_GT(refused, static_cast<int>(kRounds / 2));
  for (std::size_t length = 0; length < good.size(); ++length) {
    write_text(path, good.substr(0, length));
    EXPECT_THROW(load_safetensors(path), UserError) << length;
  }
}

}  // namespace
}  // namespace halftone::safetensors_test
