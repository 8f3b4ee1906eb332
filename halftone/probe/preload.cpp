// SPDX-License-Identifier: Apache-2.0
// libhalftone_probe.so, which any program can load or be started with (LD_PRELOAD). It needs the C
// library alone: a LibTorch that it brought along would be another one than the program's. It waits
// for the program's LibTorch and then loads libhalftone_probe_torch.so, which stands beside it and
// is the probe.
#include <dlfcn.h>
#include <link.h>
#include <torch/version.h>

#include <climits>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace {

constexpr const char* kProbe = "libhalftone_probe_torch.so";
constexpr const char* kLibTorch = "libtorch_cpu.so";
constexpr uint64_t kRelease = TORCH_ABI_VERSION >> 40;  // major, minor and patch, eight bits each

using Lookup = void* (*)(void*, const char*);

bool is_waiting = false;
int startup_objects = 0;           // what the program consists of when it starts
unsigned long long last_look = 0;  // how many objects had been loaded by then

/// A look at the objects of the process, in the order in which they were loaded.
struct Look {
  uintptr_t caller;         // an address in the object that is asked for
  int count;                // of objects
  int caller_place;         // of that object among them
  char libtorch[PATH_MAX];  // empty: not there
  unsigned long long loaded;
};

const char* file_name(const char* path) {
  const char* const slash = strrchr(path, '/');
  return slash != nullptr ? slash + 1 : path;
}

bool contains(const dl_phdr_info& object, uintptr_t address) {
  for (int i = 0; i < object.dlpi_phnum; ++i) {
    const auto& segment = object.dlpi_phdr[i];
    const uintptr_t begin = object.dlpi_addr + segment.p_vaddr;
    if (segment.p_type == PT_LOAD && begin <= address && address - begin < segment.p_memsz)
      return true;
  }
  return false;
}

int visit(dl_phdr_info* object, size_t, void* data) {
  Look& look = *static_cast<Look*>(data);
  look.loaded = object->dlpi_adds;
  if (look.loaded == last_look) return 1;
  if (contains(*object, look.caller)) look.caller_place = look.count;
  ++look.count;
  if (object->dlpi_name != nullptr && strcmp(file_name(object->dlpi_name), kLibTorch) == 0)
    snprintf(look.libtorch, sizeof look.libtorch, "%s", object->dlpi_name);
  return 0;
}

Lookup system_lookup() {
  static Lookup found = nullptr;
  constexpr const char* kVersions[] = {"GLIBC_2.34", "GLIBC_2.2.5", "GLIBC_2.17"};
  for (const char* version : kVersions)
    if (found == nullptr) found = reinterpret_cast<Lookup>(dlvsym(RTLD_NEXT, "dlsym", version));
  return found;
}

void say(const char* what, const char* detail) {
  fprintf(stderr, "halftone probe: %s%s; the program goes on without it\n", what, detail);
}

/// Code compiled for another release may take the program's tensors for what they are not.
bool is_of_release(void* libtorch) {
  using Version = uint64_t (*)();
  const auto version =
      reinterpret_cast<Version>(system_lookup()(libtorch, "aoti_torch_abi_version"));
  const uint64_t release = version != nullptr ? version() >> 40 : 0;
  if (release == kRelease) return true;
  const auto part = [](uint64_t whole, int i) {
    return static_cast<int>(whole >> (16 - 8 * i) & 255);
  };
  char got[64] = "an older one";
  if (release != 0)
    snprintf(got, sizeof got, "%d.%d.%d", part(release, 0), part(release, 1), part(release, 2));
  char text[128];
  snprintf(text, sizeof text, "%d.%d.%d, for which it was built, got %s", part(kRelease, 0),
           part(kRelease, 1), part(kRelease, 2), got);
  say("expected LibTorch ", text);
  return false;
}

void load_probe(const char* libtorch_path) {
  void* const libtorch = dlopen(libtorch_path, RTLD_LAZY | RTLD_NOLOAD);
  if (libtorch == nullptr || !is_of_release(libtorch)) return;
  Dl_info own;
  char path[PATH_MAX];
  if (dladdr(reinterpret_cast<const void*>(&load_probe), &own) == 0) return;
  const auto folder = static_cast<int>(file_name(own.dli_fname) - own.dli_fname);
  snprintf(path, sizeof path, "%.*s%s", folder, own.dli_fname, kProbe);
  if (dlopen(path, RTLD_NOW | RTLD_LOCAL) == nullptr) say("", dlerror());
}

/// An object that is being loaded may look up symbols in its constructor, when LibTorch is not
/// initialised yet. What the program started with has no constructors to run any more.
[[gnu::noinline]] void look_for_libtorch(const void* caller) {
  Look look{};
  look.caller = reinterpret_cast<uintptr_t>(caller);
  look.caller_place = INT_MAX;
  dl_iterate_phdr(visit, &look);
  if (look.libtorch[0] == '\0') {
    last_look = look.loaded;
  } else if (look.caller_place < startup_objects &&
             __atomic_exchange_n(&is_waiting, false, __ATOMIC_RELAXED)) {
    load_probe(look.libtorch);
  }
  dlerror();  // the program may ask for that of its own calls
}

[[gnu::constructor]] void start() {
  const char* const modes = getenv("HALFTONE_PROBE");
  if (modes == nullptr || *modes == '\0') return;
  Look look{};
  dl_iterate_phdr(visit, &look);
  startup_objects = look.count;
  last_look = look.loaded;
  is_waiting = look.libtorch[0] == '\0';
  if (!is_waiting) load_probe(look.libtorch);
}

}  // namespace

/// Whoever loads an object looks its symbols up before it uses them, Python's import among them:
/// the moment to look for LibTorch. The call is passed on as a jump, so that the C library sees the
/// true caller.
extern "C" [[gnu::visibility("default")]] void* dlsym(void* object, const char* name) noexcept {
  if (__builtin_expect(is_waiting, false)) look_for_libtorch(__builtin_return_address(0));
  const Lookup lookup = system_lookup();
  return lookup(object, name);
}
