// SPDX-License-Identifier: Apache-2.0
#include "halftone/core/state_dict.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <string>

#include "halftone/core/error.h"
#include "support/message_of.h"

namespace halftone::state_dict_test {
namespace {

using test::message_of;
using testing::HasSubstr;

std::string type_error(const StateDict::Value& value) {
  const StateDict state{.values = {{"x", value}}};
  return message_of<UserError>([&] { state.get<std::int64_t>("x"); });
}

TEST(StateDict, GivesValuesOfTheirOwnType) {
  const StateDict state{
      .values = {{"b", true}, {"i", std::int64_t{-7}}, {"d", 0.25}, {"s", std::string("text")}}};
  EXPECT_TRUE(state.get<bool>("b"));
  EXPECT_EQ(state.get<std::int64_t>("i"), -7);
  EXPECT_EQ(state.get<double>("d"), 0.25);
  EXPECT_EQ(state.get<std::string>("s"), "text");
  EXPECT_EQ(state.get<double>("i"), -7.0) << "an integer is a number too";
}

TEST(StateDict, NamesAValueThatIsMissingOrOfAnotherType) {
  EXPECT_THAT(message_of<UserError>([] { StateDict{}.get<bool>("lr"); }), HasSubstr("'lr'"));
  for (const StateDict::Value& value :
       {StateDict::Value(true), StateDict::Value(1.0), StateDict::Value(std::string("1"))})
    EXPECT_THAT(type_error(value), HasSubstr("'x'"));
}

TEST(StateDict, ReadsAWaitingTensorEachTimeItIsAskedFor) {
  int reads = 0;
  StateDict state;
  state.tensors["w"] = torch::empty({2, 3}, torch::device(torch::kMeta).dtype(torch::kHalf));
  state.lazy["w"] = [&] {
    ++reads;
    return torch::full({2, 3}, reads, torch::kHalf);
  };
  EXPECT_EQ(state.meta("w").sizes(), (std::vector<std::int64_t>{2, 3}));
  EXPECT_EQ(state.meta("w").scalar_type(), torch::kHalf);
  EXPECT_EQ(reads, 0);
  EXPECT_TRUE(state.tensor("w").equal(torch::full({2, 3}, 1, torch::kHalf)));
  EXPECT_TRUE(state.tensor("w").equal(torch::full({2, 3}, 2, torch::kHalf)));
  EXPECT_TRUE(state.meta("w").is_meta()) << "asking for it keeps nothing";
  state.read_all();
  EXPECT_TRUE(state.lazy.empty());
  EXPECT_TRUE(state.meta("w").equal(torch::full({2, 3}, 3, torch::kHalf)));
  EXPECT_EQ(reads, 3);
}

TEST(StateDict, GivesATensorThatIsThereAsItIs) {
  StateDict state;
  state.tensors["w"] = torch::ones({2});
  EXPECT_EQ(state.tensor("w").data_ptr(), state.tensors["w"].data_ptr());
  EXPECT_THAT(message_of<UserError>([&] { state.tensor("v"); }), HasSubstr("tensor 'v'"));
  EXPECT_THAT(message_of<UserError>([&] { state.meta("v"); }), HasSubstr("tensor 'v'"));
}

TEST(StateDict, InsertsAndExtractsUnderAPrefix) {
  StateDict part;
  part.tensors = {{"a", torch::ones({1})}, {"b", torch::empty({1}, torch::kMeta)}};
  part.values["n"] = std::int64_t{3};
  part.lazy["b"] = [] { return torch::zeros({1}); };
  StateDict whole;
  whole.tensors = {{"model", torch::ones({2})}, {"modely.a", torch::ones({3})}};
  whole.insert("model.", part);
  whole.insert("", {.values = {{"top", true}}});
  EXPECT_EQ(whole.tensors.size(), 4U);
  EXPECT_TRUE(whole.get<bool>("top"));

  const StateDict back = whole.extract("model.");
  EXPECT_EQ(back.tensors.size(), 2U) << "neither 'model' nor 'modely.a' starts with 'model.'";
  EXPECT_EQ(back.tensors.at("a").data_ptr(), part.tensors.at("a").data_ptr());
  EXPECT_EQ(back.get<std::int64_t>("n"), 3);
  EXPECT_TRUE(back.tensor("b").equal(torch::zeros({1})));
  EXPECT_TRUE(whole.extract("none.").tensors.empty());
  EXPECT_EQ(whole.extract("").values.size(), 2U);
}

TEST(TensorMismatches, NamesWhatDiffers) {
  StateDict expected;
  for (const char* name : {"a", "b", "c", "d", "e"}) expected.tensors[name] = torch::ones({2, 3});
  EXPECT_EQ(tensor_mismatches(expected, expected), "");
  StateDict given;
  given.tensors = {{"a", torch::ones({2, 3}, torch::kHalf)},  // another dtype is no mismatch
                   {"b", torch::ones({3, 2})},
                   {"x", torch::ones({1})}};
  EXPECT_EQ(tensor_mismatches(expected, given),
            "missing: c, d, e; unexpected: x; of another shape: b [3, 2] instead of [2, 3]");
  EXPECT_EQ(tensor_mismatches(expected, {}), "missing: a, b, c and 2 more");
}

}  // namespace
}  // namespace halftone::state_dict_test
