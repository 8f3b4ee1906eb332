// SPDX-License-Identifier: Apache-2.0
#include "halftone/report/report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <random>
#include <regex>

#include "halftone/core/error.h"
#include "support/temp_folder.h"

namespace halftone::report_test {
namespace {

using test::read_text;
using test::TempFolder;
using test::write_text;
using testing::HasSubstr;
using testing::Not;

std::string line(int step, const std::string& loss, const std::string& more = "") {
  return "{\"step\":" + std::to_string(step) + ",\"loss\":" + loss + more + "}\n";
}

RunHistory history_of(const std::string& text) {
  RunHistory history;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    history.add_line(std::string_view(text).substr(at, end - at));
    at = end + 1;
  }
  return history;
}

std::string page_of(const std::string& metrics) {
  return report_page(history_of(metrics),
                     {.name = "poems", .state = "", .facts = {}, .config = ""});
}

// The figure called `title`; empty where there is none.
std::string figure(const std::string& page, const std::string& title) {
  const std::size_t at = page.find("<h3>" + title + " <small>");
  return at == std::string::npos ? "" : page.substr(at, page.find("</figure>", at) - at);
}

struct Place {
  double x, y;
};

std::vector<Place> curve(const std::string& figure, const std::string& style) {
  std::smatch found;
  std::vector<Place> places;
  if (!std::regex_search(figure, found,
                         std::regex("class=\"curve " + style + " \\w+\" d=\"([^\"]*)\"")))
    return places;
  const std::string path = found[1];
  const std::regex point("[ML]([0-9.]+) ([0-9.]+)");
  for (std::sregex_iterator at(path.begin(), path.end(), point), end; at != end; ++at)
    places.push_back({std::stod((*at)[1]), std::stod((*at)[2])});
  return places;
}

// Where the tick labelled `label` of an axis stands.
double tick(const std::string& figure, const std::string& axis, const std::string& label) {
  std::smatch found;
  const std::regex text("class=\"" + axis + "\" x=\"([0-9.]+)\" y=\"([0-9.]+)\"[^>]*>" + label +
                        "</text>");
  EXPECT_TRUE(std::regex_search(figure, found, text)) << axis << ' ' << label;
  return found.empty() ? NAN : std::stod(found[axis == "xtick" ? 1 : 2]);
}

// Every picture is whole, nothing in it is nan, nothing of it can run or be fetched.
void expect_sound(const std::string& page) {
  const auto count = [&](const std::string& part) {
    std::size_t times = 0;
    for (std::size_t at = 0; (at = page.find(part, at)) != std::string::npos; at += part.size())
      ++times;
    return times;
  };
  EXPECT_EQ(count("<svg"), count("</svg>"));
  EXPECT_EQ(count("<figure"), count("</figure>"));
  EXPECT_EQ(count("<table"), count("</table>"));
  EXPECT_THAT(page, testing::EndsWith("</html>\n"));
  for (const char* bad : {"nan", "inf\"", "<script", "http://", "https://", "<img", "<link"})
    EXPECT_THAT(page, Not(HasSubstr(bad)));
}

TEST(Report, PointsStandBetweenTheTicks) {
  std::string metrics;
  for (int step = 1; step <= 9; ++step)
    metrics += line(step, std::to_string(10 - step),
                    R"(,"lr":0.002,"grad_norm":)" + std::to_string(step * 0.5));
  const std::string page = page_of(metrics);
  expect_sound(page);
  const std::string loss = figure(page, "Loss");
  const std::vector<Place> places = curve(loss, "strong");
  ASSERT_EQ(places.size(), 9U);
  const double x1 = tick(loss, "xtick", "1"), x9 = tick(loss, "xtick", "9");
  const double y2 = tick(loss, "ytick", "2"), y8 = tick(loss, "ytick", "8");
  for (int step = 1; step <= 9; ++step) {
    const Place& place = places[static_cast<std::size_t>(step - 1)];
    EXPECT_NEAR(place.x, x1 + (step - 1) * (x9 - x1) / 8, 0.11) << step;
    EXPECT_NEAR(place.y, y2 + (10 - step - 2) * (y8 - y2) / 6, 0.11) << step;
  }
  EXPECT_THAT(page, HasSubstr("9 <span class=\"to\">→</span> 1"));
  EXPECT_THAT(figure(page, "Learning rate"), HasSubstr(">0.002</text>"));
  EXPECT_EQ(figure(page, "Loss scale"), "");
  EXPECT_EQ(figure(page, "Memory"), "");
}

TEST(Report, GradientNormsOverDecadesStandOnALogarithm) {
  std::string metrics;
  for (int step = 1; step <= 5; ++step)
    metrics += line(step, "1", ",\"grad_norm\":1e" + std::to_string(step - 3));
  const std::string norm = figure(page_of(metrics), "Gradient norm");
  const std::vector<Place> places = curve(norm, "strong");
  ASSERT_EQ(places.size(), 5U);
  const std::array<const char*, 5> labels{"0.01", "0.1", "1", "10", "100"};
  for (std::size_t i = 0; i < 5; ++i)
    EXPECT_NEAR(places[i].y, tick(norm, "ytick", labels[i]), 0.11);
}

TEST(Report, MemoryIsStackedBelowWhatIsResident) {
  const std::string kinds =
      R"(,"weights_mib":10,"gradients_mib":20,"states_mib":30,"tensors_mib":40,"rss_mib":200)";
  const std::string memory = figure(page_of(line(1, "1", kinds) + line(2, "1", kinds)), "Memory");
  const double y0 = tick(memory, "ytick", "0"), y50 = tick(memory, "ytick", "50");
  const std::vector<Place> resident = curve(memory, "strong");
  ASSERT_EQ(resident.size(), 2U);
  EXPECT_NEAR(resident[0].y, y0 + 4 * (y50 - y0), 0.11);
  const std::regex area("class=\"area c(\\d)\" d=\"M([0-9.]+) ([0-9.]+)L([0-9.]+) ([0-9.]+)");
  double top = 0;
  int number = 0;
  for (std::sregex_iterator at(memory.begin(), memory.end(), area), end; at != end; ++at) {
    EXPECT_EQ((*at)[1], std::to_string(++number));
    top += 10 * number;
    EXPECT_NEAR(std::stod((*at)[3]), y0 + top / 50 * (y50 - y0), 0.11);
    EXPECT_NEAR(std::stod((*at)[5]), y0 + top / 50 * (y50 - y0), 0.11);
  }
  EXPECT_EQ(number, 4);
  EXPECT_THAT(memory, HasSubstr("optimizer states 30</li>"));
  EXPECT_THAT(memory, HasSubstr("<small>MiB"));
  EXPECT_THAT(figure(page_of(line(1, "1", ",\"rss_mib\":20480")), "Memory"),
              HasSubstr("<small>GiB"));
}

TEST(Report, SkippedStepsAreMarkedAndNamed) {
  std::string metrics;
  for (int step = 1; step <= 40; ++step)
    metrics += step % 20 == 3 ? line(step, "9",
                                     R"(,"scale":65536,"skipped":true,"overflow":)"
                                     R"(["layers.0.<b>wq","b","c","d","e"])")
                              : line(step, "9", ",\"scale\":32768,\"skipped\":false");
  const std::string page = page_of(metrics);
  expect_sound(page);
  EXPECT_THAT(page, HasSubstr("2 of 40 updates were skipped"));
  EXPECT_THAT(page, HasSubstr("<td class=\"number\">23</td><td class=\"number\">65,536</td>"
                              "<td><code>layers.0.&lt;b&gt;wq</code>, <code>b</code>, "
                              "<code>c</code> and 2 more</td>"));
  EXPECT_THAT(page, HasSubstr("<td class=\"number\">2</td><td><code>layers.0.&lt;b&gt;wq</code>"));
  EXPECT_THAT(figure(page, "Loss"), HasSubstr("class=\"mark\""));
  EXPECT_THAT(figure(page, "Loss scale"), HasSubstr(">2¹⁵</text>"));
}

TEST(Report, ManySkippedStepsAreSummedUp) {
  std::string metrics;
  for (int step = 1; step <= 100; ++step)
    metrics += line(step, "null", R"(,"scale":1,"skipped":true,"overflow":["w"])");
  const std::string page = page_of(metrics);
  expect_sound(page);
  EXPECT_THAT(page, HasSubstr(">70 more</td>"));
  EXPECT_THAT(page, HasSubstr("never finite"));
  EXPECT_THAT(page, HasSubstr("In 100 steps the loss was not finite"));
  EXPECT_EQ(figure(page, "Loss"), "");
}

TEST(Report, ValidationStandsBesideTheTraining) {
  const std::string page =
      page_of(line(1, "4") + line(2, "2") + "{\"step\":2,\"val_loss\":3}\n" + line(3, "1"));
  const std::string loss = figure(page, "Loss");
  const std::vector<Place> training = curve(loss, "strong"), validation = curve(loss, "thin");
  ASSERT_EQ(validation.size(), 1U);
  EXPECT_NEAR(validation[0].x, training[1].x, 0.01);
  EXPECT_NEAR(validation[0].y, (training[0].y + training[1].y) / 2, 0.11);
  EXPECT_THAT(page, HasSubstr("best validation loss"));
}

TEST(Report, WhatIsLoggedSharesAChartWithItsValidation) {
  std::string metrics;
  for (int step = 1; step <= 4; ++step)
    metrics += line(step, "1", ",\"acc\":" + std::to_string(step * 0.1) + ",\"aux\":7");
  metrics +=
      "{\"step\":2,\"val_acc\":0.3,\"val_f1\":0.5}\n{\"step\":4,\"val_acc\":0.1}\n"
      "{\"step\":4,\"test_acc\":0.2}\n";
  const std::string page = page_of(metrics);
  expect_sound(page);
  EXPECT_THAT(page, HasSubstr("<h2>Logged values</h2>"));
  const std::string acc = figure(page, "acc");
  const std::vector<Place> training = curve(acc, "strong"), validation = curve(acc, "thin");
  ASSERT_EQ(training.size(), 4U);
  ASSERT_EQ(validation.size(), 1U);  // test_acc, which comes first by its name
  EXPECT_NEAR(validation[0].x, training[3].x, 0.01);
  EXPECT_NEAR(validation[0].y, training[1].y, 0.11);
  std::smatch dots;
  ASSERT_TRUE(std::regex_search(
      acc, dots, std::regex("curve thin c2\" d=\"M([0-9.]+) ([0-9.]+)h0L([0-9.]+) ([0-9.]+)\"")));
  EXPECT_NEAR(std::stod(dots[1]), training[1].x, 0.01);
  EXPECT_NEAR(std::stod(dots[2]), training[2].y, 0.11);
  EXPECT_NEAR(std::stod(dots[4]), training[0].y, 0.11);
  for (const char* name : {">acc</li>", ">val_acc</li>", ">test_acc</li>"})
    EXPECT_THAT(acc, HasSubstr(name));
  EXPECT_EQ(curve(figure(page, "aux"), "strong").size(), 4U);
  EXPECT_EQ(curve(figure(page, "f1"), "thin").size(), 1U);
  EXPECT_EQ(figure(page, "val_acc"), "");
}

TEST(Report, CurvesOfOneChartDifferInColourAndName) {
  const std::string page = page_of(line(1, "1", R"(,"acc":1,"train_acc":2,"train/acc":3)") +
                                   "{\"step\":1,\"acc\":4,\"train_\":1,\"val_\":1}\n");
  const std::string acc = figure(page, "acc");
  for (const char* color : {"c1", "c2", "c3", "c4"})
    EXPECT_TRUE(std::regex_search(acc, std::regex(std::string("class=\"curve \\w+ ") + color)));
  EXPECT_THAT(acc, HasSubstr(">acc (epochs)</li>"));
  EXPECT_NE(figure(page, "train_"), "");
  EXPECT_NE(figure(page, "val_"), "");
}

TEST(Report, OtherLossesStandInTheChartOfTheLoss) {
  const std::string page =
      page_of(line(1, "4", ",\"train_loss\":2") + "{\"step\":1,\"val_loss\":3,\"test_loss\":8}\n");
  expect_sound(page);
  const std::string loss = figure(page, "Loss");
  for (const char* name :
       {">training</li>", ">validation</li>", ">test_loss</li>", ">train_loss</li>"})
    EXPECT_THAT(loss, HasSubstr(name));
  EXPECT_THAT(loss, HasSubstr(">8</text>"));
  EXPECT_EQ(figure(page, "loss"), "");
  EXPECT_THAT(page, Not(HasSubstr("Logged values")));
}

TEST(Report, NamesOfLoggedValuesAreEscapedAndBounded) {
  std::string more = R"(,"<b>&":1)";
  for (int i = 0; i < 65; ++i) more += ",\"v" + std::to_string(i) + "\":1";
  const std::string page = page_of(line(1, "1", more));
  expect_sound(page);
  EXPECT_NE(figure(page, "&lt;b&gt;&amp;"), "");
  EXPECT_THAT(
      page, HasSubstr("2 values that metrics.jsonl has are not drawn: a page shows the first 64"));
}

TEST(Report, LoggedValuesOfALongRunStaySmall) {
  std::string metrics;
  for (int step = 1; step <= 20'000; ++step)
    metrics += line(step, "4", ",\"acc\":" + std::to_string(std::sin(step)));
  const std::string page = page_of(metrics);
  expect_sound(page);
  const std::string acc = figure(page, "acc");
  EXPECT_LT(acc.size(), 20'000U);
  EXPECT_LE(curve(acc, "light").size(), 2 * ValueHistory::kMaxBuckets + 2);
  EXPECT_THAT(acc, HasSubstr("mean of "));
}

TEST(Report, LongRunsAreSmoothedAndStaySmall) {
  std::string metrics;
  for (int step = 1; step <= 20'000; ++step)
    metrics += line(step, step == 12'345 ? "8" : "4",
                    R"(,"lr":1e-4,"grad_norm":0.5,"tokens_per_s":1000,"tokens_total":)" +
                        std::to_string(step * 10) + R"(,"step_ms":10,"rss_mib":100)");
  const std::string page = page_of(metrics);
  expect_sound(page);
  EXPECT_LT(page.size(), 300'000U);
  const std::string loss = figure(page, "Loss");
  const std::vector<Place> each = curve(loss, "light"), mean = curve(loss, "strong");
  const auto higher = [](const Place& a, const Place& b) { return a.y < b.y; };
  const double y4 = tick(loss, "ytick", "4"), y8 = tick(loss, "ytick", "8");
  EXPECT_NEAR(std::min_element(each.begin(), each.end(), higher)->y, y8, 0.11);
  EXPECT_GT(std::min_element(mean.begin(), mean.end(), higher)->y, (3 * y4 + y8) / 4);
  EXPECT_LE(each.size(), 1030U);
  EXPECT_THAT(page, HasSubstr("200k"));   // tokens
  EXPECT_THAT(page, HasSubstr("3m20s"));  // 20,000 steps of 10 ms
}

TEST(Report, TheHeadAndTheConfigurationAreEscaped) {
  const std::string page =
      report_page(history_of(line(1, "2.5")), {.name = "<i>",
                                               .state = "finished & done",
                                               .facts = {{"model", "\"tiny\""}, {"a<b", "c"}},
                                               .config = "data = [\"<x>\"]\n"});
  expect_sound(page);
  EXPECT_THAT(page, HasSubstr("<h1>&lt;i&gt;</h1>"));
  EXPECT_THAT(page, HasSubstr("finished &amp; done"));
  EXPECT_THAT(page, HasSubstr("<dt>model</dt><dd>&quot;tiny&quot;</dd>"));
  EXPECT_THAT(page, HasSubstr("<dt>a&lt;b</dt>"));
  EXPECT_THAT(page, HasSubstr("<pre>data = [&quot;&lt;x&gt;&quot;]"));
}

TEST(Report, OneStepAndNoneAreAPage) {
  const std::string all =
      R"(,"lr":0,"grad_norm":0,"scale":128,"step_ms":0,"rss_mib":0,"weights_mib":1)";
  expect_sound(page_of(line(1, "2", all)));
  EXPECT_EQ(curve(figure(page_of(line(1, "2")), "Loss"), "strong").size(), 1U);
  expect_sound(page_of(""));
  EXPECT_THAT(page_of(""), HasSubstr("No step has been taken yet."));
  EXPECT_THAT(page_of("{\"step\":1,\"loss\":null}\n"), HasSubstr("In 1 step the loss"));
}

TEST(Report, SaysHowManyLinesItPassedOver) {
  EXPECT_THAT(page_of(line(1, "2")), Not(HasSubstr("could not be used")));
  EXPECT_THAT(page_of(line(1, "2") + "oops\n"), HasSubstr("1 line of metrics.jsonl could not"));
  EXPECT_THAT(page_of(line(1, "2") + "oops\n\n[]\n"), HasSubstr("3 lines of metrics.jsonl"));
}

TEST(Report, IsWrittenWholeOrNotAtAll) {
  const TempFolder folder;
  write_text(folder / "metrics.jsonl", line(1, "2") + "{\"st");
  write_report(folder / "metrics.jsonl", {.name = "r", .state = "", .facts = {}, .config = ""},
               folder / "report.html");
  const std::string page = read_text(folder / "report.html");
  expect_sound(page);
  EXPECT_THAT(page, HasSubstr("1 line of metrics.jsonl"));
  EXPECT_THROW(write_report(folder / "metrics.jsonl", {}, folder / "none" / "report.html"),
               UserError);
  EXPECT_THROW(write_report(folder / "none", {}, folder / "other.html"), UserError);
  EXPECT_FALSE(std::filesystem::exists(folder / "other.html"));
}

class Damage {
 public:
  explicit Damage(std::uint64_t seed) : random_(seed) {}

  std::string operator()(std::string text) {
    for (std::size_t times = 1 + below(6); times > 0; --times) once(text);
    return text;
  }

 private:
  std::size_t below(std::size_t end) { return random_() % end; }

  void once(std::string& text) {
    static const std::array<const char*, 16> kValues{
        "null",  "true",   "\"x\"",  "[]",     "{}",
        "-1",    "1e308",  "-1e99",  "0",      "1e99",
        "1e-99", "1e-320", "[[[[{}", "\"<b>&", "9223372036854775807",
        "\n"};
    if (text.empty()) return;
    const std::size_t at = below(text.size());
    switch (below(5)) {
      case 0:
        text.resize(at);
        return;
      case 1:
        text[at] = static_cast<char>(below(256));
        return;
      case 2:
        text.erase(at, below(60));
        return;
      case 3:
        text.insert(at, text.substr(below(text.size()), below(200)));
        return;
      default:
        replace_value(text, at, kValues[below(kValues.size())]);
    }
  }

  static void replace_value(std::string& text, std::size_t at, const char* value) {
    const std::size_t colon = text.find(':', at);
    if (colon == std::string::npos) return;
    const std::size_t end = text.find_first_of(",}\n", colon);
    if (end != std::string::npos) text.replace(colon + 1, end - colon - 1, value);
  }

  std::mt19937_64 random_;
};

TEST(Report, NoDamageToTheMetricsIsACrash) {
  std::string whole;
  for (int step = 1; step <= 12; ++step)
    whole +=
        line(
            step, std::to_string(9.0 / step),
            R"(,"lr":0.001,"grad_norm":3.5,"scale":1024.0,"skipped":)" +
                std::string(step % 5 == 0 ? "true" : "false") +
                R"(,"overflow":["a.weight","b"],"tokens":64,"tokens_total":640,)"
                R"("tokens_per_s":99.5,"step_ms":12.5,"rss_mib":250.0,"cuda_mib":null,)"
                R"("weights_mib":10.0,"gradients_mib":5.0,"states_mib":20,"tensors_mib":7,"acc":0.5})") +
        "{\"step\":" + std::to_string(step) + ",\"val_loss\":2.5,\"val_acc\":0.25}\n";
  for (std::uint64_t seed = 0; seed < 1500 && !testing::Test::HasFailure(); ++seed) {
    SCOPED_TRACE(seed);
    expect_sound(page_of(Damage(seed)(whole)));
  }
}

}  // namespace
}  // namespace halftone::report_test
