// A codebook laid out for searches on tensor cores (search.cuh), made anew by every call that searches.
#pragma once

#include <bit>
#include <cstdint>

#include "kernels/cuda/native.h"

namespace voronoi::kernels::gpu {

inline constexpr int kGroupCentroids = 128;  ///< the unit of which a search keeps the lowest score
inline constexpr int kPairCentroids = 16;    ///< two tiles of 8 columns of a product
inline constexpr int kGroupPairs = kGroupCentroids / kPairCentroids;
inline constexpr int kMaxStepCount = 4;        ///< vectors of at most 32 components
inline constexpr int kMaxGroups = 1 << 12;     ///< a group's number takes up to 12 bits of a score's fraction
inline constexpr float kAbsentHalf = 3.0e38F;  ///< half norm of the centroids that fill up the last group
inline constexpr float kLargestScore = 1.0e38F;

// Steps of 8 components (the depth of one product), of which there are 1, 2 or 4.
__host__ __device__ constexpr int step_count(std::int64_t dim) { return dim <= 8 ? 1 : dim <= 16 ? 2 : kMaxStepCount; }
/// How |c|^2 / 2 of a pair's columns 2t, 2t + 1, those of lane t of a quad, stand behind its B operands: `compact` as
/// the four of both tiles; `ready` twice, tile after tile, which is the C operand itself and serves many products as it
/// is.
enum class Halves { compact, ready };
/// Floats of a pair's fragments: for each step the 128 values of its two B operands, lane by lane, then the halves.
__host__ __device__ constexpr int pair_floats(int steps, Halves halves) {
  return steps * 128 + (halves == Halves::ready ? 32 : 16);
}
__host__ __device__ constexpr int group_floats(int steps, Halves halves) {
  return kGroupPairs * pair_floats(steps, halves);
}
/// Floats of a centroid's exact row: components, zeros up to whole steps, |c|^2 / 2, the same over the tail's
/// components only, two of padding.
__host__ __device__ constexpr int row_floats(int steps) { return steps * 8 + 4; }

/// One codebook, in device memory.
struct Book {
  int dim = 0, k = 0, n_groups = 0, id_bits = 0;
  int steps = 0;  ///< components are filled up to 8 steps, at least step_count(dim)
  Halves halves = Halves::compact;
  const float* fragments = nullptr;  ///< [n_groups, group_floats], components rounded to tf32
  const float* rows = nullptr;       ///< [k, row_floats], fp32
  const float* largest = nullptr;    ///< the largest |c|, rounded up
};

/// Codebooks of one shape, searched by the work queued while this lives.
class Books {
 public:
  /// centroids [n_books, k, dim] in device memory; tail: components of the vector past which rows end (0: none).
  Books(Native& native, std::int64_t n_books, std::int64_t dim, std::int64_t k, const float* centroids, int steps,
        Halves halves, std::int64_t tail);
  const Book& first() const { return first_; }

 private:
  Scratch<float> fragments_, rows_;
  Scratch<int> largest_;
  Book first_;
};

/// Book `index` of several that follow each other.
__host__ __device__ inline Book book_at(Book book, std::int64_t index) {
  book.fragments += index * book.n_groups * group_floats(book.steps, book.halves);
  book.rows += index * book.k * row_floats(book.steps);
  book.largest += index;
  return book;
}

}  // namespace voronoi::kernels::gpu
