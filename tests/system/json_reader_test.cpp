// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>

#include "halftone/core/error.h"
#include "halftone/system/json_reader_impl.h"
#include "support/message_of.h"
#include "support/temp_folder.h"

namespace halftone::json_reader_test {
namespace {

using test::message_of;
using test::TempFolder;
using test::write_text;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

std::string refusal_of(const std::string& text, const JsonRules& rules = {}) {
  return message_of<UserError>([&] { parse_json(text, "a.json", rules); });
}

template <class Access>
std::string access_error(const std::string& text, Access access) {
  const JsonDocument document = parse_json(text, "a.json");
  return message_of<UserError>([&] { access(document.root()); });
}

TEST(ParseJson, NamesThePlaceOfASyntaxError) {
  EXPECT_EQ(refusal_of("{\"a\": }"),
            "a.json: expected JSON, found a syntax error at byte 7; the file may be damaged or cut "
            "off");
  EXPECT_THAT(refusal_of(""), HasSubstr("syntax error at byte 1"));
  EXPECT_THAT(refusal_of("{} x"), HasSubstr("syntax error"));
  EXPECT_THAT(refusal_of("\"\xFF\""), HasSubstr("syntax error"));
  EXPECT_THAT(refusal_of("[1", {.remedy = "fetch it again"}), HasSubstr("; fetch it again"));
}

TEST(ParseJson, NamesTheFieldOfANumberThatNoDoubleHolds) {
  EXPECT_THAT(refusal_of(R"({"added": [{"id": 1}, {"id": 1e999}]})"),
              AllOf(HasSubstr("a.json: added[1].id must be a number below 1.8e308"),
                    Not(HasSubstr("exception"))));
  EXPECT_THAT(refusal_of("-1e400"), HasSubstr("the whole document must be a number"));
  EXPECT_THAT(refusal_of(R"({"a": [[], {}, [0, 1e999]]})"), HasSubstr("a[2][1] must be"));
}

TEST(ParseJson, LimitsDepth) {
  const auto nested = [](int depth) {
    return std::string(static_cast<std::size_t>(depth), '[') +
           std::string(static_cast<std::size_t>(depth), ']');
  };
  EXPECT_EQ(parse_json(nested(64), "a.json").value.size(), 1U);
  EXPECT_THAT(refusal_of(nested(65)), HasSubstr("nested at most 64 deep, found more in [0][0]"));
  EXPECT_THAT(refusal_of(nested(1'000'000)), HasSubstr("nested at most 64 deep"));
  EXPECT_LT(refusal_of(nested(1'000'000)).size(), 400U);
  std::string objects;
  for (int i = 0; i < 300'000; ++i) objects += "{\"a\":";
  EXPECT_THAT(refusal_of(objects), HasSubstr("found more in a.a.a"));
  EXPECT_THAT(refusal_of("[[1]]", {.max_depth = 1}), HasSubstr("found more in [0]"));
  EXPECT_NO_THROW(parse_json("[1]", "a.json", {.max_depth = 1}));
}

TEST(ParseJson, LimitsSize) {
  EXPECT_NO_THROW(parse_json("[1]", "a.json", {.max_bytes = 3}));
  EXPECT_THAT(refusal_of("[1] ", {.max_bytes = 3}), HasSubstr("at most 3 B, found 4 B"));
}

TEST(ParseJson, RefusesRepeatedKeysWhereAsked) {
  const std::string text = R"({"a": {"k": 1, "l": 2, "k": 3}})";
  EXPECT_EQ(parse_json(text, "a.json").value["a"]["k"], 3);
  EXPECT_THAT(refusal_of(text, {.unique_keys = true}), HasSubstr("found a.k twice"));
  EXPECT_NO_THROW(
      parse_json(R"({"k": {"k": 1}, "l": [{"k": 1}, {"k": 1}]})", "a.json", {.unique_keys = true}));
}

TEST(JsonField, ReadsWhatIsThere) {
  const JsonDocument document = parse_json(
      R"({"s": "x", "yes": true, "i": -3, "x": 2.5, "big": 9223372036854775807, "list": [7, 8]})",
      "a.json");
  const JsonField root = document.root();
  EXPECT_EQ(root["s"].as_string(), "x");
  EXPECT_EQ(root["s"].as_optional_string(), "x");
  EXPECT_EQ(root["none"].as_optional_string(), std::nullopt);
  EXPECT_TRUE(root["yes"].as_bool());
  EXPECT_TRUE(root["none"].as_bool(true));
  EXPECT_EQ(root["i"].as_integer(), -3);
  EXPECT_EQ(root["i"].as_integer(-3, -3), -3);
  EXPECT_EQ(root["big"].as_integer(), std::numeric_limits<std::int64_t>::max());
  EXPECT_EQ(root["x"].as_number(), 2.5);
  EXPECT_EQ(root["i"].as_number(), -3.0);
  EXPECT_EQ(root["list"].array_size(), 2U);
  EXPECT_EQ(root["list"][1].as_integer(), 8);
  std::string keys;
  root.for_each_member([&](const std::string& key, const JsonField& field) {
    keys += key;
    EXPECT_EQ(field.name(), key);
  });
  EXPECT_EQ(keys, "bigilistsxyes");
}

TEST(JsonField, NamesTheFieldThatIsWrong) {
  const auto error = [](const std::string& value, auto access) {
    return access_error("{\"a\": {\"b\": " + value + "}}",
                        [&](const JsonField& root) { access(root["a"]["b"]); });
  };
  const auto integer = [](const JsonField& field) { field.as_integer(0, 9); };
  EXPECT_EQ(error("10", integer), "a.json: a.b must be an integer from 0 to 9, but it is 10");
  EXPECT_THAT(error("-1", integer), HasSubstr("but it is -1"));
  EXPECT_THAT(error("3.0", integer), HasSubstr("but it is 3.0"));
  EXPECT_THAT(error("null", integer), HasSubstr("but it is missing or null"));
  EXPECT_THAT(error("9223372036854775808", [](const JsonField& f) { f.as_integer(); }),
              HasSubstr("but it is 9223372036854775808"));
  EXPECT_THAT(error("18446744073709551616", [](const JsonField& f) { f.as_integer(); }),
              HasSubstr("must be an integer"));
  EXPECT_THAT(error("1e300", [](const JsonField& f) { f.as_integer(); }), HasSubstr("1e+300"));
  EXPECT_THAT(error("\"1\"", [](const JsonField& f) { f.as_number(); }), HasSubstr("a number"));
  EXPECT_THAT(error("1", [](const JsonField& f) { f.as_string(); }), HasSubstr("a string"));
  EXPECT_THAT(error("1", [](const JsonField& f) { f.as_bool(); }), HasSubstr("true or false"));
  EXPECT_THAT(error("1", [](const JsonField& f) { f["c"].is_null(); }), HasSubstr("an object"));
  EXPECT_THAT(error("{}", [](const JsonField& f) { f.array_size(); }), HasSubstr("an array"));
}

TEST(JsonField, ShowsEveryNameAndValueOnOneShortLine) {
  const std::string long_text(10'000, 'y');
  const auto number = [](const JsonField& field) { field.as_number(); };
  const std::string message =
      access_error("{\"a\\n\\u0001b\": {\"" + long_text + "\": \"" + long_text + "\"}}",
                   [&](const JsonField& root) {
                     number(
                         root["a\n\x01"
                              "b"][long_text]);
                   });
  EXPECT_THAT(message, HasSubstr(R"(["a\n\u0001b"]["yyy)"));
  EXPECT_LT(message.size(), 400U);
  EXPECT_EQ(message.find('\n'), std::string::npos);
  EXPECT_EQ(quoted_json("\xE6\x98\n"), "\"\\ufffd\\n\"");
}

TEST(ReadJsonFile, NamesTheFile) {
  const TempFolder folder;
  write_text(folder / "good.json", "[1, 2]");
  EXPECT_EQ(read_json_file(folder / "good.json").value.size(), 2U);
  EXPECT_THAT(
      message_of<UserError>([&] { read_json_file(folder / "good.json", {.max_bytes = 5}); }),
      HasSubstr("at most 5 B"));
  EXPECT_THAT(message_of<UserError>([&] { read_json_file(folder / "none.json"); }),
              HasSubstr("none.json"));
}

TEST(ParseJsonIfValid, GivesNothingForWhatCannotBeRead) {
  EXPECT_EQ(parse_json_if_valid("[1, 2]")->size(), 2U);
  EXPECT_FALSE(parse_json_if_valid("[1, 2"));
  EXPECT_FALSE(parse_json_if_valid("[1e999]"));
  EXPECT_FALSE(parse_json_if_valid(std::string(1000, '[') + std::string(1000, ']')));
}

}  // namespace
}  // namespace halftone::json_reader_test
