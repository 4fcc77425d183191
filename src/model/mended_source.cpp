#include "model/mended_source.h"

#include <cmath>

#include "model/weight_data.h"

namespace voronoi::model {

void MendedSource::mend(const TensorSpec& spec, std::int64_t first_row, const BadValues& bad,
                        std::span<float> out) const {
  Damage damage{0, bad.what()};
  for (float& value : out) {
    if (std::fabs(value) <= kMaxWeight) continue;
    value = 0;
    ++damage.n_values;
  }
  const std::lock_guard lock(mutex_);
  damage_[spec.name][first_row] = std::move(damage);
}

void MendedSource::read(const TensorSpec& spec, std::span<float> out) const {
  try {
    original_.read(spec, out);
  } catch (const BadValues& bad) {
    mend(spec, 0, bad, out);
  }
}

bool MendedSource::read_rows(const TensorSpec& spec, std::int64_t first_row, std::span<float> out) const {
  try {
    return original_.read_rows(spec, first_row, out);
  } catch (const BadValues& bad) {
    mend(spec, first_row, bad, out);
    return true;
  }
}

std::map<std::string, MendedSource::Damage> MendedSource::damage() const {
  const std::lock_guard lock(mutex_);
  std::map<std::string, Damage> damage;
  for (const auto& [tensor, parts] : damage_) {
    Damage& all = damage[tensor];
    all.error = parts.begin()->second.error;
    for (const auto& [row, part] : parts) all.n_values += part.n_values;
  }
  return damage;
}

}  // namespace voronoi::model
