// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>

#include <algorithm>
#include <cstdint>
#include <mutex>
#include <unordered_map>

namespace halftone::test {

/// While it lives, counts the bytes of CPU tensors that are made in it. What is made must die in
/// it too. One at a time.
class TensorMemory : public c10::Allocator {
 public:
  TensorMemory() : inner_(c10::GetCPUAllocator()) {
    current_ = this;
    c10::SetCPUAllocator(this, kPriority);
  }
  ~TensorMemory() override {
    c10::SetCPUAllocator(inner_, kPriority);
    current_ = nullptr;
  }
  TensorMemory(const TensorMemory&) = delete;
  TensorMemory& operator=(const TensorMemory&) = delete;

  std::int64_t live() const { return live_; }
  std::int64_t peak() const { return peak_; }
  void reset_peak() { peak_ = live_; }

  // The context is the address, as oneDNN's tensors (raw_allocate()) need it.
  c10::DataPtr allocate(std::size_t bytes) override {
    void* const address = inner_->raw_allocate(bytes);
    const std::lock_guard<std::mutex> lock(mutex_);
    if (address != nullptr) sizes_[address] = static_cast<std::int64_t>(bytes);
    live_ += static_cast<std::int64_t>(bytes);
    peak_ = std::max(peak_, live_);
    return {address, address, &release, c10::Device(c10::DeviceType::CPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, std::size_t bytes) const override {
    inner_->copy_data(to, from, bytes);
  }

 private:
  static constexpr std::uint8_t kPriority = 100;

  static void release(void* address) {
    if (address != nullptr) current_->free(address);
  }

  void free(void* address) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      const auto block = sizes_.find(address);
      live_ -= block->second;
      sizes_.erase(block);
    }
    inner_->raw_deallocate(address);
  }

  static inline TensorMemory* current_ = nullptr;
  c10::Allocator* inner_;
  std::mutex mutex_;
  std::unordered_map<void*, std::int64_t> sizes_;
  std::int64_t live_ = 0;
  std::int64_t peak_ = 0;
};

}  // namespace halftone::test
