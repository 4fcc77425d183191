// A site that one member of a team prepares for all: its Hessian is read, judged and factored once.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "backend/tensor.h"
#include "core/team.h"
#include "quant/site.h"

namespace voronoi::quant {

/// Work of member 0 alone, while the others wait: a NumericError of it is thrown on every member. Collective; anything
/// else that it throws is member 0's, which leaves the team with it.
void on_first_member(core::Team& team, const std::function<void()>& work);

/// What member 0 has, on every member; collective. In pieces of at most kSharedPiece bytes.
std::string of_first_member(core::Team& team, std::string text);
std::vector<float> of_first_member(core::Team& team, std::vector<float> values);
inline constexpr std::int64_t kSharedPiece = std::int64_t{64} << 20;

/// Of a prepared site all but its state, likewise; `n`: its inputs. Of matrices that mirror their halves, or have but
/// one, a half is sent: every number is member 0's own. piece_bytes: of whole rows, one at least.
void share_prepared(backend::Context& context, core::Team& team, std::int64_t n, PreparedSite& site,
                    std::int64_t piece_bytes = kSharedPiece);

/// What each other member receives by it for the rows of a group, of n inputs: h and factor, and where there are the
/// held-out moment and the cross moments of one or two kinds of tokens.
double shared_bytes(std::int64_t n, bool held_out, int n_cross);

}  // namespace voronoi::quant
