// SPDX-License-Identifier: Apache-2.0
#include "halftone/io/pickle_reader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "halftone/core/error.h"
#include "halftone/core/random.h"
#include "halftone/io/zip_archive.h"
#include "support/message_of.h"
#include "support/paths.h"
#include "support/torch_file.h"

namespace halftone::pickle_reader_test {
namespace {

namespace pickle = test::pickle;
using test::message_of;
using testing::AllOf;
using testing::HasSubstr;

Pickle read(const std::string& object) { return read_pickle(pickle::program(object), "'a'"); }

std::string refusal(const std::string& bytes) {
  const std::string message = message_of<UserError>([&] { read_pickle(bytes, "'a'"); });
  EXPECT_EQ(message.rfind("'a' ", 0), 0U) << message;
  EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  return message;
}

std::string golden_pickle(const std::string& name) {
  const ZipArchive zip(std::string(test::kGoldenDir) + "/pth/" + name + ".pth");
  return zip.read_all(*zip.find(name + "/data.pkl"), kMaxPickleBytes);
}

TEST(ReadPickle, GivesNumbers) {
  const std::vector<std::pair<std::string, std::int64_t>> cases = {
      {"K\xff", 255},
      {std::string("M\0\1", 3), 256},
      {"J\xfe\xff\xff\xff", -2},
      {std::string("\x8a\0", 2), 0},
      {"\x8a\1\xff", -1},
      {std::string("\x8a\2\xff\0", 4), 255},
      {std::string("\x8a\6\0\0\0\0\0\1", 8), std::int64_t{1} << 40},
      {pickle::integer(INT64_MIN), INT64_MIN},
  };
  for (const auto& [object, expected] : cases) {
    const Pickle pickle = read(object);
    EXPECT_EQ(pickle.root().kind, PickleKind::kInteger);
    EXPECT_EQ(pickle.root().integer, expected);
  }
  EXPECT_EQ(read(std::string("G\x40\x04\0\0\0\0\0\0", 9)).root().number, 2.5);
  EXPECT_EQ(read("\x88").root().integer, 1);
  EXPECT_EQ(read("\x89").root().kind, PickleKind::kBool);
  EXPECT_EQ(read("N").root().kind, PickleKind::kNone);
}

TEST(ReadPickle, GivesContainers) {
  const Pickle found =
      read(pickle::ordered_dict({pickle::text("诗"), "](K\1K\2e", pickle::text("t"),
                                 "K\1K\2K\3\x87", pickle::text("u"), "U\2ab\x85"}));
  const PickleObject& dict = found.root();
  ASSERT_EQ(dict.kind, PickleKind::kDict);
  ASSERT_NE(dict.find("诗"), nullptr);
  EXPECT_EQ(dict.find("诗")->kind, PickleKind::kList);
  EXPECT_EQ(dict.find("诗")->items.at(1)->integer, 2);
  EXPECT_EQ(dict.find("t")->items.at(0)->integer, 1);
  EXPECT_EQ(dict.find("t")->items.at(2)->integer, 3);
  EXPECT_EQ(dict.find("u")->items.at(0)->text, "ab");
  EXPECT_EQ(dict.find("v"), nullptr);
  // The last of two equal keys counts, as in Python.
  EXPECT_EQ(read(pickle::dict({pickle::text("a"), "K\1", pickle::text("a"), "K\2"}))
                .root()
                .find("a")
                ->integer,
            2);
}

TEST(ReadPickle, RemembersObjects) {
  const Pickle found =
      read(std::string("]q\0"
                       "0h\0h\0\x86",
                       9));
  ASSERT_EQ(found.root().items.size(), 2U);
  EXPECT_EQ(found.root().items[0], found.root().items[1]);
  EXPECT_EQ(found.root().items[0]->kind, PickleKind::kList);
}

TEST(ReadPickle, RunsNothing) {
  const Pickle found =
      read(pickle::call(pickle::global("torch._utils", "_rebuild_parameter"), {"K\1", "\x88"}));
  EXPECT_TRUE(found.root().is_call_of("torch._utils._rebuild_parameter"));
  EXPECT_EQ(found.root().items.at(1)->items.size(), 2U);
  for (const auto& [module, name] :
       std::vector<std::pair<std::string, std::string>>{{"os", "system"},
                                                        {"builtins", "eval"},
                                                        {"builtins", "getattr"},
                                                        {"__builtin__", "exec"},
                                                        {"torch", "load"},
                                                        {"torch.FloatStorage", ""},
                                                        {"", "torch.FloatStorage"},
                                                        {"argparse", "Namespace"},
                                                        {"torch", "_utils._rebuild_tensor_v2"}}) {
    SCOPED_TRACE(module + " " + name);
    EXPECT_THAT(refusal(pickle::program(
                    pickle::call(pickle::global(module, name), {pickle::text("touch x")}))),
                AllOf(HasSubstr("names \"" + module + "." + name + "\" at byte 2"),
                      HasSubstr("torch.save(model.state_dict()")));
  }
}

TEST(ReadPickle, RefusesWhatIsWrong) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"", "is not valid at byte 0: 1 bytes are missing"},
      {"\x80\4N.", "is of pickle protocol 4, expected 2"},
      {"\x80\2N", "bytes are missing"},
      {"\x80\2N.N", "1 bytes follow its end"},
      {"\x80\2NN.", "ends within an object"},
      {"\x80\2(N.", "ends within an object"},
      {"\x80\2.", "an object is missing"},
      {"\x80\2(a.", "an object is missing"},
      {"\x80\2Na.", "an object is missing"},
      {"\x80\2NNa.", "appends to what is no list"},
      {"\x80\2NNNs.", "sets an item of what is no dict"},
      {"\x80\2}(Nu.", "a key has no value"},
      {"\x80\2Nt.", "a mark is missing"},
      {"\x80\2Nb.", "an object is missing"},
      {"\x80\2NNb.", "sets attributes of what has none"},
      {"\x80\2N)R.", "calls what is no function"},
      {"\x80\2" + pickle::global("torch", "Size") + "NR.", "calls what is no function"},
      {"\x80\2h\7.", "asks for object 7 before it is there"},
      {"\x80\2ctorch\nSize", "a name has no end"},
      {"\x80\2X\xff\xff\xff\xff"
       "a.",
       "bytes are missing"},
      {std::string("\x80\2\x8a\x9", 4) + std::string(9, '\1') + ".",
       "an integer of more than 64 bits"},
      {"\x80\2i", "the opcode 0x69, which torch.save does not write"},
      {"\x80\2" + std::string(201, '('), "nested more than 200 deep"},
      {"\x80\2" + std::string(4'000'001, ']'), "more than 4000000 objects"},
  };
  for (const auto& [bytes, expected] : cases) {
    SCOPED_TRACE(expected);
    EXPECT_THAT(refusal(bytes), HasSubstr(expected));
  }
}

// Without recursion there is no depth at which the stack ends.
TEST(ReadPickle, TakesWhatNestsWithoutAnEnd) {
  std::string chain = "]";
  for (int i = 0; i < 1'000'000; ++i) chain += "\x85";
  EXPECT_EQ(read(chain).root().kind, PickleKind::kTuple);
  EXPECT_EQ(read(std::string("]q\0h\0a", 6)).root().items.size(), 1U) << "a list in itself";
}

TEST(ReadPickle, RefusesEveryPickleThatWasCutOff) {
  const std::string good = golden_pickle("resume");
  EXPECT_EQ(read_pickle(good, "'a'").root().find("epoch")->integer, 1);
  for (std::size_t size = 0; size < good.size(); ++size) refusal(good.substr(0, size));
}

TEST(ReadPickle, SurvivesDamage) {
  const std::string good = golden_pickle("resume");
  const std::string alphabet = "(.01GJKMNQRTUXabcehjqrstu)]}\x80\x85\x86\x87\x88\x89\x8a";
  int refused = 0;
  int read = 0;
  for (std::uint64_t round = 0; round < 5000; ++round) {
    std::uint64_t draws = 0;
    const auto draw = [&](std::size_t below) { return random_word(round, draws++) % below; };
    std::string bytes = good;
    for (std::size_t edits = 1 + draw(3); edits > 0; --edits) {
      const std::size_t at = draw(bytes.size());
      const std::size_t kind = draw(4);
      if (kind == 0) bytes[at] = static_cast<char>(draw(256));
      if (kind == 1) bytes[at] = alphabet[draw(alphabet.size())];
      if (kind == 2) bytes.erase(at, 1 + draw(9));
      if (kind == 3) bytes.insert(at, bytes.substr(draw(bytes.size()), draw(20)));
    }
    try {
      read_pickle(bytes, "'a'");
      ++read;
    } catch (const UserError&) {
      ++refused;
    }
  }
  EXPECT_GT(refused, 1000);
  EXPECT_GT(read, 100);
}

}  // namespace
}  // namespace halftone::pickle_reader_test
