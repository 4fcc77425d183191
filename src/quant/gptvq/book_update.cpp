#include "quant/gptvq/book_update.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "backend/device.h"
#include "core/index.h"
#include "core/types.h"
#include "core/work_counts.h"

namespace voronoi::quant {

using core::index;

namespace {

using Values = std::vector<double>;

// Rows whose products with the Hessian are made at once, unless a group has more.
constexpr std::int64_t kBundleRows = 512;
// A step that lowers a group's loss by less than this share of it is its last.
constexpr double kLeastStepGain = 1e-4;
constexpr int kMostSteps = 50;

// The published rule.
constexpr int kAdamSteps = 25;
constexpr double kAdamRate = 1e-3, kLeastAdamRate = 1e-9, kBeta1 = 0.9, kBeta2 = 0.999, kEpsilon = 1e-8;

/// Neighbouring row groups of a member, which solve for their own centroids side by side.
class GroupBundle {
 public:
  GroupBundle(core::ThreadPool& pool, const QuantInput& input, std::span<const float> hessian, GptvqCodes& codes,
              std::int64_t first, std::int64_t end)
      : pool_(pool),
        input_(input),
        hessian_(hessian),
        codes_(codes),
        e_(codes.extents),
        first_(first),
        n_groups_(end - first),
        first_row_(first * e_.group_rows),
        rows_(std::min(codes.groups.rows, end * e_.group_rows) - first_row_),
        difference_(index(rows_ * e_.in_features)),
        product_(difference_.size()),
        start_(stored_unknowns()) {
    for (std::int64_t g = 0; g < n_groups_; ++g)
      kept_.push_back(codes_.keep(codes_.book(first_ + g, 0), codes_.book(first_ + g + 1, 0)));
  }

  void run(bool published, UpdateFigures& figures) {
    const Values before = losses_of(decoded());
    std::vector<Values> fitted = published ? descend(before, figures) : conjugate_gradients(before, figures);
    for (std::int64_t g = 0; g < n_groups_; ++g) store(g, fitted[index(g)]);
    Values after = losses_of(decoded());
    for (std::int64_t g = 0; g < n_groups_ && !published; ++g)
      if (!(after[index(g)] < before[index(g)])) {
        codes_.restore(codes_.book(first_ + g, 0), kept_[index(g)]);
        after[index(g)] = before[index(g)];
      }
    figures.before.insert(figures.before.end(), before.begin(), before.end());
    figures.after.insert(figures.after.end(), after.begin(), after.end());
  }

 private:
  std::int64_t unknowns() const { return e_.strips() * e_.stored_size(codes_.rank()); }  ///< of a group
  std::int64_t values() const { return e_.strips() * e_.book_size(); }                   ///< of its codebooks
  std::int64_t row_begin(std::int64_t g) const { return g * e_.group_rows; }
  std::int64_t row_end(std::int64_t g) const { return std::min(rows_, (g + 1) * e_.group_rows); }

  /// visit(place among the values of the group's codebooks, natural column, block scale) for all weights of a row, by
  /// stored column.
  template <class Visit>
  void visit_row(std::int64_t row, std::int64_t first_vector, std::int64_t end_vector, const Visit& visit) const {
    const std::int64_t d = e_.vector_columns, member_row = first_row_ + row;
    const std::uint16_t* indices = codes_.indices.data() + member_row * e_.vectors();
    const std::int32_t* perm = input_.hessian->perm.data();
    for (std::int64_t j = first_vector; j < end_vector; ++j) {
      const std::int64_t strip = j * d / e_.group_columns;
      const std::int64_t place = strip * e_.book_size() + indices[j] * d;
      const float scale = codes_.scale(member_row, j * d);
      for (std::int64_t i = 0; i < d; ++i) visit(place + i, perm[j * d + i], scale);
    }
  }

  /// Codebooks of unknowns: themselves, or what the basis makes of factors.
  std::vector<Values> books_of(const std::vector<Values>& unknown) const {
    const std::size_t rank = index(codes_.rank()), k = index(e_.centroids);
    if (rank == 0) return unknown;
    std::vector<Values> books;
    for (const Values& factors : unknown) {
      Values& book = books.emplace_back(index(values()), 0.0);
      for (std::size_t i = 0; i < factors.size(); ++i)
        for (std::size_t c = 0; c < k; ++c)
          book[i / rank * k + c] += factors[i] * static_cast<double>(codes_.basis_values[i % rank * k + c]);
    }
    return books;
  }
  /// Derivatives by unknowns of those by the values of codebooks; squared: of curvatures, the basis squared.
  std::vector<Values> by_unknown(std::vector<Values> by_value, bool squared) const {
    const std::size_t rank = index(codes_.rank()), k = index(e_.centroids);
    if (rank == 0) return by_value;
    std::vector<Values> sums;
    for (const Values& values : by_value) {
      Values& sum = sums.emplace_back(index(unknowns()), 0.0);
      for (std::size_t i = 0; i < sum.size(); ++i)
        for (std::size_t c = 0; c < k; ++c) {
          const auto factor = static_cast<double>(codes_.basis_values[i % rank * k + c]);
          sum[i] += values[i / rank * k + c] * (squared ? factor * factor : factor);
        }
    }
    return sums;
  }

  /// difference_ = what codebooks [groups, values] are decoded to; with the weight: the weight less that.
  void expand(const std::vector<Values>& books, bool from_weight) {
    pool_.parallel_for(rows_, [&](std::int64_t row) {
      const Values& values = books[index(row / e_.group_rows)];
      float* target = difference_.data() + row * e_.in_features;
      const float* weight = input_.weight.data() + (codes_.groups.row_begin + first_row_ + row) * e_.in_features;
      visit_row(row, 0, e_.vectors(), [&](std::int64_t place, std::int32_t column, float scale) {
        const float value = static_cast<float>(values[index(place)]) * scale;
        target[column] = from_weight ? weight[column] - value : value;
      });
    });
  }
  void multiply() {
    const std::int64_t n = e_.in_features;
    core::count_product(rows_, n, n);
    kernels::cpu().linalg.gemm_f32({&pool_, nullptr}, false, false, rows_, n, n, 1.0F, difference_.data(), n,
                                   hessian_.data(), n, 0.0F, product_.data(), n);
  }
  /// sum of difference_ * product_ over the rows of each group.
  Values losses() {
    Values sums(index(n_groups_), 0.0), by_row(index(rows_));
    pool_.parallel_for(rows_, [&](std::int64_t row) {
      const float *a = difference_.data() + row * e_.in_features, *b = product_.data() + row * e_.in_features;
      double sum = 0;
      for (std::int64_t c = 0; c < e_.in_features; ++c) sum += static_cast<double>(a[c]) * static_cast<double>(b[c]);
      by_row[index(row)] = sum;
    });
    for (std::int64_t row = 0; row < rows_; ++row) sums[index(row / e_.group_rows)] += by_row[index(row)];
    return sums;
  }
  /// of(book) of a group's books one behind the other, for each group.
  template <class Of>
  std::vector<Values> by_group(const Of& of) const {
    std::vector<Values> all(index(n_groups_));
    for (std::int64_t g = 0; g < n_groups_; ++g)
      for (std::int64_t strip = 0; strip < e_.strips(); ++strip) {
        const auto values = of(codes_.book(first_ + g, strip));
        all[index(g)].insert(all[index(g)].end(), values.begin(), values.end());
      }
    return all;
  }
  /// What the codebooks hold, by group [strips, k, d].
  std::vector<Values> decoded() const {
    return by_group([&](std::int64_t book) { return codes_.values(book); });
  }
  std::vector<Values> stored_unknowns() const {
    return by_group([&](std::int64_t book) { return codes_.stored_values(book); });
  }
  Values losses_of(const std::vector<Values>& books) {
    expand(books, true);
    multiply();
    return losses();
  }
  /// What product_ gives to each unknown; diagonal: the same of the Hessian's diagonal, for the unknowns' own
  /// curvature.
  std::vector<Values> collect(bool diagonal) {
    std::vector<Values> sums(index(n_groups_), Values(index(values()), 0.0));
    const std::int64_t strips = e_.strips(), strip_vectors = e_.group_columns / e_.vector_columns, n = e_.in_features;
    pool_.parallel_for(n_groups_ * strips, [&](std::int64_t task) {
      const std::int64_t g = task / strips, first = task % strips * strip_vectors;
      Values& sum = sums[index(g)];
      for (std::int64_t row = row_begin(g); row < row_end(g); ++row)
        visit_row(row, first, std::min(e_.vectors(), first + strip_vectors),
                  [&](std::int64_t place, std::int32_t column, float scale) {
                    const float value =
                        diagonal ? hessian_[index(column * (n + 1))] * scale : product_[index(row * n + column)];
                    sum[index(place)] += static_cast<double>(value) * static_cast<double>(scale);
                  });
    });
    return by_unknown(std::move(sums), diagonal);
  }

  /// By conjugate gradients with the diagonal as preconditioner, each group for itself.
  std::vector<Values> conjugate_gradients(const Values& losses_before, UpdateFigures& figures) {
    struct Group {
      Values change, rest, inverse, direction, conditioned;
      double loss = 0, before = 0;
      bool done = false;
    };
    const std::size_t n = index(unknowns());
    std::vector<Group> groups(index(n_groups_));
    std::vector<Values> rest = collect(false), diagonal = collect(true);
    for (std::size_t g = 0; g < groups.size(); ++g) {
      groups[g] = {
          Values(n, 0.0), std::move(rest[g]), std::move(diagonal[g]), Values(n, 0.0), Values(n), losses_before[g], 0,
          false};
      // A centroid that nothing depends on stays as it is.
      for (double& value : groups[g].inverse) value = value > 0 ? 1 / value : 0;
    }
    std::vector<Values> directions(groups.size());
    for (int step = 0; step < kMostSteps; ++step) {
      bool done = true;
      for (std::size_t g = 0; g < groups.size(); ++g) {
        Group& group = groups[g];
        directions[g].assign(n, 0.0);
        if (group.done) continue;
        for (std::size_t i = 0; i < n; ++i) group.conditioned[i] = group.rest[i] * group.inverse[i];
        const double now = std::inner_product(group.rest.begin(), group.rest.end(), group.conditioned.begin(), 0.0);
        group.done = !(now > 0) || !std::isfinite(now);
        if (group.done) continue;
        done = false;
        ++figures.steps;
        const double beta = step == 0 ? 0.0 : now / group.before;
        for (std::size_t i = 0; i < n; ++i) group.direction[i] = group.conditioned[i] + beta * group.direction[i];
        group.before = now;
        directions[g] = group.direction;
      }
      if (done) break;
      expand(books_of(directions), false);
      multiply();
      const std::vector<Values> curved = collect(false);
      for (std::size_t g = 0; g < groups.size(); ++g) {
        Group& group = groups[g];
        if (group.done) continue;
        const double curvature =
            std::inner_product(group.direction.begin(), group.direction.end(), curved[g].begin(), 0.0);
        group.done = !(curvature > 0) || !std::isfinite(curvature);
        if (group.done) continue;
        const double length = group.before / curvature;
        for (std::size_t i = 0; i < n; ++i) {
          group.change[i] += length * group.direction[i];
          group.rest[i] -= length * curved[g][i];
        }
        const double gain = length * group.before;
        group.loss -= gain;
        group.done = gain < kLeastStepGain * group.loss;
      }
    }
    std::vector<Values> fitted = start_;
    for (std::size_t g = 0; g < groups.size(); ++g)
      for (std::size_t i = 0; i < n; ++i) fitted[g][i] += groups[g].change[i];
    return fitted;
  }

  /// The published rule; each group for itself.
  std::vector<Values> descend(const Values& losses_before, UpdateFigures& figures) {
    struct Group {
      Values first, second;
      double rate = kAdamRate;
      int step = 0;
    };
    const std::size_t n = index(unknowns());
    std::vector<Group> groups(index(n_groups_), {Values(n, 0.0), Values(n, 0.0)});
    std::vector<Values> at = start_;
    for (;;) {
      if (std::all_of(groups.begin(), groups.end(), [](const Group& group) { return group.step == kAdamSteps; })) break;
      const Values losses_now = losses_of(books_of(at));
      const std::vector<Values> slope = collect(false);
      for (std::size_t g = 0; g < groups.size(); ++g) {
        Group& group = groups[g];
        if (group.step == kAdamSteps) continue;
        ++figures.steps;
        if (!(losses_now[g] <= losses_before[g])) {
          group = {Values(n, 0.0), Values(n, 0.0), group.rate / 10, 0};
          at[g] = start_[g];
          if (group.rate < kLeastAdamRate) group.step = kAdamSteps;
          continue;
        }
        ++group.step;
        const double share1 = 1 - std::pow(kBeta1, group.step), share2 = 1 - std::pow(kBeta2, group.step);
        for (std::size_t i = 0; i < n; ++i) {
          const double gradient = -2 * slope[g][i];
          group.first[i] = kBeta1 * group.first[i] + (1 - kBeta1) * gradient;
          group.second[i] = kBeta2 * group.second[i] + (1 - kBeta2) * gradient * gradient;
          at[g][i] -= group.rate * group.first[i] / share1 / (std::sqrt(group.second[i] / share2) + kEpsilon);
        }
      }
    }
    return at;
  }

  void store(std::int64_t g, const Values& fitted) {
    const std::vector<float> values(fitted.begin(), fitted.end());
    const std::size_t size = index(e_.stored_size(codes_.rank()));
    for (std::int64_t strip = 0; strip < e_.strips(); ++strip) {
      const auto book = std::span(values).subspan(index(strip) * size, size);
      if (std::all_of(book.begin(), book.end(), [](float value) { return std::isfinite(value); }))
        codes_.store(codes_.book(first_ + g, strip), book);
    }
  }

  core::ThreadPool& pool_;
  const QuantInput& input_;
  std::span<const float> hessian_;
  GptvqCodes& codes_;
  const format::GptvqExtents& e_;
  std::int64_t first_, n_groups_, first_row_, rows_;
  std::vector<float> difference_, product_;  // [rows, in], natural columns
  std::vector<Values> start_;                // stored_unknowns() at the start
  std::vector<GptvqCodes::Books> kept_;      // likewise, as they are stored
};

}  // namespace

UpdateFigures update_books(core::ThreadPool& pool, const QuantInput& input, std::span<const float> hessian,
                           bool published, GptvqCodes& codes) {
  UpdateFigures figures;
  const std::int64_t groups_a_bundle = std::max<std::int64_t>(1, kBundleRows / codes.extents.group_rows);
  for (std::int64_t first = 0; first < codes.groups.count; first += groups_a_bundle)
    GroupBundle(pool, input, hessian, codes, first, std::min(codes.groups.count, first + groups_a_bundle))
        .run(published, figures);
  return figures;
}

}  // namespace voronoi::quant
