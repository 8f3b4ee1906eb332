// SPDX-License-Identifier: Apache-2.0
// The processes of a group as threads of one, for what depends on the results of collective
// operations and not on the way they travel.
#pragma once

#include <torch/types.h>

#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "halftone/core/error.h"
#include "halftone/core/process_group.h"

namespace halftone {

/// What the threads share: operation number n of each, done by the one that comes last.
class ThreadGroupBoard {
 public:
  struct Part {
    torch::Tensor to, from;
    std::string text;
    std::vector<std::string>* texts = nullptr;
  };
  using Do = std::function<void(std::vector<Part>& parts)>;

  explicit ThreadGroupBoard(std::int64_t size) : size_(size) {}
  std::int64_t size() const { return size_; }

  void post(std::int64_t number, std::int64_t rank, Part part, const Do& act) {
    const std::lock_guard lock(mutex_);
    Operation& operation = operations_[number];
    operation.parts.resize(static_cast<std::size_t>(size_));
    operation.parts[static_cast<std::size_t>(rank)] = std::move(part);
    if (++operation.posted < size_) return;
    const torch::NoGradGuard no_grad;
    act(operation.parts);
    operation.done = true;
    done_.notify_all();
  }
  void wait(std::int64_t number) {
    std::unique_lock lock(mutex_);
    done_.wait(lock, [&] { return broken_ || operations_[number].done; });
    if (!operations_[number].done) throw std::runtime_error("another thread of the group failed");
  }
  /// The board of each thread's twin number `index`.
  std::shared_ptr<ThreadGroupBoard> twin(std::size_t index) {
    const std::lock_guard lock(mutex_);
    while (twins_.size() <= index) twins_.push_back(std::make_shared<ThreadGroupBoard>(size_));
    return twins_[index];
  }
  /// Ends all waiting, now and later.
  void break_up() {
    const std::lock_guard lock(mutex_);
    broken_ = true;
    done_.notify_all();
    for (const auto& twin : twins_) twin->break_up();
  }

 private:
  struct Operation {
    std::vector<Part> parts;
    std::int64_t posted = 0;
    bool done = false;
  };
  std::int64_t size_;
  std::mutex mutex_;
  std::condition_variable done_;
  std::map<std::int64_t, Operation> operations_;
  std::vector<std::shared_ptr<ThreadGroupBoard>> twins_;
  bool broken_ = false;
};

class ThreadGroup : public ProcessGroup {
 public:
  ThreadGroup(std::shared_ptr<ThreadGroupBoard> board, std::int64_t rank)
      : board_(std::move(board)), rank_(rank) {}

  std::int64_t rank() const override { return rank_; }
  std::int64_t size() const override { return board_->size(); }
  Pending all_to_all(torch::Tensor received, torch::Tensor sent) override {
    return begin({.to = std::move(received), .from = std::move(sent)}, [](auto& parts) {
      for (std::size_t to = 0; to < parts.size(); ++to)
        for (std::size_t from = 0; from < parts.size(); ++from)
          piece(parts[to].to, from, parts.size()).copy_(piece(parts[from].from, to, parts.size()));
    });
  }
  Pending all_gather(torch::Tensor all, torch::Tensor own) override {
    return begin({.to = std::move(all), .from = std::move(own)}, [](auto& parts) {
      for (std::size_t to = 0; to < parts.size(); ++to)
        for (std::size_t from = 0; from < parts.size(); ++from)
          piece(parts[to].to, from, parts.size()).copy_(parts[from].from.view(-1));
    });
  }
  Pending broadcast(torch::Tensor tensor, std::int64_t root) override {
    return begin({.to = std::move(tensor)}, [root](auto& parts) {
      for (auto& part : parts) part.to.copy_(parts[static_cast<std::size_t>(root)].to.clone());
    });
  }
  std::shared_ptr<ProcessGroup> twin() override {
    return std::make_shared<ThreadGroup>(board_->twin(twins_++), rank_);
  }
  std::vector<std::string> all_gather(const std::string& own) override {
    std::vector<std::string> texts;
    begin({.text = own, .texts = &texts}, [](auto& parts) {
      for (auto& to : parts)
        for (const auto& from : parts) to.texts->push_back(from.text);
    })->wait();
    return texts;
  }

 private:
  struct BoardWork : Work {
    BoardWork(std::shared_ptr<ThreadGroupBoard> the_board, std::int64_t the_number)
        : board(std::move(the_board)), number(the_number) {}
    void wait() override { board->wait(number); }
    std::shared_ptr<ThreadGroupBoard> board;
    std::int64_t number;
  };

  static torch::Tensor piece(const torch::Tensor& all, std::size_t index, std::size_t count) {
    const torch::Tensor flat = all.view(-1);
    const std::int64_t length = flat.numel() / static_cast<std::int64_t>(count);
    return flat.narrow(0, static_cast<std::int64_t>(index) * length, length);
  }
  Pending begin(ThreadGroupBoard::Part part, const ThreadGroupBoard::Do& act) {
    board_->post(next_, rank_, std::move(part), act);
    return std::make_unique<BoardWork>(board_, next_++);
  }

  std::shared_ptr<ThreadGroupBoard> board_;
  std::int64_t rank_;
  std::int64_t next_ = 0;
  std::size_t twins_ = 0;
};

/// Runs `part` as each process of `size`, at once. An exception of one is thrown again.
inline void run_as_group(std::int64_t size, const std::function<void(ProcessGroup&)>& part) {
  const auto board = std::make_shared<ThreadGroupBoard>(size);
  std::mutex mutex;
  std::exception_ptr error;  // the first
  std::vector<std::thread> threads;
  for (std::int64_t rank = 0; rank < size; ++rank)
    threads.emplace_back([&, rank] {
      try {
        ThreadGroup group(board, rank);
        part(group);
      } catch (...) {
        const std::lock_guard lock(mutex);
        if (!error) error = std::current_exception();
        board->break_up();
      }
    });
  for (std::thread& thread : threads) thread.join();
  if (error) std::rethrow_exception(error);
}

}  // namespace halftone
