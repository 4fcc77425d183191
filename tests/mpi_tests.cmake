voronoi_add_mpi_test(comm_test RANKS 1 2 3 LIBRARIES voronoi_comm)
voronoi_add_mpi_test(scheduler_test RANKS 1 2 3 LIBRARIES voronoi_sched)
voronoi_add_mpi_test(calibration_test RANKS 1 2 3 LIBRARIES voronoi_calib)
voronoi_add_mpi_test(calibration_mixture_test RANKS 1 2 3 LIBRARIES voronoi_calib)
voronoi_add_mpi_test(rank_sums_test RANKS 1 2 3 16 LIBRARIES voronoi_calib)
voronoi_add_mpi_test(gradient_sum_test RANKS 1 2 3 LIBRARIES voronoi_tune)
voronoi_add_mpi_test(distillation_test RANKS 1 2 LIBRARIES voronoi_tune)
voronoi_add_mpi_test(likelihood_test RANKS 1 2 3 LIBRARIES voronoi_validation)
voronoi_add_mpi_test(evaluation_test RANKS 1 2 LIBRARIES voronoi_validation)

# As many ranks as a node has, far more than cores.
add_test(NAME mpi.scheduler_test.16 COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/mpi/run_ranks 16 300 $<TARGET_FILE:scheduler_test>
         --gtest_filter=*TenThousand*:*EveryRank*:*Stop*:*EventsCome*)
set_tests_properties(mpi.scheduler_test.16 PROPERTIES TIMEOUT 330 LABELS mpi PROCESSORS 2)

foreach(name comm_test scheduler_test)
  add_test(NAME mpi.${name}.defaults COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/mpi/run_ranks 3 300 $<TARGET_FILE:${name}>)
  set_tests_properties(mpi.${name}.defaults PROPERTIES TIMEOUT 330 LABELS mpi PROCESSORS 2 ENVIRONMENT VORONOI_MPI_DEFAULTS=1)
endforeach()

# Started without mpirun, a program is a world of one rank.
add_test(NAME mpi.scheduler_test.singleton COMMAND scheduler_test)
set_tests_properties(mpi.scheduler_test.singleton PROPERTIES TIMEOUT 60 LABELS mpi PROCESSORS 2)

add_executable(killed_rank mpi/killed_rank.cpp)
target_link_libraries(killed_rank PRIVATE voronoi_sched voronoi_options)
add_test(NAME mpi.killed_rank COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/mpi/killed_rank.sh ${CMAKE_CURRENT_SOURCE_DIR}/mpi/run_ranks
         $<TARGET_FILE:killed_rank>)
set_tests_properties(mpi.killed_rank PROPERTIES TIMEOUT 60 LABELS mpi PROCESSORS 2)

add_executable(killed_launcher mpi/killed_launcher.cpp)
target_link_libraries(killed_launcher PRIVATE voronoi_comm voronoi_options)
add_test(NAME mpi.killed_launcher COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/mpi/killed_launcher.sh $<TARGET_FILE:killed_launcher>)
set_tests_properties(mpi.killed_launcher PROPERTIES TIMEOUT 90 LABELS mpi)
