#include "model/mended_source.h"

#include <cmath>

#include "model/weight_data.h"

namespace voronoi::model {

void MendedSource::read(const TensorSpec& spec, std::span<float> out) const {
  try {
    original_.read(spec, out);
  } catch (const BadValues& bad) {
    Damage damage{0, bad.what()};
    for (float& value : out) {
      if (std::fabs(value) <= kMaxWeight) continue;
      value = 0;
      ++damage.n_values;
    }
    const std::lock_guard lock(mutex_);
    damage_[spec.name] = std::move(damage);
  }
}

std::map<std::string, MendedSource::Damage> MendedSource::damage() const {
  const std::lock_guard lock(mutex_);
  return damage_;
}

}  // namespace voronoi::model
