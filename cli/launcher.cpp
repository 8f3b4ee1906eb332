// SPDX-License-Identifier: Apache-2.0
// Loads the program. OpenMP's runtime reads its environment when it is loaded, so what is said here
// must be said before: threads that wait for each other give their core away after some 0.1 ms of
// spinning, where the runtime's own choice is many milliseconds, which on a machine that is not
// idle every parallel loop would spend.
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace {

constexpr const char* kSpins = "5000";

void limit_spinning() {
  if (std::getenv("OMP_WAIT_POLICY") == nullptr) ::setenv("GOMP_SPINCOUNT", kSpins, 0);
}

bool is_short_of_memory(const char* error) {
  return std::strstr(error, "llocate memory") != nullptr ||
         std::strstr(error, "failed to map segment") != nullptr;
}

int complain(const char* error) {
  if (is_short_of_memory(error))
    std::fprintf(stderr,
                 "halftone: error: out of memory while the program was loaded (%s); end other "
                 "programs, or raise the limit (ulimit -v)\n",
                 error);
  else
    std::fprintf(stderr,
                 "halftone: error: expected " HALFTONE_PROGRAM
                 " beside the program, or in the lib folder of its installation (%s); build or "
                 "install it again\n",
                 error);
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  // What `launch` starts decides for itself.
  if (argc < 2 || std::strcmp(argv[1], "launch") != 0) limit_spinning();
  using Main = int (*)(int, char**);
  void* const program = ::dlopen(HALFTONE_PROGRAM, RTLD_NOW | RTLD_GLOBAL);
  auto* const run =
      program == nullptr ? nullptr : reinterpret_cast<Main>(::dlsym(program, "halftone_main"));
  if (run == nullptr) return complain(::dlerror());
  return run(argc, argv);
}
