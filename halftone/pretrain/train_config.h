// SPDX-License-Identifier: Apache-2.0
// Everything that a training run can be told. config_schema.h has the names, checks and help of the
// fields; docs/config.md lists them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "halftone/models/lora.h"
#include "halftone/models/model_config.h"
#include "halftone/precision/memory_policy.h"

namespace halftone {

/// Dynamic loss scaling, used by 16-mixed and 16-true.
struct ScalerConfig {
  double init_scale = 65536.0;
  double growth_factor = 2.0;
  double backoff_factor = 0.5;
  std::int64_t growth_interval = 2000;
  std::int64_t hysteresis = 1;
  double min_scale = 1.0;
  double max_scale = 16777216.0;
};

/// What multiplies and computes on a CPU. Environment variables go first.
struct KernelConfig {
  std::string matmul = "auto";  // or as HALFTONE_MATMUL: "bf16=native,fp32=onednn"
  std::string reference;        // as HALFTONE_REFERENCE_KERNELS: "rms_norm,swiglu"
  std::string cpu_gemm = "on";  // as HALFTONE_CPU_GEMM
};

/// Learning from preferences (Rafailov et al. 2023).
struct DpoConfig {
  double beta = 0.15;
};

/// The precision that is chosen when training begins (pretrain/auto_precision.h).
inline constexpr const char* kAutoPrecision = "auto";

struct TrainConfig {
  std::string preset = "minimind-26m";
  ModelConfig model;  // vocab_size 0: as large as the tokenizer

  std::string task = "pretrain";  // "sft", "dpo"
  DpoConfig dpo;

  LoraConfig lora;           // rank 0: all weights are trained
  std::string lora_adapter;  // an adapter to go on from; empty: a new one

  std::vector<std::string> data;  // files and folders
  std::string tokenizer;          // empty: train one on the data
  std::int64_t tokenizer_vocab_size = 6400;
  bool pack = true;
  bool document_mask = false;  // packed documents know nothing of each other
  bool shuffle = true;
  std::string invalid_utf8 = "error";   // or "replace"
  std::string special_tokens = "text";  // or "tokens": what the data spells like </s>

  // Validation: on text of its own, or on documents held out of `data`.
  std::vector<std::string> val_data;      // files and folders
  std::optional<double> val_split;        // share of the documents
  std::optional<std::int64_t> val_every;  // optimizer steps; nothing: as save_every
  std::int64_t early_stop = 0;  // validations without a lower loss that end the run; 0: none do

  std::string precision = "bf16-mixed";
  std::string loss_scale = "dynamic";  // "adaptive", or a fixed scale: "128"
  ScalerConfig scaler;
  std::vector<std::string> keep_fp32;        // patterns of keep_fp32()
  std::vector<std::string> layer_precision;  // "feed_forward=int8": parse_layer_precision()
  MemoryOptions memory;                      // --memory and its parts
  std::string memory_budget = "available";   // "unlimited", or a size: "8GiB"

  std::int64_t batch_size = 8;  // rows of one micro-batch
  std::int64_t seq_len = 256;
  std::int64_t accumulate = 1;              // micro-batches of one optimizer step
  std::string loss_average = "tokens";      // or "micro-batches"
  std::string shard = "none";               // TrainerOptions::shard
  std::string gradient_sum = "sequential";  // TrainerOptions::gradient_sum
  std::string reduce_dtype = "fp32";        // TrainerOptions::reduce_dtype
  double lr = 5e-4;
  std::string schedule = "minimind";  // "cosine", "linear", "constant"
  std::int64_t warmup = 0;            // optimizer steps
  double weight_decay = 0.01;
  double grad_clip = 1.0;  // 0: none
  std::int64_t seed = 42;

  std::optional<std::int64_t> max_steps;  // no limit at all: one epoch
  std::optional<std::int64_t> max_epochs;
  std::optional<double> max_time;  // seconds

  std::string device = "auto";
  std::int64_t threads = 0;  // 0: as many as LibTorch takes
  KernelConfig kernels;
  std::string init_from;  // file or folder of weights to start from; empty: fresh ones

  std::string out;  // run directory; resolve_config fills it in when empty
  bool overwrite = false;
  std::int64_t log_every = 10;  // optimizer steps between progress lines
  bool tensorboard = true;      // event files, of each log_every-th step and each validation
  std::string watch = "off";    // "auto", or optimizer steps between samples of the layers: "100"
  std::string detect_anomaly = "off";  // or "first"
  std::int64_t save_every = 200;       // optimizer steps; 0: only at the end
  std::int64_t keep_checkpoints = 2;
};

/// Whether there is text to validate on.
inline bool has_validation(const TrainConfig& config) {
  return !config.val_data.empty() || config.val_split.has_value();
}

}  // namespace halftone
