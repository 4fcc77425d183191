// Which windows make a chunk, whose it is, what is held out, and which experts are starved.
#include <gtest/gtest.h>

#include <algorithm>

#include "calib/collector.h"

namespace voronoi::calib {
namespace {

TEST(HeldOut, TakesEveryNthChunk) {
  for (std::int64_t chunk = 0; chunk < 20; ++chunk) {
    EXPECT_EQ(is_held_out(chunk, 0.125), chunk == 7 || chunk == 15) << chunk;
    EXPECT_FALSE(is_held_out(chunk, 0));
  }
}

TEST(Chunks, FollowTheWindows) {
  EXPECT_EQ(calibration_chunks(5, 2048), 5);
  EXPECT_EQ(calibration_chunks(64, 128), 64);
  EXPECT_EQ(calibration_chunks(1000, 128), 64);  // short windows share one
  EXPECT_EQ(calibration_chunks(4096, 2048), 4096);
  EXPECT_EQ(calibration_chunks(512, 1024), 256);
  // All windows, each once, on more ranks than there used to be chunks.
  std::int64_t next = 0, most = 0;
  for (int rank = 0; rank < 200; ++rank)
    for (const ChunkRange& chunk : chunks_of_rank(512, 2048, rank, 200)) {
      EXPECT_EQ(chunk.first_sequence, next);
      next += chunk.n_sequences;
      most = std::max(most, chunk.n_sequences);
    }
  EXPECT_EQ(next, 512);
  EXPECT_EQ(most, 1);
}

TEST(Starved, MeansFewerTokensThanAQuarterOfTheInputs) {
  model::SiteSpec site{"expert.0.down", 100, {}, 0};
  EXPECT_TRUE(is_starved(site, 0));
  EXPECT_TRUE(is_starved(site, 24));
  EXPECT_FALSE(is_starved(site, 25));
  site.expert = -1;
  EXPECT_FALSE(is_starved(site, 0));
}

}  // namespace
}  // namespace voronoi::calib
