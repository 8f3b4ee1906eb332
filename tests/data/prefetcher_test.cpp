// SPDX-License-Identifier: Apache-2.0
#include "halftone/data/prefetcher.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>

namespace halftone::prefetcher_test {
namespace {

TEST(Prefetcher, GivesTheValuesInOrder) {
  Prefetcher<std::string> values([](std::int64_t position) { return std::to_string(position); }, 3);
  for (std::int64_t position = 5; position < 200; ++position)
    ASSERT_EQ(values.take(position), std::to_string(position));
}

TEST(Prefetcher, BeginsAnewWhereverItIsAsked) {
  Prefetcher<std::int64_t> squares([](std::int64_t position) { return position * position; }, 2);
  for (const std::int64_t position : {3, 4, 10, 11, 3, 3, 0, 1}) {
    EXPECT_EQ(squares.take(position), position * position);
  }
}

TEST(Prefetcher, MovesWhatCannotBeCopied) {
  Prefetcher<std::unique_ptr<std::int64_t>> values(
      [](std::int64_t position) { return std::make_unique<std::int64_t>(position); }, 1);
  EXPECT_EQ(*values.take(7), 7);
  EXPECT_EQ(*values.take(8), 8);
}

TEST(Prefetcher, WorksAheadButNotTooFar) {
  constexpr std::size_t kAhead = 3;
  std::atomic<std::int64_t> taken = 0;
  std::atomic<std::int64_t> made = 0;
  std::atomic<bool> too_far = false;
  const std::thread::id caller = std::this_thread::get_id();
  std::atomic<bool> on_caller = false;
  Prefetcher<std::int64_t> values(
      [&](std::int64_t position) {
        if (std::this_thread::get_id() == caller) on_caller = true;
        // Those that wait, the one being made, and the one just being taken.
        if (position > taken + static_cast<std::int64_t>(kAhead) + 1) too_far = true;
        ++made;
        return position;
      },
      kAhead);
  for (std::int64_t position = 0; position < 50; ++position) {
    values.take(position);
    ++taken;
    // It works on while nobody asks.
    while (made < taken + static_cast<std::int64_t>(kAhead)) std::this_thread::yield();
  }
  EXPECT_FALSE(too_far);
  EXPECT_FALSE(on_caller);
}

TEST(Prefetcher, MakesNothingFromItsEndOn) {
  std::atomic<std::int64_t> last = -1;
  {
    const auto make = [&](std::int64_t position) {
      last = std::max<std::int64_t>(last, position);
      return position;
    };
    Prefetcher<std::int64_t> values(make, 8, 4);
    for (std::int64_t position = 0; position < 4; ++position)
      EXPECT_EQ(values.take(position), position);
    EXPECT_EQ(values.take(1), 1) << "and begins anew before it";
    EXPECT_THROW(values.take(4), c10::Error);
  }
  EXPECT_EQ(last, 3);
}

TEST(Prefetcher, AnErrorComesWithItsOwnPosition) {
  std::atomic<bool> broken = true;
  Prefetcher<std::int64_t> values(
      [&](std::int64_t position) {
        if (broken && position == 4) throw std::runtime_error("the fourth");
        return position;
      },
      8);
  for (std::int64_t position = 0; position < 4; ++position)
    ASSERT_EQ(values.take(position), position);
  for (int again = 0; again < 2; ++again) {
    try {
      values.take(4);
      FAIL() << "expected an error";
    } catch (const std::runtime_error& error) {
      EXPECT_STREQ(error.what(), "the fourth");
    }
  }
  EXPECT_EQ(values.take(5), 5) << "one position's error is not another's";
  broken = false;
  EXPECT_EQ(values.take(4), 4);
}

TEST(Prefetcher, LeavesNoThreadBehind) {
  std::atomic<bool> alive = false;
  struct Mark {
    std::atomic<bool>& alive;
    explicit Mark(std::atomic<bool>& flag) : alive(flag) { alive = true; }
    ~Mark() { alive = false; }
  };
  {
    Prefetcher<std::int64_t> values(
        [&](std::int64_t position) {
          thread_local const Mark mark(alive);
          return position;
        },
        1);
    values.take(0);
    EXPECT_TRUE(alive);
  }
  EXPECT_FALSE(alive) << "the thread has ended, whatever it was waiting for";
  const Prefetcher<std::int64_t> never_asked([](std::int64_t position) { return position; }, 1);
}

// Waits until `count` threads are in arrive() at once; false when they don't come.
class Meeting {
 public:
  explicit Meeting(int count) : missing_(count) {}
  bool arrive() {
    std::unique_lock lock(mutex_);
    if (--missing_ <= 0) all_here_.notify_all();
    return all_here_.wait_for(lock, std::chrono::seconds(60), [this] { return missing_ <= 0; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable all_here_;
  int missing_;
};

TEST(PrefetcherThreads, MakeSeveralValuesAtOnce) {
  Meeting meeting(3);
  std::atomic<bool> met = true;
  Prefetcher<std::int64_t> values(
      [&](std::int64_t position) {
        if (position < 3 && !meeting.arrive()) met = false;
        return position;
      },
      1, {}, 3);
  for (std::int64_t position = 0; position < 20; ++position)
    EXPECT_EQ(values.take(position), position);
  EXPECT_TRUE(met);
}

TEST(PrefetcherThreads, GiveValuesInOrderHoweverLongEachTakes) {
  for (const std::size_t threads : {1, 2, 5}) {
    Prefetcher<std::int64_t> values(
        [](std::int64_t position) {
          // The earlier of each four take longest.
          std::this_thread::sleep_for(std::chrono::microseconds(100 * (3 - position % 4)));
          return position * position;
        },
        2, 200, threads);
    for (std::int64_t position = 0; position < 200; ++position)
      ASSERT_EQ(values.take(position), position * position) << threads;
    for (const std::int64_t position : {150, 151, 3, 4, 199, 0})
      ASSERT_EQ(values.take(position), position * position) << threads;
  }
}

TEST(PrefetcherThreads, WorkAheadButNotTooFar) {
  constexpr std::int64_t kAhead = 2, kThreads = 3;
  std::atomic<std::int64_t> taken = 0;
  std::atomic<std::int64_t> made = 0;
  std::atomic<bool> too_far = false;
  Prefetcher<std::int64_t> values(
      [&](std::int64_t position) {
        // Those that wait, those being made, and the one just being taken.
        if (position > taken + kAhead + kThreads) too_far = true;
        ++made;
        return position;
      },
      kAhead, {}, kThreads);
  for (std::int64_t position = 0; position < 50; ++position) {
    values.take(position);
    ++taken;
    while (made < taken + kAhead + kThreads) std::this_thread::yield();
  }
  EXPECT_FALSE(too_far);
}

TEST(PrefetcherThreads, AnErrorComesBehindTheValuesBeforeIt) {
  for (int round = 0; round < 20; ++round) {
    Prefetcher<std::int64_t> values(
        [](std::int64_t position) {
          if (position % 7 == 3) std::this_thread::sleep_for(std::chrono::milliseconds(1));
          if (position % 7 == 4 || position % 7 == 5)
            throw std::runtime_error(std::to_string(position));
          return position;
        },
        3, {}, 4);
    for (std::int64_t position = 0; position < 21; ++position) {
      std::string error = "none";
      try {
        EXPECT_EQ(values.take(position), position);
      } catch (const std::runtime_error& thrown) {
        error = thrown.what();
      }
      const bool throws = position % 7 == 4 || position % 7 == 5;
      EXPECT_EQ(error, throws ? std::to_string(position) : "none");
    }
  }
}

TEST(PrefetcherThreads, MakeEachPositionOnceUpToTheEnd) {
  std::array<std::atomic<int>, 40> made{};
  {
    Prefetcher<std::int64_t> values(
        [&](std::int64_t position) {
          ++made.at(static_cast<std::size_t>(position));
          return position;
        },
        8, 40, 4);
    for (std::int64_t position = 0; position < 40; ++position) values.take(position);
  }
  for (const std::atomic<int>& count : made) EXPECT_EQ(count, 1);
}

TEST(PrefetcherThreads, EndWithTheirPrefetcherWhateverTheyDo) {
  for (int round = 0; round < 50; ++round) {
    std::atomic<int> making = 0;
    {
      Prefetcher<std::int64_t> values(
          [&](std::int64_t position) {
            ++making;
            std::this_thread::sleep_for(std::chrono::microseconds(50 * (round % 4)));
            --making;
            if (position == 6) throw std::runtime_error("six");
            return position;
          },
          1 + static_cast<std::size_t>(round) % 3, {}, 3);
      for (std::int64_t position = 0; position < round % 6; ++position) values.take(position);
    }
    EXPECT_EQ(making, 0);
  }
}

TEST(PrefetcherThreads, NeedsOne) {
  EXPECT_THROW(Prefetcher<int>([](std::int64_t) { return 0; }, 1, {}, 0), c10::Error);
}

struct Unassignable {
  const std::int64_t value;
};

TEST(Prefetcher, MovesWhatCannotBeAssigned) {
  Prefetcher<Unassignable> values([](std::int64_t position) { return Unassignable{position}; }, 1);
  EXPECT_EQ(values.take(7).value, 7);
}

}  // namespace
}  // namespace halftone::prefetcher_test
