# Faults in the numbers: bad weights, activations that overflow, whole runs on damaged models.
voronoi_add_mpi_test(left_out_rows_test RANKS 1 2 3 LIBRARIES voronoi_calib GTest::gmock)

add_test(NAME faults.numeric COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/faults/numeric.sh)
set_tests_properties(faults.numeric PROPERTIES LABELS "e2e;faults" TIMEOUT 600 PROCESSORS 2 COST 300 SKIP_RETURN_CODE 77
                     ENVIRONMENT "VORONOI=$<TARGET_FILE:voronoi>;DATA=${VORONOI_TEST_DATA}")
