# A turn through all places of the harness, most of it waiting for mpirun; more by hand: tests/faults/crash --rounds N --seed S.
add_test(NAME faults.crash COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/faults/crash --voronoi $<TARGET_FILE:voronoi> --disk $<TARGET_FILE:faulty_disk>
         --data ${VORONOI_TEST_DATA})
set_tests_properties(faults.crash PROPERTIES LABELS faults TIMEOUT 1500 COST 940)
add_test(NAME faults.crash_tuning COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/faults/crash --tuning --voronoi $<TARGET_FILE:voronoi>
         --disk $<TARGET_FILE:faulty_disk> --data ${VORONOI_TEST_DATA})
set_tests_properties(faults.crash_tuning PROPERTIES LABELS faults TIMEOUT 400 COST 60)
