# The tests under sanitizers. Presets asan and tsan build them (clang); in other builds the tests below build those presets and run each
# program whole: all unit tests under the address and undefined-behaviour sanitizers, and those of the rooms where threads and ranks meet
# under the thread sanitizer.
set(threaded_rooms core store sched)
add_custom_target(threaded_tests DEPENDS test_core test_store test_sched comm_test scheduler_test)
if(VORONOI_SANITIZE)
  return()
endif()
set(sanitized ${CMAKE_CURRENT_SOURCE_DIR}/support/sanitized)
# Compiling shares the machine with tests that mostly wait (Slurm, killed runs), so these begin first.
add_test(NAME asan.build COMMAND ${sanitized} build asan unit_tests fuzz)
add_test(NAME tsan.build COMMAND ${sanitized} build tsan threaded_tests)
set_tests_properties(asan.build PROPERTIES FIXTURES_SETUP asan PROCESSORS 2 COST 1000)
set_tests_properties(tsan.build PROPERTIES FIXTURES_SETUP tsan PROCESSORS 2 COST 930)
set(names asan.build tsan.build)
get_property(rooms GLOBAL PROPERTY voronoi_tested_rooms)
# Left out under the address sanitizer, where a test's length or speed is its point: the code runs there in smaller tests of the same room,
# and the plain build runs them all. Whole sets of questions would take a quarter of an hour, the others half of their room's time.
set(left_out_validation QaGolden.*)
# Long texts through a model (TinyRandom.* takes every architecture), time that may not be quadratic, whole vocabularies read in two forms
# (each form is read in tests of its own).
set(left_out_model Stories260K.GreedyStoryIsExact Stories260K.PerplexityOfWikiTextMatches Tokenizer.LongWordsAreNotQuadratic
                   Tokenizer.GgufVocabulariesAsHuggingFaceFilesGiveTheSameIds)
# Clusters of a thousand ranks; smaller ones are simulated too.
set(left_out_sched ChooseWidths.NeverMakesAPhaseLongerThanOneRankATask SimulatedCluster.TenThousandTasksOverAThousandRanksStayNearTheBound
                   Coordinator.AThousandRanksStayWithinTheBoundOfListScheduling)
# Settings for every width of model and bits; the rest of their file looks for a few.
set(left_out_quant Setting.KeepsToTheWantedBitsAndTheFormat)
foreach(room IN LISTS rooms)
  list(JOIN left_out_${room} ":" left_out)
  add_test(NAME asan.${room} COMMAND ${sanitized} run ${PROJECT_SOURCE_DIR}/build/asan/tests/test_${room} --gtest_brief=1
           "--gtest_filter=-${left_out}")
  set_tests_properties(asan.${room} PROPERTIES FIXTURES_REQUIRED asan PROCESSORS 2 COST 920)
  list(APPEND names asan.${room})
endforeach()
foreach(room IN LISTS threaded_rooms)
  add_test(NAME tsan.${room} COMMAND ${sanitized} run ${PROJECT_SOURCE_DIR}/build/tsan/tests/test_${room} --gtest_brief=1)
  set_tests_properties(tsan.${room} PROPERTIES FIXTURES_REQUIRED tsan PROCESSORS 2 COST 920)
  list(APPEND names tsan.${room})
endforeach()
foreach(name comm_test scheduler_test)
  add_test(NAME tsan.${name} COMMAND ${sanitized} run ${CMAKE_CURRENT_SOURCE_DIR}/mpi/run_ranks 3 300
           ${PROJECT_SOURCE_DIR}/build/tsan/tests/${name})
  set_tests_properties(tsan.${name} PROPERTIES FIXTURES_REQUIRED tsan PROCESSORS 2)
  list(APPEND names tsan.${name})
endforeach()
set_tests_properties(${names} PROPERTIES LABELS sanitized TIMEOUT 1800 SKIP_RETURN_CODE 77 ENVIRONMENT VORONOI_TEST_DATA=${VORONOI_TEST_DATA})
