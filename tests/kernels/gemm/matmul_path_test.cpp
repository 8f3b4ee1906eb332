// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/gemm/matmul_path.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "halftone/core/error.h"
#include "halftone/core/random.h"
#include "halftone/kernels/gemm/gemm32.h"
#include "halftone/kernels/gemm/matmul_probe.h"
#include "support/paths.h"

namespace halftone {
namespace {

TEST(MatmulChoice, TextRoundTrips) {
  for (const char* text : {"bf16=native,fp16=widened,fp32=blas",
                           "bf16=widened,bf16.attention=native,fp16=native,fp32=onednn",
                           "bf16=native,bf16.convolution_weight_gradient=widened,fp16=widened,"
                           "fp32=blas",
                           "bf16=native,bf16.weight_gradient=widened,fp16=widened,fp32=onednn"})
    EXPECT_EQ(to_string(parse_matmul_choice(text)), text);
}

TEST(MatmulChoice, OneWordNamesEverythingAndTheRestStays) {
  EXPECT_EQ(to_string(parse_matmul_choice("native")), "bf16=native,fp16=native,fp32=blas");
  const MatmulChoice base = parse_matmul_choice("native,onednn");
  EXPECT_EQ(to_string(parse_matmul_choice("fp16=widened", base)),
            "bf16=native,fp16=widened,fp32=onednn");
  EXPECT_EQ(to_string(parse_matmul_choice("blas", base)), "bf16=native,fp16=native,fp32=blas");
}

TEST(MatmulChoice, WithoutConvolutionsShowsTheProductsAlone) {
  const MatmulChoice choice = parse_matmul_choice(
      "native,bf16.attention=widened,bf16.convolution=widened,"
      "bf16.convolution_input_gradient=widened,bf16.convolution_weight_gradient=widened");
  EXPECT_EQ(to_string(without_convolutions(choice.bf16)), "native, attention=widened");
}

TEST(MatmulChoice, RefusesUnknownWords) {
  for (const char* text :
       {"", "fast", "bf16=", "bf17=native", "bf16.sideways=native", "native,", "=native",
        "bf16=native,,", "fp32=native", "fp32=", "bf16=blas", "onednn=fp32"})
    EXPECT_THROW(parse_matmul_choice(text), UserError) << text;
}

TEST(MatmulChoice, SettingPutsItInForce) {
  const MatmulChoice before = matmul_paths();
  const MatmulChoice other = parse_matmul_choice("bf16=native,fp16=widened");
  set_matmul_paths(other);
  EXPECT_EQ(matmul_paths(), other);
  set_matmul_paths(before);
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
    EXPECT_GT(timing.widened_ms, 0.0) << timing.product;
    const MatmulChoice with_native =
        parse_matmul_choice(timing.product + "=native", measurement.choice);
    const bool is_native = with_native == measurement.choice;
    EXPECT_EQ(is_native, !timing.small && timing.native_ms * 1.25 < timing.widened_ms)
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
  const MatmulMeasurement first = measured_matmul_paths();
  const fs::path record = cache / "halftone" / "matmul.json";
  ASSERT_EQ(matmul_record_path(), record);
  ASSERT_TRUE(fs::exists(record));
  const MatmulMeasurement again = measured_matmul_paths();
  EXPECT_FALSE(first.recorded);
  EXPECT_TRUE(again.recorded);
  EXPECT_EQ(again.choice, first.choice);
  ASSERT_EQ(again.timings.size(), first.timings.size());
  for (std::size_t i = 0; i < first.timings.size(); ++i) {
    EXPECT_EQ(again.timings[i].product, first.timings[i].product);
    EXPECT_EQ(again.timings[i].native_ms, first.timings[i].native_ms);
    EXPECT_EQ(again.timings[i].widened_ms, first.timings[i].widened_ms);
    EXPECT_EQ(again.timings[i].small, first.timings[i].small);
  }
  EXPECT_EQ(again.fp32.blas_ms, first.fp32.blas_ms);
  EXPECT_EQ(again.fp32.onednn_ms, first.fp32.onednn_ms);
  const MatmulMeasurement anew = measured_matmul_paths(MatmulRecord::kReplace);
  EXPECT_EQ(measured_matmul_paths().timings[0].native_ms, anew.timings[0].native_ms);
  EXPECT_FALSE(anew.recorded);
  {
    // A record that lacks products is not enough.
    nlohmann::json older = nlohmann::json::parse(std::ifstream(record));
    for (auto& [key, value] : older.items())
      if (value.is_array()) value.erase(value.begin() + 4, value.end());
    std::ofstream(record) << older;
    EXPECT_FALSE(measured_matmul_paths().recorded);
    EXPECT_TRUE(measured_matmul_paths().recorded);
  }
  for (const char* damaged : {"{ damaged", "[1]", "{}"}) {
    std::ofstream(record) << damaged;
    EXPECT_NO_THROW(measured_matmul_paths()) << damaged;
  }
  fs::remove_all(cache);
  std::ofstream(cache.string()) << "a file where the folder should be";
  EXPECT_NO_THROW(measured_matmul_paths());
  fs::remove_all(cache);
}

}  // namespace
}  // namespace halftone
