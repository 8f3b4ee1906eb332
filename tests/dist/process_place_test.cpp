// SPDX-License-Identifier: Apache-2.0
#include "halftone/dist/process_place.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "halftone/core/error.h"
#include "support/message_of.h"

namespace halftone::process_place_test {
namespace {

using testing::HasSubstr;
using Variables = std::map<std::string, std::string>;

ProcessPlace place_in(const Variables& variables, const ProcessPlaceOptions& options = {}) {
  return find_process_place(options, [&](const std::string& name) -> std::optional<std::string> {
    const auto found = variables.find(name);
    if (found == variables.end()) return std::nullopt;
    return found->second;
  });
}

std::string error_in(const Variables& variables) {
  return test::message_of<UserError>([&] { place_in(variables); });
}

const Variables kTorchrun{{"RANK", "5"},
                          {"WORLD_SIZE", "8"},
                          {"LOCAL_RANK", "1"},
                          {"LOCAL_WORLD_SIZE", "4"},
                          {"MASTER_ADDR", "node7"},
                          {"MASTER_PORT", "29400"}};
const Variables kOpenMpi{{"OMPI_COMM_WORLD_RANK", "1"},
                         {"OMPI_COMM_WORLD_SIZE", "4"},
                         {"OMPI_COMM_WORLD_LOCAL_RANK", "1"},
                         {"OMPI_COMM_WORLD_LOCAL_SIZE", "4"}};
const Variables kSlurm{{"SLURM_STEP_ID", "0"},
                       {"SLURM_STEP_NUM_TASKS", "11"},
                       {"SLURM_PROCID", "9"},
                       {"SLURM_LOCALID", "1"},
                       {"SLURM_NODEID", "2"},
                       {"SLURM_STEP_TASKS_PER_NODE", "4(x2),3"},
                       {"SLURM_STEP_NODELIST", "node[003-004,010],gpu7"},
                       {"SLURM_JOB_ID", "1234567"}};

Variables with(Variables variables, const std::string& name, const std::string& value) {
  variables[name] = value;
  return variables;
}

Variables without(Variables variables, const std::string& name) {
  variables.erase(name);
  return variables;
}

TEST(ProcessPlace, IsASingleProcessWhereNothingIsSet) {
  const ProcessPlace place = place_in({});
  EXPECT_TRUE(place.is_alone());
  EXPECT_EQ(place.rank, 0);
  EXPECT_EQ(place.local_size, 1);
}

TEST(ProcessPlace, ReadsTorchrun) {
  const ProcessPlace place = place_in(kTorchrun);
  EXPECT_EQ(place.rank, 5);
  EXPECT_EQ(place.size, 8);
  EXPECT_EQ(place.local_rank, 1);
  EXPECT_EQ(place.local_size, 4);
  EXPECT_EQ(place.address, "node7");
  EXPECT_EQ(place.port, 29400);
  EXPECT_TRUE(place.own_store);
  EXPECT_EQ(place.attempt, 0);
  EXPECT_FALSE(place.on_one_host());
}

TEST(ProcessPlace, LeavesTheStoreToTorchrunsAgent) {
  const ProcessPlace place = place_in(with(with(kTorchrun, "TORCHELASTIC_USE_AGENT_STORE", "True"),
                                           "TORCHELASTIC_RESTART_COUNT", "3"));
  EXPECT_FALSE(place.own_store);
  EXPECT_EQ(place.attempt, 3);
}

TEST(ProcessPlace, IsASingleProcessInAWorldOfOne) {
  EXPECT_TRUE(place_in({{"RANK", "0"}, {"WORLD_SIZE", "1"}}).is_alone());
  EXPECT_TRUE(place_in({{"OMPI_COMM_WORLD_RANK", "0"}, {"OMPI_COMM_WORLD_SIZE", "1"}}).is_alone());
  EXPECT_TRUE(
      place_in(with(with(kSlurm, "SLURM_STEP_NUM_TASKS", "1"), "SLURM_PROCID", "0")).is_alone());
}

TEST(ProcessPlace, TakesLoopbackForOneHost) {
  const ProcessPlace place = place_in(
      {{"RANK", "2"}, {"WORLD_SIZE", "3"}, {"MASTER_ADDR", "127.0.0.1"}, {"MASTER_PORT", "29500"}});
  EXPECT_EQ(place.local_rank, 2);
  EXPECT_EQ(place.local_size, 3);
  EXPECT_TRUE(place.on_one_host());
}

TEST(ProcessPlace, ReadsOpenMpi) {
  const ProcessPlace place = place_in(kOpenMpi);
  EXPECT_EQ(place.rank, 1);
  EXPECT_EQ(place.size, 4);
  EXPECT_EQ(place.local_rank, 1);
  EXPECT_EQ(place.address, "127.0.0.1");
  EXPECT_EQ(place.port, 29500);
  const Variables two_hosts = with(kOpenMpi, "OMPI_COMM_WORLD_LOCAL_SIZE", "2");
  EXPECT_THAT(error_in(two_hosts), HasSubstr("no MASTER_ADDR"));
  EXPECT_EQ(place_in(with(two_hosts, "MASTER_ADDR", "node1")).address, "node1");
}

TEST(ProcessPlace, ReadsAStepOfSlurm) {
  const ProcessPlace place = place_in(kSlurm);
  EXPECT_EQ(place.rank, 9);
  EXPECT_EQ(place.size, 11);
  EXPECT_EQ(place.local_rank, 1);
  EXPECT_EQ(place.local_size, 3);
  EXPECT_EQ(place.address, "node003");
  EXPECT_EQ(place.port, 15000 + 4567);
  EXPECT_EQ(place_in(with(kSlurm, "MASTER_ADDR", "10.0.0.7")).address, "10.0.0.7");
}

TEST(ProcessPlace, IsASingleProcessInABatchScriptOfSlurm) {
  EXPECT_TRUE(place_in(without(kSlurm, "SLURM_STEP_ID")).is_alone());
}

TEST(ProcessPlace, ReadsSlurmsListsOfNodes) {
  const auto host = [](const std::string& nodes) {
    return place_in(with(kSlurm, "SLURM_STEP_NODELIST", nodes)).address;
  };
  EXPECT_EQ(host("gpu7"), "gpu7");
  EXPECT_EQ(host("gpu7,node[1-2]"), "gpu7");
  EXPECT_EQ(host("node[01,03-04]"), "node01");
  EXPECT_EQ(host("rack[2-3]n[05-09],x"), "rack2n05");
  EXPECT_EQ(host("a[1-2]-ib"), "a1-ib");
  for (const char* const wrong : {"node[1-2", "node[]", "node]1", ",x", "node[-2]"})
    EXPECT_THAT(error_in(with(kSlurm, "SLURM_STEP_NODELIST", wrong)),
                HasSubstr("SLURM_STEP_NODELIST"))
        << wrong;
}

TEST(ProcessPlace, NamesSlurmsMalformedTasks) {
  for (const char* const wrong : {"4(x2", "x", "4(x2)3", "4(x2),", "4", "", "99(x3)"}) {
    const Variables variables = with(kSlurm, "SLURM_STEP_TASKS_PER_NODE", wrong);
    if (*wrong == '\0') {
      EXPECT_EQ(place_in(variables).local_size, 2) << "no more is known than the own rank there";
    } else {
      EXPECT_THAT(error_in(variables), HasSubstr("SLURM_STEP_TASKS_PER_NODE")) << wrong;
    }
  }
}

TEST(ProcessPlace, ReadsTheLauncherThatIsNearest) {
  Variables all = kSlurm;
  all.insert(kOpenMpi.begin(), kOpenMpi.end());
  EXPECT_EQ(place_in(all).launcher, "Open MPI");
  all.insert(kTorchrun.begin(), kTorchrun.end());
  EXPECT_EQ(place_in(all).launcher, "torchrun");
}

TEST(ProcessPlace, NamesAVariableThatIsMissing) {
  EXPECT_EQ(error_in({{"RANK", "0"}}),
            "the environment has RANK, but not WORLD_SIZE: the launcher of several processes sets "
            "both; set "
            "WORLD_SIZE, or unset RANK to train with one process");
  EXPECT_THAT(error_in({{"WORLD_SIZE", "2"}}), HasSubstr("has WORLD_SIZE, but not RANK"));
  EXPECT_THAT(error_in(without(kTorchrun, "MASTER_ADDR")), HasSubstr("no MASTER_ADDR"));
  EXPECT_THAT(error_in(without(kTorchrun, "MASTER_PORT")), HasSubstr("no MASTER_PORT"));
}

TEST(ProcessPlace, NamesAVariableThatIsWrong) {
  EXPECT_EQ(
      error_in(with(with(kTorchrun, "RANK", "4"), "WORLD_SIZE", "4")),
      "the environment has RANK=4 with WORLD_SIZE=4, but ranks begin at 0: RANK must be less than "
      "WORLD_SIZE");
  for (const char* const wrong : {"x", "-1", "1.5", "2 ", "99999999999999999999"})
    EXPECT_THAT(error_in(with(kTorchrun, "RANK", wrong)), HasSubstr(std::string("it is '") + wrong))
        << wrong;
  EXPECT_THAT(error_in(with(kTorchrun, "WORLD_SIZE", "0")), HasSubstr("WORLD_SIZE"));
  EXPECT_THAT(error_in(with(kTorchrun, "MASTER_PORT", "x")), HasSubstr("MASTER_PORT"));
  EXPECT_THAT(error_in(with(kTorchrun, "MASTER_PORT", "65536")), HasSubstr("from 1 to 65535"));
  EXPECT_THAT(error_in(with(kTorchrun, "LOCAL_RANK", "4")),
              HasSubstr("LOCAL_RANK=4 with LOCAL_WORLD_SIZE=4"));
  EXPECT_THAT(error_in(with(kTorchrun, "LOCAL_WORLD_SIZE", "9")), HasSubstr("LOCAL_WORLD_SIZE"));
}

TEST(ProcessPlace, TakesTheOptionsBeforeTheEnvironment) {
  const ProcessPlace place = place_in(kTorchrun, {.address = "10.1.1.1", .port = 4000});
  EXPECT_EQ(place.address, "10.1.1.1");
  EXPECT_EQ(place.port, 4000);
}

}  // namespace
}  // namespace halftone::process_place_test
