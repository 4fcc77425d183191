// What a program computes on, for people: in journals and reports.
#pragma once

#include "backend/device.h"
#include "comm/mpi.h"
#include "core/json.h"

namespace voronoi::backend {

/// `device`; `threads` of a rank; `hosts`: host -> ranks; `processors`, `gpus` and `drivers`: the different ones, the
/// last two where the device is a GPU. Collective; the same on every rank.
core::Json machine_facts(const Context& context, const comm::Communicator& world);

}  // namespace voronoi::backend
