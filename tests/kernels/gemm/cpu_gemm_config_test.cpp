// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/gemm/cpu_gemm_config.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "halftone/core/error.h"
#include "halftone/core/random.h"
#include "halftone/kernels/gemm/cpu_gemm_probe.h"
#include "halftone/kernels/gemm/gemm32.h"
#include "support/paths.h"

namespace halftone::cpu_gemm_config_test {
namespace {

TEST(CpuGemmConfig, TextRoundTrips) {
  for (const char* text : {"bf16=native,fp16=upcast,fp32=blas",
                           "bf16=upcast,bf16.attention=native,fp16=native,fp32=onednn",
                           "bf16=native,bf16.convolution_weight_gradient=upcast,fp16=upcast,"
                           "fp32=blas",
                           "bf16=native,bf16.weight_gradient=upcast,fp16=upcast,fp32=onednn"})
    EXPECT_EQ(to_string(parse_cpu_gemm_config(text)), text);
}

TEST(CpuGemmConfig, OneWordNamesEverythingAndTheRestStays) {
  EXPECT_EQ(to_string(parse_cpu_gemm_config("native")), "bf16=native,fp16=native,fp32=blas");
  const CpuGemmConfig base = parse_cpu_gemm_config("native,onednn");
  EXPECT_EQ(to_string(parse_cpu_gemm_config("fp16=upcast", base)),
            "bf16=native,fp16=upcast,fp32=onednn");
  EXPECT_EQ(to_string(parse_cpu_gemm_config("blas", base)), "bf16=native,fp16=native,fp32=blas");
}

TEST(CpuGemmConfig, WithoutConvolutionsShowsTheMatmulsAlone) {
  const CpuGemmConfig choice = parse_cpu_gemm_config(
      "native,bf16.attention=upcast,bf16.convolution=upcast,"
      "bf16.convolution_input_gradient=upcast,bf16.convolution_weight_gradient=upcast");
  EXPECT_EQ(to_string(without_convolutions(choice.bf16)), "native, attention=upcast");
}

TEST(CpuGemmConfig, ReadsTheFormerWordForUpcast) {
  EXPECT_EQ(parse_cpu_gemm_config("bf16=native,fp16=widened"),
            parse_cpu_gemm_config("bf16=native,fp16=upcast"));
  EXPECT_EQ(to_string(parse_cpu_gemm_config("widened")),
            to_string(parse_cpu_gemm_config("upcast")));
}

TEST(CpuGemmConfig, RefusesUnknownWords) {
  for (const char* text :
       {"", "fast", "bf16=", "bf17=native", "bf16.sideways=native", "native,", "=native",
        "bf16=native,,", "fp32=native", "fp32=", "bf16=blas", "onednn=fp32"})
    EXPECT_THROW(parse_cpu_gemm_config(text), UserError) << text;
}

TEST(CpuGemmConfig, SettingPutsItInForce) {
  const CpuGemmConfig before = cpu_gemm_config();
  const CpuGemmConfig other = parse_cpu_gemm_config("bf16=native,fp16=upcast");
  set_cpu_gemm_config(other);
  EXPECT_EQ(cpu_gemm_config(), other);
  set_cpu_gemm_config(before);
}

TEST(MatmulProbe, LeavesTheRandomGeneratorAlone) {
  const StateDict state = rng_state(torch::kCPU);
  measure_matmul_paths();
  const StateDict after = rng_state(torch::kCPU);
  for (const auto& [name, tensor] : state.tensors) EXPECT_TRUE(after.tensor(name).equal(tensor));
  EXPECT_FALSE(state.tensors.empty());
}

TEST(MatmulProbe, ChoosesTheNativeWayWhereItIsClearlyFaster) {
  const MatmulMeasurement measurement = measure_matmul_paths();
  ASSERT_EQ(measurement.timings.size(), 8);
  for (const MatmulTiming& timing : measurement.timings) {
    EXPECT_GT(timing.native_ms, 0.0) << timing.product;
    EXPECT_GT(timing.upcast_ms, 0.0) << timing.product;
    const CpuGemmConfig with_native =
        parse_cpu_gemm_config(timing.product + "=native", measurement.choice);
    const bool is_native = with_native == measurement.choice;
    EXPECT_EQ(is_native, !timing.small && timing.native_ms * 1.25 < timing.upcast_ms)
        << timing.product;
  }
  EXPECT_GT(measurement.fp32.blas_ms, 0.0);
  EXPECT_EQ(measurement.fp32.onednn_ms > 0.0, has_onednn_gemm32());
  const bool faster = has_onednn_gemm32() && measurement.fp32.onednn_ms < measurement.fp32.blas_ms;
  EXPECT_EQ(measurement.choice.fp32, faster ? GemmLibrary::kOneDnn : GemmLibrary::kBlas);
}

TEST(MatmulProbe, RecordsAndReadsWhatItMeasured) {
  namespace fs = std::filesystem;
  const fs::path cache = fs::path(test::kBuildDir) / "matmul_probe_cache";
  fs::remove_all(cache);
  setenv("XDG_CACHE_HOME", cache.c_str(), 1);
  const MatmulMeasurement first = measured_cpu_gemm_config();
  const fs::path record = cache / "halftone" / "matmul.json";
  ASSERT_EQ(matmul_record_path(), record);
  ASSERT_TRUE(fs::exists(record));
  const MatmulMeasurement again = measured_cpu_gemm_config();
  EXPECT_FALSE(first.recorded);
  EXPECT_TRUE(again.recorded);
  EXPECT_EQ(again.choice, first.choice);
  ASSERT_EQ(again.timings.size(), first.timings.size());
  for (std::size_t i = 0; i < first.timings.size(); ++i) {
    EXPECT_EQ(again.timings[i].product, first.timings[i].product);
    EXPECT_EQ(again.timings[i].native_ms, first.timings[i].native_ms);
    EXPECT_EQ(again.timings[i].upcast_ms, first.timings[i].upcast_ms);
    EXPECT_EQ(again.timings[i].small, first.timings[i].small);
  }
  EXPECT_EQ(again.fp32.blas_ms, first.fp32.blas_ms);
  EXPECT_EQ(again.fp32.onednn_ms, first.fp32.onednn_ms);
  const MatmulMeasurement anew = measured_cpu_gemm_config(MatmulRecord::kReplace);
  EXPECT_EQ(measured_cpu_gemm_config().timings[0].native_ms, anew.timings[0].native_ms);
  EXPECT_FALSE(anew.recorded);
  {
    // A record that lacks matmuls is not enough.
    nlohmann::json older = nlohmann::json::parse(std::ifstream(record));
    for (auto& [key, value] : older.items())
      if (value.is_array()) value.erase(value.begin() + 4, value.end());
    std::ofstream(record) << older;
    EXPECT_FALSE(measured_cpu_gemm_config().recorded);
    EXPECT_TRUE(measured_cpu_gemm_config().recorded);
  }
  for (const char* damaged : {"{ damaged", "[1]", "{}"}) {
    std::ofstream(record) << damaged;
    EXPECT_NO_THROW(measured_cpu_gemm_config()) << damaged;
  }
  const std::string deep = std::string(400'000, '[') + std::string(400'000, ']');
  const std::string large = "{\"a\": \"" + std::string(2'000'000, 'x') + "\"}";
  for (const std::string& hostile : {"{\"a\": " + deep + "}", large}) {
    std::ofstream(record) << hostile;
    EXPECT_FALSE(measured_cpu_gemm_config().recorded);
    EXPECT_TRUE(measured_cpu_gemm_config().recorded) << "it was replaced";
    EXPECT_LT(fs::file_size(record), 100'000);
  }
  fs::remove_all(cache);
  std::ofstream(cache.string()) << "a file where the folder should be";
  EXPECT_NO_THROW(measured_cpu_gemm_config());
  fs::remove_all(cache);
}

}  // namespace
}  // namespace halftone::cpu_gemm_config_test
