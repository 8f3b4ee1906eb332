// SPDX-License-Identifier: Apache-2.0
// Greedy generation by llama.cpp, for bench/compare/generate.py: a prompt, then NEW tokens one by
// one.
//
//   llama_cpp_generate GGUF PROMPT NEW THREADS
//
// Speaks the protocol of run.py. Build it against a built llama.cpp:
//   c++ -O2 -std=c++20 llama_cpp_generate.cpp -I LLAMA/include -I LLAMA/ggml/include -L LIBS
//   -lllama
//       -lggml -lggml-cpu -lggml-base -Wl,-rpath,LIBS -o llama_cpp_generate
#include <llama.h>

#include <algorithm>
#include <chrono>
#include <iostream>
#include <string>
#include <vector>

namespace {

void run(llama_context* context, int vocabulary, int prompt, int added) {
  llama_memory_clear(llama_get_memory(context), true);
  std::vector<llama_token> tokens;
  for (int i = 0; i < prompt; ++i) tokens.push_back((17 + 31 * i) % vocabulary);
  for (int i = 0; i < added; ++i) {
    const auto count = static_cast<std::int32_t>(tokens.size());
    if (llama_decode(context, llama_batch_get_one(tokens.data(), count)) != 0) std::exit(1);
    const float* logits = llama_get_logits_ith(context, -1);
    tokens = {static_cast<llama_token>(std::max_element(logits, logits + vocabulary) - logits)};
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 5) {
    std::cerr << "usage: llama_cpp_generate GGUF PROMPT NEW THREADS\n";
    return 2;
  }
  llama_log_set([](ggml_log_level, const char*, void*) {}, nullptr);
  ggml_backend_load_all();
  llama_model* model = llama_model_load_from_file(argv[1], llama_model_default_params());
  if (model == nullptr) return 1;
  llama_context_params params = llama_context_default_params();
  params.n_ctx = 2048;
  params.n_threads = params.n_threads_batch = std::stoi(argv[4]);
  llama_context* context = llama_init_from_model(model, params);
  if (context == nullptr) return 1;
  const int vocabulary = llama_vocab_n_tokens(llama_model_get_vocab(model));
  const int prompt = std::stoi(argv[2]), added = std::stoi(argv[3]);
  run(context, vocabulary, prompt, added);
  std::cout << "ready" << std::endl;
  for (int times = 0; std::cin >> times;) {
    std::cout << "[";
    for (int i = 0; i < times; ++i) {
      const auto start = std::chrono::steady_clock::now();
      run(context, vocabulary, prompt, added);
      const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
      std::cout << (i > 0 ? "," : "") << seconds.count();
    }
    std::cout << "]" << std::endl;
  }
  llama_free(context);
  llama_model_free(model);
  return 0;
}
