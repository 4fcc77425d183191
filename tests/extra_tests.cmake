add_test(NAME house.include_rule COMMAND ${CMAKE_COMMAND} -DROOT=${PROJECT_SOURCE_DIR} -P ${CMAKE_CURRENT_SOURCE_DIR}/layers.cmake)
set_tests_properties(house.include_rule PROPERTIES LABELS house)

# End to end: the program itself on a real model, under mpirun.
foreach(name determinism resume errors evaluate plan)
  add_test(NAME e2e.${name} COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/e2e/${name}.sh)
  set_tests_properties(e2e.${name} PROPERTIES LABELS e2e TIMEOUT 600 PROCESSORS 2 SKIP_RETURN_CODE 77
                       ENVIRONMENT "VORONOI=$<TARGET_FILE:voronoi>;DATA=${VORONOI_TEST_DATA}")
endforeach()
