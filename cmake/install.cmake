# `cmake --install`: headers, static libraries, and a package for find_package(headgate). Its target headgate::headgate is the whole
# core except Parquet, whose Arrow C++ comes from the pyarrow wheel (docs/decisions/0002).
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(modules base json hash resilience net ledger store schema checkpoint curl sqlite redis file s3)
list(TRANSFORM modules PREPEND headgate_ OUTPUT_VARIABLE targets)
add_library(headgate INTERFACE)
target_link_libraries(headgate INTERFACE ${targets})
add_library(headgate::headgate ALIAS headgate)

install(TARGETS headgate ${targets} EXPORT headgate ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(DIRECTORY ${PROJECT_SOURCE_DIR}/cpp/include/headgate DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
set(package ${CMAKE_INSTALL_LIBDIR}/cmake/headgate)
install(EXPORT headgate NAMESPACE headgate:: FILE headgate-targets.cmake DESTINATION ${package})
configure_package_config_file(${PROJECT_SOURCE_DIR}/cmake/headgate-config.cmake.in
                              ${PROJECT_BINARY_DIR}/headgate-config.cmake INSTALL_DESTINATION ${package})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/headgate-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/headgate-config.cmake ${PROJECT_BINARY_DIR}/headgate-config-version.cmake
        DESTINATION ${package})
