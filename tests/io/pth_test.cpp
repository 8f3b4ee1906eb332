// SPDX-License-Identifier: Apache-2.0
#include "halftone/io/pth.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>

#include "halftone/core/error.h"
#include "support/golden_tensor.h"
#include "support/paths.h"
#include "support/temp_folder.h"
#include "support/torch_file.h"

namespace halftone::pth_test {
namespace {

namespace pickle = test::pickle;
using test::bytes_of;
using test::expect_equal_bits;
using test::message_of;
using test::read_text;
using test::TempFolder;
using test::torch_file;
using test::write_text;
using testing::AllOf;
using testing::HasSubstr;

std::string golden(const std::string& name) {
  return std::string(test::kGoldenDir) + "/pth/" + name + ".pth";
}

torch::Tensor by_rule(const std::vector<std::int64_t>& shape,
                      torch::ScalarType dtype = torch::kFloat, const std::string& kind = "f32") {
  return test::golden_tensor(kind, dtype, shape);
}

const std::map<std::string, std::vector<std::int64_t>> kModelShapes = {
    {"tok_embeddings.weight", {6, 4}},
    {"output.weight", {6, 4}},
    {"norm.weight", {4}},
    {"layers.0.attention.wq.weight", {4, 4}},
    {"layers.0.attention.wk.weight", {2, 4}},
    {"layers.0.attention.wv.weight", {2, 4}},
    {"layers.0.attention.wo.weight", {4, 4}},
    {"layers.0.attention_norm.weight", {4}},
    {"layers.0.ffn_norm.weight", {4}},
    {"layers.0.feed_forward.w1.weight", {8, 4}},
    {"layers.0.feed_forward.w2.weight", {4, 8}},
    {"layers.0.feed_forward.w3.weight", {8, 4}}};

void expect_model(const StateDict& state, torch::ScalarType dtype) {
  EXPECT_EQ(state.tensors.size(), kModelShapes.size());
  for (const auto& [name, shape] : kModelShapes) {
    SCOPED_TRACE(name);
    EXPECT_TRUE(state.meta(name).is_meta());
    EXPECT_EQ(state.meta(name).sizes(), torch::IntArrayRef(shape));
    EXPECT_EQ(state.meta(name).scalar_type(), dtype);
    expect_equal_bits(state.tensor(name), by_rule(shape, dtype));
  }
}

TEST(OpenPth, ReadsAStateDictWithMetadataThatWasOnAGpu) {
  const StateDict state = open_pth(golden("state_dict"));
  expect_model(state, torch::kFloat);
  EXPECT_TRUE(state.values.empty());
  // The head is the embedding: one memory while one of them is there.
  const torch::Tensor head = state.tensor("output.weight");
  EXPECT_EQ(head.data_ptr(), state.tensor("tok_embeddings.weight").data_ptr());
  EXPECT_NE(head.data_ptr(), state.tensor("norm.weight").data_ptr());
}

TEST(OpenPth, ReadsAPlainDictOfFp16) {
  expect_model(open_pth(golden("half")), torch::kHalf);
  expect_model(open_pth(golden("ordered")), torch::kHalf);
}

TEST(OpenPth, ReadsTheModelOfAFileToResumeFrom) {
  const StateDict state = open_pth(golden("resume"));
  expect_model(state, torch::kHalf);
  EXPECT_EQ(state.get<std::int64_t>("epoch"), 1);
  EXPECT_EQ(state.get<std::int64_t>("step"), std::int64_t{1} << 40);
  EXPECT_EQ(state.get<double>("loss"), 2.5);
  EXPECT_EQ(state.get<bool>("done"), false);
  EXPECT_EQ(state.get<std::string>("note"), "诗");
  EXPECT_FALSE(state.values.contains("wandb_id")) << "None";
}

TEST(OpenPth, ReadsEveryDtypeAndView) {
  const StateDict state = open_pth(golden("kinds"));
  std::map<std::string, torch::ScalarType> dtypes = test::kGoldenDtypes;
  dtypes["c64"] = torch::kComplexFloat;
  for (const auto& [name, dtype] : dtypes) {
    SCOPED_TRACE(name);
    expect_equal_bits(state.tensor(name), by_rule({2, 3}, dtype, name));
  }
  const torch::Tensor base = by_rule({4, 6});
  expect_equal_bits(state.tensor("scalar"), by_rule({}));
  expect_equal_bits(state.tensor("empty"), by_rule({0, 3}));
  expect_equal_bits(state.tensor("tied"), base);
  expect_equal_bits(state.tensor("slice"), base.slice(0, 1, 3));
  expect_equal_bits(state.tensor("corner"), base.slice(0, 1, 3).slice(1, 2, 5).contiguous());
  expect_equal_bits(state.tensor("transposed"), base.t().contiguous());
  expect_equal_bits(state.tensor("parameter"), by_rule({5}));
  expect_equal_bits(state.tensor("long/诗"), by_rule({300}));
  EXPECT_EQ(state.tensors.size(), dtypes.size() + 9);
}

TEST(OpenPth, KeepsTheFileThatItOpened) {
  const TempFolder folder;
  write_text(folder / "a.pth", read_text(golden("half")));
  StateDict state;
  state.insert("whole.", open_pth(folder / "a.pth"));
  std::filesystem::remove(folder / "a.pth");
  state.read_all();
  EXPECT_TRUE(state.lazy.empty());
  expect_equal_bits(state.tensor("whole.norm.weight"), by_rule({4}, torch::kHalf));
}

TEST(OpenPth, RefusesFilesOfOtherKinds) {
  const TempFolder folder;
  write_text(folder / "text.pth", "hello");
  write_text(folder / "empty.pth", "");
  write_text(folder / "zip.pth", test::zip_of({{"a/b/data.pkl", "N."}, {"x", "y"}}));
  write_text(folder / "two.pth", test::zip_of({{"a/data.pkl", "N."}, {"b/data.pkl", "N."}}));
  write_text(folder / "big.pth", test::zip_of({{"a/data.pkl", "N."}, {"a/byteorder", "big"}}));
  const std::vector<std::pair<std::string, std::string>> cases = {
      {golden("legacy"),
       "is a file of PyTorch before 1.6, or a bare pickle; convert it: python3 -c \"import "
       "torch; torch.save(torch.load('" +
           golden("legacy") + "', map_location='cpu'), '"},
      {golden("namespace"), "names \"argparse.Namespace\" at byte "},
      {golden("protocol4"),
       "is of pickle protocol 4, expected 2; save it again in PyTorch without pickle_protocol"},
      {golden("expanded"), "elements of tensor \"w\" share memory (expand() makes such a tensor)"},
      {golden("conjugate"), "tensor \"w\" is a view by conj()"},
      {folder / "text.pth", "text.pth' is not a valid PyTorch file: expected a zip archive"},
      {folder / "empty.pth", "empty.pth' is not a valid PyTorch file: expected a zip archive"},
      {folder / "zip.pth", "has no entry NAME/data.pkl"},
      {folder / "two.pth", "has two entries NAME/data.pkl"},
      {folder / "big.pth", "its byte order is \"big\", expected \"little\""},
      {folder / "none.pth", "none.pth': No such file or directory"},
      {folder.path(), "expected a file, found a folder"},
  };
  for (const auto& [path, message] : cases) {
    SCOPED_TRACE(message);
    EXPECT_THAT(message_of<UserError>([&, &path = path] { open_pth(path); }), HasSubstr(message));
  }
}

std::string refusal(const std::string& bytes) {
  const TempFolder folder;
  write_text(folder / "a.pth", bytes);
  const std::string message = message_of<UserError>([&] { open_pth(folder / "a.pth").read_all(); });
  EXPECT_THAT(message, HasSubstr("a.pth'"));
  EXPECT_EQ(message.find('\n'), std::string::npos);
  return message;
}

TEST(OpenPth, RefusesWhatHoldsNoWeights) {
  const std::string tensor = pickle::rebuilt({.elements = 1, .sizes = {1}, .strides = {1}});
  const std::vector<test::ZipPart> storage = {{"0", std::string(4, '\0')}};
  EXPECT_THAT(refusal(torch_file("N")), HasSubstr("found something else"));
  EXPECT_THAT(refusal(torch_file(pickle::dict({}))), HasSubstr("found a dict of nothing"));
  EXPECT_THAT(refusal(torch_file(pickle::dict({pickle::text("epoch"), "K\1"}))),
              AllOf(HasSubstr("found a dict of \"epoch\""), HasSubstr("save model.state_dict()")));
  EXPECT_THAT(refusal(torch_file(pickle::dict({pickle::text("w"), tensor, pickle::text("v"), "]"}),
                                 storage)),
              HasSubstr("expected a tensor as \"v\", found something else"));
  EXPECT_THAT(refusal(torch_file(pickle::dict({"K\1", tensor}), storage)),
              HasSubstr("the name of a tensor is not a text"));
  EXPECT_THAT(refusal(torch_file(pickle::dict({pickle::text("\xff"), tensor}), storage)),
              HasSubstr("the name of a tensor is not a text"));
  EXPECT_THAT(refusal(torch_file(
                  pickle::dict({pickle::text("w"), tensor, pickle::text("w"), tensor}), storage)),
              HasSubstr("tensor \"w\" is there twice"));
}

TEST(OpenPth, HoldsTensorsToTheirStorage) {
  const std::int64_t most = INT64_MAX;
  const std::vector<std::pair<pickle::Tensor, std::string>> cases = {
      {{.elements = 7, .sizes = {1}, .strides = {1}},
       "has 24 bytes, expected 7 elements of 4 bytes"},
      {{.elements = -6, .sizes = {1}, .strides = {1}}, "has 24 bytes, expected -6 elements"},
      {{.storage = "DoubleStorage", .elements = 6, .sizes = {1}, .strides = {1}},
       "expected 6 elements of 8 bytes"},
      {{.storage = "Size", .elements = 6, .sizes = {1}, .strides = {1}},
       "is of the dtype \"torch.Size\""},
      {{.key = "1", .elements = 6, .sizes = {1}, .strides = {1}},
       "the storage \"1\" of tensor \"w\" is missing"},
      {{.key = "../data.pkl", .elements = 6, .sizes = {1}, .strides = {1}},
       "\"../data.pkl\" of tensor \"w\" is missing"},
      {{.elements = 6, .sizes = {7}, .strides = {1}}, "reaches beyond its storage of 24 bytes"},
      {{.elements = 6, .offset = 3, .sizes = {2, 2}, .strides = {2, 1}},
       "reaches beyond its storage"},
      {{.elements = 6, .offset = most, .sizes = {1}, .strides = {1}}, "reaches beyond its storage"},
      {{.elements = 6, .sizes = {2}, .strides = {most}}, "reaches beyond its storage"},
      {{.elements = 6, .sizes = {3}, .strides = {most}}, "reaches beyond its storage"},
      {{.elements = 6, .offset = -1, .sizes = {1}, .strides = {1}}, "no valid shape and strides"},
      {{.elements = 6, .sizes = {2}, .strides = {-1}}, "no valid shape and strides"},
      {{.elements = 6, .sizes = {-2}, .strides = {1}}, "no valid shape and strides"},
      {{.elements = 6, .sizes = {2}, .strides = {}}, "no valid shape and strides"},
      {{.elements = 6, .sizes = {most, most}, .strides = {1, 1}}, "no valid shape and strides"},
      {{.elements = 6, .sizes = {most, 0}, .strides = {1, 1}}, ""},
      {{.elements = 6, .sizes = {0, most, most}, .strides = {1, 1, 1}},
       "no valid shape and strides"},
      {{.elements = 6,
        .sizes = std::vector<std::int64_t>(65, 1),
        .strides = std::vector<std::int64_t>(65, 1)},
       "no valid shape and strides"},
      {{.elements = 6, .sizes = {1 << 30}, .strides = {0}}, "share memory"},
      {{.elements = 6, .sizes = {3, 3}, .strides = {1, 1}}, "share memory"},
      {{.elements = 6, .sizes = {1, 6, 1}, .strides = {most, 1, 0}}, ""},
      {{.storage = "BoolStorage", .elements = 24, .sizes = {24}, .strides = {1}},
       "bytes other than 0 and 1"},
  };
  for (const auto& [tensor, message] : cases) {
    SCOPED_TRACE(message);
    const std::string bytes = torch_file(pickle::dict({pickle::text("w"), pickle::rebuilt(tensor)}),
                                         {{"0", std::string(24, '\2')}});
    if (!message.empty()) {
      EXPECT_THAT(refusal(bytes), HasSubstr(message));
      continue;
    }
    const TempFolder folder;
    write_text(folder / "a.pth", bytes);
    EXPECT_EQ(open_pth(folder / "a.pth").tensor("w").sizes(), torch::IntArrayRef(tensor.sizes));
  }
}

TEST(OpenPth, RefusesCallsThatAreNone) {
  const auto as_tensor = [](const std::string& function,
                            const std::vector<std::string>& arguments) {
    return torch_file(pickle::dict({pickle::text("w"), pickle::call(function, arguments)}));
  };
  const std::string v2 = pickle::global("torch._utils", "_rebuild_tensor_v2");
  const std::string v3 = pickle::global("torch._utils", "_rebuild_tensor_v3");
  const std::string parameter = pickle::global("torch._utils", "_rebuild_parameter");
  EXPECT_THAT(refusal(as_tensor(v2, {})),
              HasSubstr("tensor \"w\" is described by 0 values, expected 6"));
  EXPECT_THAT(refusal(as_tensor(v3, {"N", "N", "N", "N", "N", "N"})),
              HasSubstr("by 6 values, expected 7"));
  EXPECT_THAT(refusal(as_tensor(v2, {"N", "K\1", ")", ")", "N", "N"})),
              HasSubstr("names no storage"));
  EXPECT_THAT(refusal(as_tensor(v2, {"]Q", "K\1", ")", ")", "N", "N"})),
              HasSubstr("names no storage"));
  EXPECT_THAT(refusal(as_tensor(
                  v2, {pickle::tuple({"N", "N", "N", "N", "N"}) + "Q", "K\1", ")", ")", "N", "N"})),
              HasSubstr("names no storage"));
  EXPECT_THAT(refusal(as_tensor(v2, {"N", "N", "N", "N", "N", "N"})),
              HasSubstr("no valid shape and strides"));
  EXPECT_THAT(refusal(as_tensor(parameter, {})), HasSubstr("has no weights"));
  EXPECT_THAT(refusal(as_tensor(parameter, {"N"})), HasSubstr("has no weights"));
}

/// The tensors of `bytes` as a file, or nothing where it is refused. Other exceptions are the
/// test's.
std::optional<std::map<std::string, std::string>> read_or_refused(const std::string& bytes) {
  const TempFolder folder;
  write_text(folder / "a.pth", bytes);
  try {
    StateDict state = open_pth(folder / "a.pth");
    state.read_all();
    std::map<std::string, std::string> found;
    for (const auto& [name, tensor] : state.tensors) found[name] = bytes_of(tensor);
    return found;
  } catch (const UserError&) {
    return std::nullopt;
  }
}

TEST(OpenPth, RefusesEveryFileThatWasCutOff) {
  const std::string good = read_text(golden("half"));
  for (std::size_t size = 0; size < good.size(); ++size)
    EXPECT_FALSE(read_or_refused(good.substr(0, size))) << size;
}

// Checksums make that sure, as far as the writer stored them.
TEST(OpenPth, GivesNoOtherWeightsForAChangedByte) {
  const std::string good = read_text(golden("half"));
  const auto right = read_or_refused(good);
  ASSERT_TRUE(right);
  int refused = 0;
  int harmless = 0;
  for (std::size_t at = 0; at < good.size(); ++at) {
    std::string bytes = good;
    bytes[at] = static_cast<char>(bytes[at] ^ (at % 2 == 0 ? 0x01 : 0x5A));
    const auto found = read_or_refused(bytes);
    if (found) {
      EXPECT_EQ(*found, *right) << "byte " << at;
    }
    found ? ++harmless : ++refused;
  }
  EXPECT_GT(refused, 1000);
  EXPECT_GT(harmless, 100);
}

// Without checksums any bytes give tensors or a UserError, never a crash or another exception.
TEST(OpenPth, SurvivesDamageThatNoChecksumTells) {
  const std::string tensor =
      pickle::rebuilt({.elements = 6, .offset = 1, .sizes = {2, 2}, .strides = {2, 1}});
  const std::string good =
      torch_file(pickle::ordered_dict({pickle::text("w"), tensor, pickle::text("v"), tensor}),
                 {{"0", std::string(24, '\1')}}, {.has_checksums = false});
  const auto right = read_or_refused(good);
  ASSERT_TRUE(right);
  int refused = 0;
  int other = 0;
  for (std::size_t at = 0; at < good.size(); ++at)
    for (const unsigned change : {0x01U, 0x02U, 0x80U, 0xFFU}) {
      std::string bytes = good;
      bytes[at] = static_cast<char>(static_cast<unsigned char>(bytes[at]) ^ change);
      const auto found = read_or_refused(bytes);
      if (!found)
        ++refused;
      else if (*found != *right)
        ++other;
    }
  EXPECT_GT(refused, 1000);
  EXPECT_GT(other, 50);
}

}  // namespace
}  // namespace halftone::pth_test
