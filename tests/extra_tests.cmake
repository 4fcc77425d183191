add_test(NAME house.include_rule COMMAND ${CMAKE_COMMAND} -DROOT=${PROJECT_SOURCE_DIR} -P ${CMAKE_CURRENT_SOURCE_DIR}/layers.cmake)
set_tests_properties(house.include_rule PROPERTIES LABELS house)

set(emulated_module "")  # not part of a build with sanitizers
if(TARGET voronoi_cuda_emulated)
  set(emulated_module $<TARGET_FILE:voronoi_cuda_emulated>)
endif()

# End to end: the program itself on a real model, under mpirun.
foreach(name determinism resume contention errors evaluate validate score questions status architectures export plan dry_run submit memory generate tune weights page compare rules habits allocate)
  add_test(NAME e2e.${name} COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/e2e/${name}.sh)
  set_tests_properties(e2e.${name} PROPERTIES LABELS e2e TIMEOUT 600 PROCESSORS 2 COST 300 SKIP_RETURN_CODE 77
                       ENVIRONMENT "VORONOI=$<TARGET_FILE:voronoi>;DATA=${VORONOI_TEST_DATA};EMULATED_CUDA=${emulated_module};FAULTY_DISK=$<TARGET_FILE:faulty_disk>")
endforeach()

add_test(NAME e2e.cases COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/e2e/cases.py)
set_tests_properties(e2e.cases PROPERTIES LABELS e2e TIMEOUT 900 SKIP_RETURN_CODE 77
                     ENVIRONMENT "VORONOI=$<TARGET_FILE:voronoi>;DATA=${VORONOI_TEST_DATA}")

# The batch scripts on a real Slurm of four nodes, started and removed by each test (tests/slurm/cluster). They wait for timers of Slurm most
# of the time, so that two run beside others that compute, each in one of two rows of about the same length.
set(slurm_row 0)
foreach(name cut_off node_death requeue compare submit cores node_error)
  # The inner limit lets the script take its cluster down.
  add_test(NAME slurm.${name} COMMAND timeout -k 60 600 ${CMAKE_CURRENT_SOURCE_DIR}/slurm/${name}.sh)
  set_tests_properties(slurm.${name} PROPERTIES LABELS slurm TIMEOUT 700 COST 950 SKIP_RETURN_CODE 77
                       RESOURCE_LOCK slurm_row_${slurm_row}
                       ENVIRONMENT "VORONOI=$<TARGET_FILE:voronoi>;DATA=${VORONOI_TEST_DATA};ROOT=${PROJECT_SOURCE_DIR}")
  math(EXPR slurm_row "(${slurm_row} + 1) % 2")
endforeach()
add_test(NAME slurm.bind_gpu COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/slurm/bind_gpu.sh ${PROJECT_SOURCE_DIR}/slurm/bind_gpu.sh)
add_test(NAME slurm.launch COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/slurm/launch.sh ${PROJECT_SOURCE_DIR}/slurm)
set_tests_properties(slurm.bind_gpu slurm.launch PROPERTIES LABELS slurm TIMEOUT 120)

# README.md and docs: their commands, and the picture, which shows what a table of docs/methods.md has.
add_test(NAME docs.commands COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/docs/commands.py ${PROJECT_SOURCE_DIR})
set_tests_properties(docs.commands PROPERTIES LABELS docs TIMEOUT 600 PROCESSORS 2 ENVIRONMENT "VORONOI=$<TARGET_FILE:voronoi>")
add_test(NAME docs.picture COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/docs/picture.py ${PROJECT_SOURCE_DIR})
set_tests_properties(docs.picture PROPERTIES LABELS docs TIMEOUT 60)

include(${CMAKE_CURRENT_SOURCE_DIR}/package/package_tests.cmake)

# Scripts, formatting, clang-tidy (tests/support/lint).
foreach(name scripts format tidy)
  add_test(NAME house.${name} COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/support/lint ${name} ${PROJECT_BINARY_DIR})
  set_tests_properties(house.${name} PROPERTIES LABELS house TIMEOUT 900 PROCESSORS 2 COST 300 SKIP_RETURN_CODE 77)
endforeach()
# Long ones first, and the unit tests, which are short, last, so that none is left alone at the end.
set_tests_properties(docs.commands e2e.determinism e2e.resume e2e.compare e2e.tune e2e.weights e2e.memory PROPERTIES COST 900)
