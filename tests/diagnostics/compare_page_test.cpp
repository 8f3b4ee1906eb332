// SPDX-License-Identifier: Apache-2.0
#include "halftone/diagnostics/compare/compare_page.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <regex>

#include "halftone/diagnostics/compare/compare_json.h"
#include "halftone/diagnostics/compare/compare_summary.h"
#include "halftone/diagnostics/compare/comparison_text.h"
#include "sample_comparison.h"

namespace halftone::compare_page_test {
namespace {

using nlohmann::json;
using test::sample_comparison;
using testing::HasSubstr;
using testing::Not;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

std::int64_t count(const std::string& text, const std::string& part) {
  std::int64_t times = 0;
  for (std::size_t at = 0; (at = text.find(part, at)) != std::string::npos; at += part.size())
    ++times;
  return times;
}

json data_of(const std::string& page) {
  const std::string begin = "<script type=\"application/json\" id=\"data\">";
  const std::size_t at = page.find(begin) + begin.size();
  return json::parse(page.substr(at, page.find("</script>", at) - at));
}

// The cells of the row of the tensor called `name`.
std::string row_of(const std::string& page, const std::string& name) {
  const std::size_t at = page.find("<code>" + name + "</code>");
  const std::size_t begin = page.rfind("<tr", at);
  return page.substr(begin, page.find("</tr>", at) - begin);
}

TensorComparison& gradient_of(Comparison& comparison, const std::string& name) {
  return *std::find_if(comparison.tensors.begin(), comparison.tensors.end(),
                       [&](const TensorComparison& tensor) {
                         return tensor.kind == ComparedKind::kGradient && tensor.name == name;
                       });
}

TEST(CompareJson, HoldsEveryNumber) {
  const Comparison comparison = sample_comparison(1);
  const json document = json::parse(to_json(comparison));
  EXPECT_EQ(document["precision"], "16-mixed");
  EXPECT_EQ(document["against"], "32-true");
  EXPECT_EQ(document["format"], "fp16");
  EXPECT_EQ(document["loss_scale"], 1.0);
  EXPECT_EQ(document["loss"], 4.25631);
  EXPECT_EQ(document["reference_loss"], 4.25607);
  EXPECT_EQ(document["loss_tolerance"], 0.00021);
  EXPECT_EQ(document["judgement"], json({{"verdict", "change_scale"},
                                         {"reason", comparison.judgement.reason},
                                         {"least_scale", 512.0},
                                         {"most_scale", 1048576.0},
                                         {"keep_fp32", json::array()},
                                         {"config", comparison.judgement.config},
                                         {"verified", true}}));
  EXPECT_EQ(document["gradients"].size(), 11U);
  EXPECT_EQ(document["activations"].size(), 4U);
  EXPECT_EQ(document["activation_gradients"].size(), 4U);

  const TensorComparison& tensor = comparison.tensors[1];
  const json& object = document["activation_gradients"][0];
  EXPECT_EQ(object["name"], tensor.name);
  EXPECT_EQ(object["module"], tensor.module);
  EXPECT_EQ(object["operation"], "halftone::rms_norm");
  EXPECT_EQ(object["shape"], json({8, 256, 512}));
  EXPECT_EQ(object["dtype"], "fp16");
  EXPECT_EQ(object["verdict"], to_string(tensor.verdict));
  for (const auto& [key, value] :
       std::map<std::string, double>{{"relative_error", tensor.relative_error},
                                     {"tolerance", tensor.tolerance},
                                     {"cosine", tensor.cosine},
                                     {"largest_ulp", tensor.largest_ulp},
                                     {"flushed_share", tensor.flushed_share},
                                     {"overflowed_share", tensor.overflowed_share},
                                     {"flush_if_stored_share", tensor.flush_if_stored_share},
                                     {"overflow_if_stored_share", tensor.overflow_if_stored_share},
                                     {"max_abs", tensor.max_abs},
                                     {"min_abs", tensor.min_abs}})
    EXPECT_EQ(object[key], value) << key;
  EXPECT_EQ(object["exponents"]["first"], tensor.exponents.first);
  EXPECT_EQ(object["exponents"]["counts"], json(tensor.exponents.counts));
  EXPECT_EQ(object["exponents"]["zeros"], tensor.exponents.zeros);
  EXPECT_EQ(object["exponents"]["non_finite"], 0);
  EXPECT_EQ(object["what_if"].size(), 5U);
  EXPECT_EQ(object["what_if"]["fp16"]["relative_error"], tensor.relative_error);
  EXPECT_EQ(object["what_if"]["fp8-e4m3"]["flushed_share"], 0.031);
  EXPECT_FALSE(document["gradients"][0].contains("operation"));
}

TEST(CompareJson, NumbersThatAreNotFiniteAreNull) {
  Comparison comparison = sample_comparison(1);
  comparison.loss = std::nan("");
  comparison.judgement.most_scale = kInfinity;
  comparison.judgement.least_scale.reset();
  gradient_of(comparison, "norm.weight").relative_error = kInfinity;
  const json document = json::parse(to_json(comparison));
  EXPECT_TRUE(document["loss"].is_null());
  EXPECT_TRUE(document["judgement"]["most_scale"].is_null());
  EXPECT_TRUE(document["judgement"]["least_scale"].is_null());
  for (const json& tensor : document["gradients"])
    EXPECT_EQ(tensor["relative_error"].is_null(), tensor["name"] == "norm.weight");
}

TEST(CompareSummary, WorstComesFirst) {
  Comparison comparison = sample_comparison(2);
  for (TensorComparison& tensor : comparison.tensors) tensor.verdict = TensorVerdict::kFine;
  const auto set = [&](const std::string& name, TensorVerdict verdict, double error) {
    TensorComparison& tensor = gradient_of(comparison, name);
    tensor.verdict = verdict;
    tensor.relative_error = error;
    tensor.tolerance = 0.001;
  };
  set("layers.0.attention.wq.weight", TensorVerdict::kIncomparable, 5);
  set("layers.0.attention.wk.weight", TensorVerdict::kImprecise, 0.5);
  set("layers.0.attention.wv.weight", TensorVerdict::kImprecise, 0.6);
  set("layers.0.attention.wo.weight", TensorVerdict::kUnderflow, 0.2);
  set("norm.weight", TensorVerdict::kOverflow, 0.1);
  set("layers.1.attention.wq.weight", TensorVerdict::kOverflow, kInfinity);
  std::vector<std::string> names;
  for (const TensorComparison* tensor : worst_first(comparison)) names.push_back(tensor->name);
  EXPECT_EQ(names.back(), "layers.0.attention.wq.weight");
  names.resize(5);
  EXPECT_EQ(names,
            (std::vector<std::string>{
                "layers.1.attention.wq.weight", "norm.weight", "layers.0.attention.wo.weight",
                "layers.0.attention.wv.weight", "layers.0.attention.wk.weight"}));
  const VerdictCounts counts = count_verdicts(comparison);
  EXPECT_EQ(counts.wrong, 5);
  EXPECT_EQ(counts.incomparable, 1);
  EXPECT_EQ(counts.fine + 6, std::ssize(comparison.tensors));
}

TEST(CompareSummary, RatioOfErrorAndTolerance) {
  TensorComparison tensor{.relative_error = 0.02, .tolerance = 0.01};
  EXPECT_DOUBLE_EQ(error_ratio(tensor), 2);
  tensor.relative_error = 0;
  tensor.tolerance = 0;
  EXPECT_EQ(error_ratio(tensor), 0);
  tensor.relative_error = 1e-9;
  EXPECT_EQ(error_ratio(tensor), kInfinity);
  tensor = {.relative_error = std::nan(""), .tolerance = 0.01};
  EXPECT_EQ(error_ratio(tensor), kInfinity);
}

TEST(CompareSummary, SaysWhatAFormatCouldStore) {
  EXPECT_TRUE(could_store({"fp16", {.relative_error = 4.8e-4}}));
  EXPECT_FALSE(could_store({"fp16", {.relative_error = 4.9e-4}}));  // 2^-11 = 4.88e-4
  EXPECT_FALSE(could_store({"fp16", {.relative_error = 1e-4, .overflowed_share = 1e-6}}));
  EXPECT_TRUE(could_store({"int8", {.relative_error = 0.03, .flushed_norm = 0.003}}));
  EXPECT_FALSE(could_store({"int8", {.relative_error = 0.03, .flushed_norm = 0.005}}));
  const std::vector<WhatIfSummary> summaries = what_if_summaries(sample_comparison(2));
  ASSERT_EQ(summaries.size(), 5U);
  EXPECT_EQ(summaries[0].format, "bf16");
  EXPECT_EQ(summaries[0].fitting, summaries[0].tensors);
  EXPECT_EQ(summaries[1].format, "fp16");
  EXPECT_LT(summaries[1].fitting, summaries[1].tensors);
  const Comparison comparison = sample_comparison(2);
  double largest = 0;
  for (const TensorComparison& tensor : comparison.tensors)
    largest = std::max(largest, tensor.what_if[1].loss.relative_error);
  EXPECT_EQ(summaries[1].worst_loss.relative_error, largest);
}

TEST(CompareSummary, WordsOfEveryVerdict) {
  Comparison comparison = sample_comparison(1);
  EXPECT_EQ(verdict_sentence(comparison),
            "16-mixed needs another loss scale on this step: between 2⁹ and 2²⁰.");
  comparison.judgement.most_scale = kInfinity;
  EXPECT_EQ(verdict_sentence(comparison),
            "16-mixed needs another loss scale on this step: at least 2⁹.");
  comparison.judgement.verdict = Verdict::kSafe;
  EXPECT_EQ(verdict_sentence(comparison), "16-mixed is safe on this step.");
  comparison.judgement.verdict = Verdict::kKeepFp32;
  EXPECT_EQ(verdict_sentence(comparison),
            "16-mixed is safe on this step if some layers stay in fp32.");
  comparison.judgement.verdict = Verdict::kDoNotUse;
  EXPECT_EQ(verdict_sentence(comparison), "Do not use 16-mixed for this step.");
}

TEST(CompareSummary, ShowsNumbersShort) {
  EXPECT_EQ(shown_share(0), "0");
  EXPECT_EQ(shown_share(1e-6), "<0.01 %");
  EXPECT_EQ(shown_share(4e-4), "0.04 %");
  EXPECT_EQ(shown_share(0.794), "79.4 %");
  EXPECT_EQ(shown_share(0.99999), ">99.9 %");
  EXPECT_EQ(shown_share(1), "100 %");
  EXPECT_EQ(shown_ratio(0.84), "0.8x");
  EXPECT_EQ(shown_ratio(675.2), "675x");
  EXPECT_EQ(shown_ratio(1e6), ">9999x");
  EXPECT_EQ(shown_ratio(kInfinity), "inf");
  EXPECT_EQ(shown_cosine(0.999999), "1");
  EXPECT_EQ(shown_cosine(-0.5), "-0.50000");
  EXPECT_EQ(shown_error(0.00041), "4.1e-4");
  EXPECT_EQ(shown_error(0.0332), "0.0332");
  EXPECT_EQ(shown_error(kInfinity), "inf");
}

TEST(CompareSummary, ShowsNoErrorOfWhatHasNone) {
  TensorComparison tensor{.relative_error = 0.0123, .cosine = 0.5, .tolerance = 0.01};
  EXPECT_EQ(shown_error(tensor), "0.0123");
  EXPECT_EQ(shown_ratio(tensor), "1.2x");
  tensor.overflowed_share = 1;
  EXPECT_EQ(shown_error(tensor), "inf");
  EXPECT_EQ(shown_ratio(tensor), "inf");
  tensor.verdict = TensorVerdict::kIncomparable;
  EXPECT_EQ(shown_error(tensor) + shown_ratio(tensor) + shown_cosine(tensor), "---");
}

TEST(CompareSummary, NamesTheRootAndTheOperation) {
  const TensorWords root = words_of(
      {.kind = ComparedKind::kActivation, .name = " aten::add #0.0", .operation = "aten::add"});
  EXPECT_EQ(root.where, "(root)");
  EXPECT_EQ(root.what, "aten::add #0.0");
  const TensorWords layer = words_of({.kind = ComparedKind::kActivationGradient,
                                      .name = "layers.0.ffn halftone::linear #1.0",
                                      .module = "layers.0.ffn"});
  EXPECT_EQ(layer.where, "layers.0.ffn");
  EXPECT_EQ(layer.what, "halftone::linear #1.0");
  const TensorWords weight =
      words_of({.kind = ComparedKind::kGradient, .name = "norm.weight", .module = "norm"});
  EXPECT_EQ(weight.where + weight.what, "norm.weight");
}

TEST(ComparePage, HoldsVerdictLossesAndEveryTensor) {
  const Comparison comparison = sample_comparison(2);
  const std::string page = compare_page(comparison, "runs/poems, step 400");
  EXPECT_THAT(page,
              HasSubstr("<h1>runs/poems, step 400</h1><p>16-mixed against 32-true, loss scale "
                        "2⁰</p>"));
  EXPECT_THAT(page, HasSubstr("<section class=\"verdict change_scale\""));
  EXPECT_THAT(page,
              HasSubstr("16-mixed needs another loss scale on this step: between 2⁹ and 2²⁰."));
  EXPECT_THAT(page, HasSubstr("The loss is 4.2563 in 16-mixed and 4.2561 in 32-true: a difference "
                              "of 2.4e-4, where rounding alone makes about 2.1e-4."));
  EXPECT_THAT(page, HasSubstr("<pre>precision = &quot;16-mixed&quot;\nloss_scale = &quot;65536"));
  EXPECT_EQ(count(page, "<tr class=\"row "), std::ssize(comparison.tensors));
  const std::string row = row_of(page, "layers.1.feed_forward.w2.weight");
  EXPECT_THAT(row, HasSubstr("<small>gradient · fp32 · 1408\u00a0×\u00a0512</small>"));
  EXPECT_THAT(row, HasSubstr("<td class=\"w w4\">"));
  EXPECT_THAT(row, Not(HasSubstr("w5")));
  EXPECT_THAT(row_of(page, "layers.0.feed_forward"),
              HasSubstr("<small>halftone::swiglu #0.0 · activation"));
}

TEST(ComparePage, RowsAndDataAreOfOneOrder) {
  const Comparison comparison = sample_comparison(2);
  const std::string page = compare_page(comparison, "tiny");
  const json data = data_of(page);
  ASSERT_EQ(data["tensors"].size(), comparison.tensors.size());
  const std::regex row("<tr class=\"row (\\w+)\" data-i=\"(\\d+)\"");
  std::size_t index = 0;
  for (std::sregex_iterator at(page.begin(), page.end(), row), end; at != end; ++at, ++index) {
    EXPECT_EQ(std::stoul((*at)[2]), index);
    EXPECT_EQ(data["tensors"][index]["verdict"], (*at)[1].str());
    const auto order = data["tensors"][index]["order"].get<std::size_t>();
    EXPECT_EQ(data["tensors"][index]["name"], comparison.tensors.at(order).name);
  }
  EXPECT_EQ(index, comparison.tensors.size());
}

// Powers of two of fp16: 2^-25 and less is flushed, 65520 and more overflows.
TEST(ComparePage, KnowsTheRangeOfEachFormat) {
  const json data = data_of(compare_page(sample_comparison(1), "tiny"));
  EXPECT_EQ(data["shown_formats"], json({"fp16", "bf16", "fp8-e4m3", "fp8-e5m2", "int8"}));
  const json& fp16 = data["formats"]["fp16"];
  EXPECT_EQ(fp16["flushed_up_to"], -25.0);
  EXPECT_EQ(fp16["min_exponent"], -14);
  EXPECT_DOUBLE_EQ(fp16["overflows_from"], std::log2(65520));
  EXPECT_EQ(fp16["scaling"], "none");
  EXPECT_EQ(data["formats"]["fp8-e4m3"]["scaling"], "tensor");
  EXPECT_EQ(data["formats"]["int8"]["is_integer"], true);
}

TEST(ComparePage, EscapesWhatItShows) {
  Comparison comparison = sample_comparison(1);
  const std::string evil = "</script><b onload=\"x\">&'";
  comparison.precision = comparison.judgement.reason = comparison.judgement.config = evil;
  for (TensorComparison& tensor : comparison.tensors)
    tensor.name = tensor.module = tensor.operation = tensor.dtype = evil;
  const std::string page = compare_page(comparison, evil);
  EXPECT_THAT(page, Not(HasSubstr("<b onload")));
  EXPECT_EQ(count(page, "</script>"), 2);
  EXPECT_EQ(data_of(page)["tensors"][0]["name"], evil);
  EXPECT_EQ(data_of(page)["precision"], evil);
}

TEST(ComparePage, NeedsNothingOutsideIt) {
  const std::string page = compare_page(sample_comparison(2), "tiny");
  EXPECT_THAT(page, HasSubstr("content=\"default-src 'none'; style-src 'unsafe-inline'; script-src "
                              "'unsafe-inline'\""));
  for (const char* foreign :
       {"http:", "https:", "src=\"", "@import", "url(", "fetch(", "import("}) {
    const std::int64_t allowed = foreign == std::string("http:") ? 1 : 0;  // the namespace of SVG
    EXPECT_EQ(count(page, foreign), allowed) << foreign;
  }
}

TEST(ComparePage, ShowsWhatIsSafeAndWhatIsEmpty) {
  Comparison comparison = sample_comparison(1);
  comparison.judgement = {.verdict = Verdict::kSafe, .reason = "all is well", .verified = true};
  const std::string page = compare_page(comparison, "tiny");
  EXPECT_THAT(page, HasSubstr("<section class=\"verdict safe\""));
  EXPECT_THAT(page, HasSubstr("<p>All is well.</p>"));
  EXPECT_THAT(page, Not(HasSubstr("id=\"mend\"")));
  comparison.tensors.clear();
  EXPECT_EQ(count(compare_page(comparison, "tiny"), "<tr class=\"row "), 0);
}

TEST(ComparisonText, ListsTheWorstFirst) {
  const Comparison comparison = sample_comparison(2);
  const std::string text = comparison_text(comparison, {.rows = 3});
  EXPECT_TRUE(text.starts_with(verdict_sentence(comparison) + "\n(with a loss scale of 65536"));
  EXPECT_THAT(text, HasSubstr("\n\nprecision    16-mixed against 32-true, loss scale 2⁰\n"));
  EXPECT_THAT(text, HasSubstr("loss         4.25631 in 16-mixed, 4.25607 in 32-true"));
  EXPECT_THAT(text, HasSubstr("; the 3 worst:\n"));
  EXPECT_THAT(text, HasSubstr("\n  loss_scale = \"65536\"\n"));
  const auto worst = worst_first(comparison);
  const std::size_t table = text.find("\nverdict ");
  std::size_t at = text.find('\n', table + 1);
  for (int i = 0; i < 3; ++i) {
    const std::string line = text.substr(at + 1, text.find('\n', at + 1) - at - 1);
    EXPECT_TRUE(line.starts_with(to_string(worst[static_cast<std::size_t>(i)]->verdict))) << line;
    EXPECT_THAT(line, HasSubstr(words_of(*worst[static_cast<std::size_t>(i)]).where));
    at = text.find('\n', at + 1);
  }
  EXPECT_EQ(text[at + 1], '\n');  // no fourth
}

TEST(ComparisonText, SaysTheStepAndHowToSeeAll) {
  const Comparison comparison = sample_comparison(1);
  const std::string text =
      comparison_text(comparison, {.rows = 2, .step = "runs/a, step 4", .all_flag = "--all"});
  EXPECT_THAT(text, HasSubstr("\nstep         runs/a, step 4\nprecision "));
  EXPECT_THAT(text, HasSubstr("; the 2 worst (--all for all of them):\n"));
  const std::string all = comparison_text(comparison, {.rows = 1000, .all_flag = "--all"});
  EXPECT_THAT(all, Not(HasSubstr("worst (")));
  EXPECT_GT(count(all, "\n"), std::ssize(comparison.tensors));
}

}  // namespace
}  // namespace halftone::compare_page_test
