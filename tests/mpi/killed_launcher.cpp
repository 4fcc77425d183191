// Not a test by itself: ranks that would go on for a minute. killed_launcher.sh kills mpirun and checks that they end.
#include <unistd.h>

#include <fstream>
#include <thread>

#include "comm/mpi.h"

int main(int argc, char** argv) {
  using namespace voronoi;
  const comm::Environment environment(&argc, &argv);
  const auto world = comm::Communicator::world();
  std::ofstream(std::string(argv[1]) + "/" + std::to_string(world.rank())) << ::getpid() << std::endl;
  std::this_thread::sleep_for(std::chrono::minutes(1));
  return 0;
}
