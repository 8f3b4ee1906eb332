// SPDX-License-Identifier: Apache-2.0
// halftone plan --processes: bytes and seconds of one of several processes.
#include <thread>

#include "cli/program_fixture.h"

namespace halftone::test::plan_processes_test {
namespace {

using nlohmann::json;

/// No tokenizer says how many rows the embedding has: the most that one would.
const char* const kPlan =
    "plan --preset minimind-26m --batch-size 1 --seq-len 64 --memory-budget unlimited ";

std::string words(const std::string& more) { return std::string(kPlan) + more + " --json"; }

json parsed(const Outcome& outcome) {
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  return json::parse(outcome.out);
}

const json& recipe_of(const json& document, const std::string& precision) {
  for (const json& recipe : document.at("recipes"))
    if (recipe.at("precision") == precision && recipe.at("memory") == "standard") return recipe;
  throw std::logic_error("no " + precision);
}

double bytes_of(const json& recipe, const char* kind) {
  return recipe.at("bytes").at(kind).get<double>();
}

TEST_F(Program, PlansOneOfSeveralProcesses) {
  const json one = parsed(halftone(words("--threads 1"))),
             two = parsed(halftone(words("--processes 2 --shard gradients")));
  EXPECT_EQ(one.at("processes"), 1);
  EXPECT_EQ(one.at("network"), nullptr);
  EXPECT_EQ(two.at("processes"), 2);
  EXPECT_EQ(two.at("shard"), "gradients");
  EXPECT_GT(two.at("network").at("latency_s").get<double>(), 0);
  EXPECT_GT(two.at("network").at("bytes_per_s").get<double>(), 0);
  const json &alone = recipe_of(one, "32-true"), &shared = recipe_of(two, "32-true");
  EXPECT_EQ(alone.at("exchange_s"), 0);
  EXPECT_EQ(bytes_of(alone, "states"), 8.0 * 25'829'888);
  EXPECT_NEAR(bytes_of(shared, "states") / bytes_of(alone, "states"), 0.5, 0.01);
  EXPECT_LT(bytes_of(shared, "gradients"), bytes_of(alone, "gradients"));
  EXPECT_EQ(bytes_of(shared, "weights"), bytes_of(alone, "weights"));
  for (const json& recipe : two.at("recipes")) {
    EXPECT_NE(recipe.at("memory"), "leanest");
    EXPECT_GT(recipe.at("exposed_exchange_s").get<double>(), 0);
    EXPECT_GE(recipe.at("exchange_s"), recipe.at("exposed_exchange_s"));
    EXPECT_GT(recipe.at("step_s"), recipe.at("exposed_exchange_s"));
  }
}

TEST_F(Program, PlansTheExchangeOverANetworkThatIsGiven) {
  // So slow that nothing else counts: in fp32 25,829,888 numbers of 4 bytes, half of them each of
  // two ways, at 1e6 bytes per second. 16-bit weights have 16-bit gradients.
  const json slow =
      parsed(halftone(words("--processes 2 --network-gbit 0.008 --network-latency-us 0")));
  EXPECT_EQ(slow.at("network"),
            (json{{"latency_s", 0.0}, {"bytes_per_s", 1e6}, {"is_hidden", true}}));
  const double all = 4 * 25'829'888 / 1e6;
  EXPECT_NEAR(recipe_of(slow, "32-true").at("exchange_s").get<double>(), all, 0.02 * all);
  EXPECT_NEAR(recipe_of(slow, "bf16-true").at("exchange_s").get<double>(), all / 2, 0.02 * all);
  const json bf16 =
      parsed(halftone(words("--processes 2 --network-gbit 0.008 --network-latency-us 0 "
                            "--reduce-dtype bf16 --shard optimizer")));
  // And the new weights, which stay fp32.
  EXPECT_NEAR(recipe_of(bf16, "32-true").at("exchange_s").get<double>(), all / 2 + all / 2,
              0.02 * all);
  // Messages that take a second each: of 98.5 MiB in buckets of 8 MiB and more one for each bucket
  // and way, and six to agree. What is copied takes less than five.
  const json late =
      parsed(halftone(words("--processes 2 --network-gbit 1e6 --network-latency-us 1e6")));
  const double seconds = recipe_of(late, "32-true").at("exchange_s").get<double>();
  EXPECT_GE(seconds, 2 * 8 + 6);
  EXPECT_LT(seconds, 2 * 12 + 6 + 5);
}

TEST_F(Program, SaysWhatHidesTheExchange) {
  const std::string two = "plan --preset tiny --memory-budget unlimited --processes 2 ";
  const std::string all_cores = std::to_string(std::thread::hardware_concurrency());
  const Outcome here = halftone(two + "--threads " + all_cores);
  EXPECT_EQ(here.code, 0) << here.err;
  EXPECT_THAT(here.out, HasSubstr("none for each of 2 processes, nothing shared\nnetwork    "));
  EXPECT_THAT(here.out, HasSubstr("hidden by nothing, since it takes the cores that compute\n"));
  EXPECT_THAT(here.out, HasSubstr("     step  exchange   exposed\n"));
  const Outcome far = halftone(two + "--threads 1 --network-gbit 10 --shard optimizer");
  EXPECT_THAT(far.out, HasSubstr("processes, states shared\nnetwork    50 us a message and 1.25 "
                                 "GB/s each way; the backward pass hides what is not exposed\n"));
  EXPECT_THAT(halftone("plan --preset tiny --threads 1").out,
              testing::Not(testing::AnyOf(HasSubstr("network"), HasSubstr("exchange"))));
}

TEST_F(Program, CountsWhatATreeOfSumsSetsAside) {
  const std::string four = "--threads 1 --accumulate 4 ";
  const json flat = parsed(halftone(words(four))),
             tree = parsed(halftone(words(four + "--gradient-sum tree")));
  // Three micro-batches are set aside, on two levels.
  EXPECT_NEAR(bytes_of(recipe_of(tree, "32-true"), "workspace") -
                  bytes_of(recipe_of(flat, "32-true"), "workspace"),
              2 * 4.0 * 25'829'888, 1e6);
  for (const json& recipe : tree.at("recipes")) EXPECT_NE(recipe.at("memory"), "leanest");
}

TEST_F(Program, RefusesAGroupThatCanNotBe) {
  const std::string plan = kPlan;
  expect_refused({
      {plan + "--processes 0", "--processes: expected an integer from 1 to 1024, got 0"},
      {plan + "--processes 1025", "expected an integer from 1 to 1024, got 1025"},
      {plan + "--processes two", "--processes"},
      {plan + "--network-gbit 10", "--network-gbit: expected --processes 2 or more as well"},
      {plan + "--processes 2 --network-gbit 0", "expected a number above 0, such as 100, got 0"},
      {plan + "--processes 2 --network-gbit nan", "expected a number above 0"},
      {plan + "--processes 2 --network-latency-us 5", "expected --network-gbit as well, got none"},
      {plan + "--processes 2 --network-gbit 1 --network-latency-us -1", "expected 0 or more"},
      {plan + "--processes 2 --memory leanest --shard zero", "shard"},
  });
}

}  // namespace
}  // namespace halftone::test::plan_processes_test
