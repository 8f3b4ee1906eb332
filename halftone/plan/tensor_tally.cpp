// SPDX-License-Identifier: Apache-2.0
#include "halftone/plan/tensor_tally.h"

#include <c10/core/Allocator.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <mutex>

#include "halftone/core/error.h"

namespace halftone {

struct TensorTally::Count {
  std::mutex mutex;  // a tensor may be freed by another thread
  std::int64_t live = 0;
  std::int64_t peak = 0;

  void add(std::int64_t bytes) {
    constexpr std::int64_t kMost = std::int64_t{1} << 60U;
    const std::lock_guard<std::mutex> lock(mutex);
    HALFTONE_CHECK(bytes < kMost && live + bytes < kMost,
                   "[tensor_tally] expected tensors that a machine could hold, got 2^60 bytes");
    live += bytes;
    peak = std::max(peak, live);
  }
};

namespace {

thread_local std::shared_ptr<TensorTally::Count> counting;

/// In the place of LibTorch's allocator of meta, which gives null for every size.
class CountingAllocator : public c10::Allocator {
 public:
  c10::DataPtr allocate(std::size_t bytes) override {
    const c10::Device meta(c10::DeviceType::Meta);
    if (!counting) return {nullptr, nullptr, &release, meta};
    std::unique_ptr<Block> block(new Block{counting, static_cast<std::int64_t>(bytes)});
    block->count->add(block->bytes);
    return {next_address(bytes), block.release(), &release, meta};
  }
  c10::DeleterFnPtr raw_deleter() const override { return nullptr; }  // contexts are no addresses
  void copy_data(void* /*to*/, const void* /*from*/, std::size_t /*bytes*/) const override {}

 private:
  struct Block {
    std::shared_ptr<TensorTally::Count> count;
    std::int64_t bytes;
  };

  static void release(void* block) {
    const std::unique_ptr<Block> owned(static_cast<Block*>(block));
    if (owned) owned->count->add(-owned->bytes);
  }

  /// Beyond what a process can map, a page apart.
  static void* next_address(std::size_t bytes) {
    constexpr std::uintptr_t kFirst = std::uintptr_t{1} << 52U;
    constexpr std::uintptr_t kPage = 4096;
    static std::atomic<std::uintptr_t> next = kFirst;
    const std::uintptr_t room = (bytes / kPage + 2) * kPage;
    return reinterpret_cast<void*>(next.fetch_add(room));
  }
};

void install_allocator() {
  constexpr std::uint8_t kAboveLibTorchs = 1;
  [[maybe_unused]] static const bool once = [] {
    // Never destroyed: tensors may outlive what is static here.
    c10::SetAllocator(c10::DeviceType::Meta, new CountingAllocator, kAboveLibTorchs);
    return true;
  }();
}

}  // namespace

TensorTally::TensorTally() : count_(std::make_shared<Count>()) {
  install_allocator();
  HALFTONE_CHECK(!counting, "[tensor_tally] expected one tally at a time in a thread");
  counting = count_;
}

TensorTally::~TensorTally() { counting.reset(); }

bool TensorTally::is_counting() { return counting != nullptr; }

std::int64_t TensorTally::live() const {
  const std::lock_guard<std::mutex> lock(count_->mutex);
  return count_->live;
}

std::int64_t TensorTally::peak() const {
  const std::lock_guard<std::mutex> lock(count_->mutex);
  return count_->peak;
}

void TensorTally::reset_peak() {
  const std::lock_guard<std::mutex> lock(count_->mutex);
  count_->peak = count_->live;
}

}  // namespace halftone
