// SPDX-License-Identifier: Apache-2.0
#include "halftone/train/batch_stream.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <memory>
#include <vector>

#include "halftone/core/error.h"
#include "halftone/data/tensor_loader.h"
#include "halftone/data/token_loader.h"
#include "support/temp_folder.h"

namespace halftone {
namespace {

namespace fs = std::filesystem;

static_assert(PrefetchableLoader<TokenLoader>);
static_assert(IndexedLoader<TensorLoader> && !PrefetchableLoader<TensorLoader>,
              "its samples are in memory already");

class TokenStream : public testing::Test {
 protected:
  TokenStream() {
    TokenFileWriter writer(path(), 1000, 1);
    writer.begin_sample();
    for (std::int32_t id = 0; id < 41; ++id) writer.add(std::vector<std::int32_t>{id}, 1);
    writer.finish();
  }
  fs::path path() const { return folder_ / "tokens"; }

  // Ten rows, hence five batches an epoch.
  TokenLoader loader() const {
    return TokenLoader({.tokens = std::make_shared<const TokenFile>(path()), .pad_id = 999},
                       {.batch_size = 2, .seq_len = 4, .seed = 3});
  }

  test::TempFolder folder_;
};

TEST_F(TokenStream, GivesTheLoadersBatchesThroughEpochs) {
  TokenLoader taken = loader();
  const TokenLoader reference = loader();
  BatchStream stream(taken);
  for (std::int64_t position = 0; position < 23; ++position) {
    EXPECT_EQ(stream.epochs(), position / 5);
    EXPECT_EQ(stream.index(), position % 5);
    EXPECT_TRUE(stream.next().input_ids.equal(reference.batch_at(position).input_ids)) << position;
  }
}

TEST_F(TokenStream, ItsStateIsOfTheBatchesThatWereTaken) {
  TokenLoader taken = loader();
  BatchStream stream(taken);
  for (int i = 0; i < 3; ++i) stream.next();
  const StateDict state = stream.state_dict();
  EXPECT_EQ(state.get<std::int64_t>("position"), 3);
  const TokenBatch fourth = stream.next();

  TokenLoader other = loader();
  BatchStream resumed(other);
  resumed.load_state_dict(state);
  EXPECT_TRUE(resumed.next().input_ids.equal(fourth.input_ids));
  stream.load_state_dict(state);  // and backwards, in the midst of a run
  EXPECT_TRUE(stream.next().input_ids.equal(fourth.input_ids));
}

TEST_F(TokenStream, ADataErrorSurfacesWhereTheBatchIsTaken) {
  TokenLoader taken = loader();
  fs::resize_file(path(), 64);
  BatchStream stream(taken);
  for (int again = 0; again < 2; ++again) {
    EXPECT_THROW(stream.next(), SystemError);
    EXPECT_EQ(stream.index(), 0) << "no batch was taken";
  }
}

}  // namespace
}  // namespace halftone
