add_test(NAME house.include_rule COMMAND ${CMAKE_COMMAND} -DROOT=${PROJECT_SOURCE_DIR} -P ${CMAKE_CURRENT_SOURCE_DIR}/layers.cmake)
set_tests_properties(house.include_rule PROPERTIES LABELS house)
