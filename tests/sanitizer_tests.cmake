# The tests under sanitizers. Presets asan and tsan build them (clang); in other builds the tests below build those presets and run each
# program whole. Threads and ranks meet in core, comm, sched and store.
add_custom_target(threaded_tests DEPENDS test_core test_store test_sched comm_test scheduler_test)
