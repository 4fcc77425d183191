# What a failing disk does to runs; each script says what.
foreach(name full_disk read_only io_errors lost_pages bit_flips journal_cuts)
  add_test(NAME faults.${name} COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/faults/${name}.sh)
  set_tests_properties(faults.${name} PROPERTIES LABELS faults TIMEOUT 900 PROCESSORS 2 COST 300 SKIP_RETURN_CODE 77
                       ENVIRONMENT "VORONOI=$<TARGET_FILE:voronoi>;DATA=${VORONOI_TEST_DATA};FAULTY_DISK=$<TARGET_FILE:faulty_disk>")
endforeach()
