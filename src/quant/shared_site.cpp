#include "quant/shared_site.h"

#include <algorithm>
#include <span>

#include "core/error.h"
#include "core/index.h"

namespace voronoi::quant {
namespace {

using core::index;

/// Which of a matrix [n, n] is sent: all of it, its upper triangle where the rest is 0, or the lower one where it
/// mirrors the upper.
enum class Sent { whole, upper, mirrored };

struct Columns {
  std::int64_t begin = 0, end = 0;
};

Columns columns_of(Sent sent, std::int64_t n, std::int64_t row) {
  return {sent == Sent::upper ? row : 0, sent == Sent::mirrored ? row + 1 : n};
}

/// Of plain values.
template <class T>
void share_value(core::Team& team, T& value) {
  team.broadcast(std::as_writable_bytes(std::span(&value, 1)), 0);
}

template <class T>
void share_values(core::Team& team, std::vector<T>& values) {
  auto n = std::ssize(values);
  share_value(team, n);
  values.resize(index(n));
  constexpr std::int64_t kPiece = kSharedPiece / std::int64_t{sizeof(T)};
  for (std::int64_t begin = 0; begin < n; begin += kPiece)
    team.broadcast(std::as_writable_bytes(std::span(values).subspan(index(begin), index(std::min(kPiece, n - begin)))),
                   0);
}

void share_matrix(backend::Context& context, core::Team& team, std::int64_t n, Sent sent, std::int64_t piece_bytes,
                  backend::Array<float>& matrix) {
  bool is_there = !matrix.empty();
  share_value(team, is_there);
  if (!is_there) return;
  const bool gives = team.rank() == 0;
  if (!gives && sent != Sent::mirrored) matrix = backend::Array<float>(context, n * n);
  std::vector<float> lower, piece, rows;  // lower: packed, of a mirrored one
  const std::int64_t most = std::max<std::int64_t>(1, piece_bytes / (n * std::int64_t{sizeof(float)}));
  for (std::int64_t first = 0; first < n; first += most) {
    const std::int64_t count = std::min(most, n - first);
    std::int64_t n_sent = 0;
    for (std::int64_t row = first; row < first + count; ++row) {
      const Columns columns = columns_of(sent, n, row);
      n_sent += columns.end - columns.begin;
    }
    piece.resize(index(n_sent));
    float* next = piece.data();
    if (gives) {
      const backend::HostView<float> view(context, matrix.data() + first * n, count * n);
      for (std::int64_t row = 0; row < count; ++row) {
        const Columns columns = columns_of(sent, n, first + row);
        const float* values = view.values().data() + row * n;
        next = std::copy(values + columns.begin, values + columns.end, next);
      }
    }
    team.broadcast(std::as_writable_bytes(std::span(piece)), 0);
    if (gives) continue;
    if (sent == Sent::mirrored) {
      lower.insert(lower.end(), piece.begin(), piece.end());
      continue;
    }
    rows.assign(index(count * n), 0.0F);
    for (std::int64_t row = 0; row < count; ++row) {
      const Columns columns = columns_of(sent, n, first + row);
      std::copy_n(next, columns.end - columns.begin, rows.data() + row * n + columns.begin);
      next += columns.end - columns.begin;
    }
    context.memory().copy_from_host(context.exec(), rows.data(), count * n * std::int64_t{sizeof(float)},
                                    matrix.data() + first * n);
  }
  if (!gives && sent == Sent::mirrored) matrix = both_triangles(context, n, lower);
}

}  // namespace

void on_first_member(core::Team& team, const std::function<void()>& work) {
  if (team.size() == 1) return work();
  std::vector<char> problem;
  if (team.rank() == 0) try {
      work();
    } catch (const core::NumericError& error) {
      const std::string text = error.what();
      problem.assign(text.begin(), text.end());
      problem.push_back('.');  // never empty
    }
  share_values(team, problem);
  if (!problem.empty()) throw core::NumericError(std::string(problem.begin(), problem.end() - 1));
}

std::string of_first_member(core::Team& team, std::string text) {
  if (team.size() == 1) return text;
  std::vector<char> characters(text.begin(), text.end());
  share_values(team, characters);
  return {characters.begin(), characters.end()};
}

std::vector<float> of_first_member(core::Team& team, std::vector<float> values) {
  if (team.size() > 1) share_values(team, values);
  return values;
}

namespace {

/// Of the rows of one group.
void share_rows(backend::Context& context, core::Team& team, std::int64_t n, std::int64_t piece_bytes,
                PreparedHessian& hessian, TargetMoments& target) {
  struct Numbers {
    std::int64_t unit_exponent = 0, damping_steps = 0, dead_columns = 0;
    double damping = 0, added = 0, guided_share = 0;
  } numbers{hessian.unit_exponent, hessian.damping_steps, hessian.dead_columns,
            hessian.damping,       hessian.added,         hessian.guided_share};
  share_value(team, numbers);
  hessian.n = n;
  hessian.unit_exponent = static_cast<int>(numbers.unit_exponent);
  hessian.damping_steps = static_cast<int>(numbers.damping_steps);
  hessian.dead_columns = numbers.dead_columns;
  hessian.damping = numbers.damping;
  hessian.added = numbers.added;
  hessian.guided_share = numbers.guided_share;
  share_values(team, hessian.perm);
  share_matrix(context, team, n, Sent::mirrored, piece_bytes, hessian.h);
  share_matrix(context, team, n, Sent::upper, piece_bytes, hessian.factor);
  for (backend::Array<float>* held_out : {&hessian.held_out, &target.held_out})
    share_matrix(context, team, n, Sent::mirrored, piece_bytes, *held_out);
  for (backend::Array<float>* cross : {&target.cross, &target.held_out_cross})
    share_matrix(context, team, n, Sent::whole, piece_bytes, *cross);
}

}  // namespace

void share_prepared(backend::Context& context, core::Team& team, std::int64_t n, PreparedSite& site,
                    std::int64_t piece_bytes) {
  if (team.size() == 1) return;
  share_rows(context, team, n, piece_bytes, site.hessian, site.target);
  auto n_later = std::ssize(site.later_groups);
  share_value(team, n_later);
  site.later_groups.resize(index(n_later));
  for (PreparedRows& rows : site.later_groups) {
    share_value(team, rows.first_row);
    share_rows(context, team, n, piece_bytes, rows.hessian, rows.target);
  }
}

double shared_bytes(std::int64_t n, bool held_out, int n_cross) {
  const auto order = static_cast<double>(n);
  return sizeof(float) * ((held_out ? 3 : 2) * order * (order + 1) / 2 + n_cross * order * order);
}

}  // namespace voronoi::quant
