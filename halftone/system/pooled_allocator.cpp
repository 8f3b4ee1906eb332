// SPDX-License-Identifier: Apache-2.0
#include "halftone/system/pooled_allocator.h"

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>

#include <cstring>
#include <mutex>
#include <new>

namespace halftone {
namespace {

/// Smaller ones leave small gaps, and there are many of them.
constexpr std::size_t kLarge = std::size_t{1} << 20U;

class PooledAllocator : public c10::Allocator {
 public:
  explicit PooledAllocator(c10::Allocator& small) : small_(small) { current_ = this; }

  c10::DataPtr allocate(std::size_t bytes) override {
    if (bytes < kLarge) return small_.allocate(bytes);
    void* const address = pool_.allocate(bytes);
    if (address == nullptr) {
      c10::profiledCPUMemoryReporter().OutOfMemory(bytes);
      throw std::bad_alloc();
    }
    c10::profiledCPUMemoryReporter().New(address, bytes);
    return {address, address, &free, c10::Device(c10::DeviceType::CPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &free; }
  void copy_data(void* to, const void* from, std::size_t bytes) const override {
    std::memcpy(to, from, bytes);
  }

  BlockPool& pool() { return pool_; }
  static PooledAllocator* current() { return current_; }

 private:
  static void free(void* address) {
    if (address == nullptr) return;
    if (current_->pool_.free(address))
      c10::profiledCPUMemoryReporter().Delete(address);
    else
      current_->small_.raw_deallocate(address);
  }

  static inline PooledAllocator* current_ = nullptr;
  c10::Allocator& small_;
  BlockPool pool_;
};

}  // namespace

void pool_large_tensors() {
  static std::once_flag once;
  std::call_once(once, [] {
    constexpr std::uint8_t kPriority = 50;
    // Never deleted: tensors may outlive main().
    c10::SetCPUAllocator(new PooledAllocator(*c10::GetCPUAllocator()), kPriority);
  });
}

BlockPool::Usage pooled_tensor_memory() {
  auto* const allocator = PooledAllocator::current();
  return allocator == nullptr ? BlockPool::Usage() : allocator->pool().usage();
}

std::size_t take_pooled_peak() {
  auto* const allocator = PooledAllocator::current();
  return allocator == nullptr ? 0 : allocator->pool().take_recent_peak();
}

void release_pooled_memory() {
  if (auto* const allocator = PooledAllocator::current()) allocator->pool().release();
}

}  // namespace halftone
