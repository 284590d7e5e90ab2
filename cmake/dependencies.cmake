# Every third-party package, its floor, and the layer label that cmake/layers.cmake checks.
find_package(Threads REQUIRED)
find_package(Protobuf CONFIG QUIET)  # before gRPC; Debian ships no protobuf-config.cmake
if(NOT Protobuf_FOUND)
  find_package(Protobuf 3.21 REQUIRED)
endif()
find_package(absl CONFIG REQUIRED)
find_package(gRPC 1.51 CONFIG REQUIRED)
find_package(prometheus-cpp CONFIG REQUIRED)  # Debian ships no version file; 1.0 is the floor
find_package(spdlog 1.10 CONFIG REQUIRED)
find_package(OpenSSL REQUIRED)
find_package(nlohmann_json 3.11 CONFIG REQUIRED)
find_package(CLI11 2.1 CONFIG REQUIRED)

# HTTP/2 parser defects fixed by this release reach a server before any handler runs.
set(BFLOW_GRPC_FIXED_VERSION 1.60.0)
if(gRPC_VERSION VERSION_LESS BFLOW_GRPC_FIXED_VERSION)
  message(STATUS "gRPC ${gRPC_VERSION} is older than ${BFLOW_GRPC_FIXED_VERSION}: keep the server on "
                 "loopback or behind a proxy (docs/architecture.md)")
endif()

if(NOT TARGET prometheus-cpp::core)
  message(FATAL_ERROR "prometheus-cpp::core not found")
endif()
find_library(BFLOW_CIVETWEB_CPP civetweb-cpp REQUIRED)
find_library(BFLOW_CIVETWEB civetweb REQUIRED)
add_library(bflow_civetweb INTERFACE)
target_link_libraries(bflow_civetweb INTERFACE ${BFLOW_CIVETWEB_CPP} ${BFLOW_CIVETWEB})

find_library(BFLOW_FLAC FLAC REQUIRED)
add_library(bflow_flac INTERFACE)
target_link_libraries(bflow_flac INTERFACE ${BFLOW_FLAC})

find_package(ZLIB 1.2 REQUIRED)
find_package(PNG 1.6 REQUIRED)
# Debian's libzip-config.cmake wants the command-line tools, which are in another package.
find_library(BFLOW_LIBZIP zip REQUIRED)
add_library(bflow_libzip INTERFACE)
target_link_libraries(bflow_libzip INTERFACE ${BFLOW_LIBZIP})

if(BFLOW_TESTS)
  find_package(GTest 1.12 CONFIG REQUIRED)
  include(GoogleTest)
endif()
if(BFLOW_BENCH)
  find_package(benchmark 1.7 CONFIG REQUIRED)
endif()
if(BFLOW_TORCH)
  include(cmake/BflowTorch.cmake)
endif()
