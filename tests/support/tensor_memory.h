// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>

#include <algorithm>
#include <cstdint>
#include <mutex>

namespace halftone::test {

/// While it lives, counts the bytes of CPU tensors that are made in it. What is made must die in
/// it too. One at a time.
class TensorMemory : public c10::Allocator {
 public:
  TensorMemory() : inner_(c10::GetCPUAllocator()) { c10::SetCPUAllocator(this, kPriority); }
  ~TensorMemory() override { c10::SetCPUAllocator(inner_, kPriority); }
  TensorMemory(const TensorMemory&) = delete;
  TensorMemory& operator=(const TensorMemory&) = delete;

  std::int64_t live() const { return live_; }
  std::int64_t peak() const { return peak_; }
  void reset_peak() { peak_ = live_; }

  c10::DataPtr allocate(std::size_t bytes) override {
    c10::DataPtr data = inner_->allocate(bytes);
    void* const address = data.get();
    const c10::Device device = data.device();
    auto* block = new Block{std::move(data), static_cast<std::int64_t>(bytes), this};
    add(block->bytes);
    return {address, block, &release, device};
  }
  void copy_data(void* to, const void* from, std::size_t bytes) const override {
    inner_->copy_data(to, from, bytes);
  }

 private:
  static constexpr std::uint8_t kPriority = 100;
  struct Block {
    c10::DataPtr data;
    std::int64_t bytes;
    TensorMemory* owner;
  };

  static void release(void* context) {
    auto* block = static_cast<Block*>(context);
    block->owner->add(-block->bytes);
    delete block;
  }

  void add(std::int64_t bytes) {
    const std::lock_guard<std::mutex> lock(mutex_);
    live_ += bytes;
    peak_ = std::max(peak_, live_);
  }

  c10::Allocator* inner_;
  std::mutex mutex_;
  std::int64_t live_ = 0;
  std::int64_t peak_ = 0;
};

}  // namespace halftone::test
