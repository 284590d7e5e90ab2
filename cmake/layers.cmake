# The one place that makes a library. Each library names its LAYER; BFLOW_LAYER_<layer> lists the
# layers it may use directly (its own always). Third-party packages carry a label in the same table,
# so a dependency that is not listed is a configure error. cmake/check_includes.py reads this file
# and applies the same table to every #include.
set(BFLOW_LAYERS base proto checkpoint data ops layers flow scorer_api scoring training metrics engine
                 registry config rpc client app)

set(BFLOW_LAYER_base       spdlog openssl)
set(BFLOW_LAYER_proto      grpc)
set(BFLOW_LAYER_checkpoint base)
set(BFLOW_LAYER_data       base checkpoint flac libpng libzip zlib)
set(BFLOW_LAYER_ops        base torch)
set(BFLOW_LAYER_layers     base checkpoint ops torch)
set(BFLOW_LAYER_flow       base checkpoint ops layers torch)
set(BFLOW_LAYER_scorer_api base)
set(BFLOW_LAYER_scoring    base checkpoint data ops layers flow scorer_api torch)
set(BFLOW_LAYER_training   base checkpoint data ops layers flow scorer_api scoring torch)
set(BFLOW_LAYER_metrics    base prometheus)
set(BFLOW_LAYER_engine     base scorer_api metrics)
set(BFLOW_LAYER_registry   base scorer_api metrics engine checkpoint)
set(BFLOW_LAYER_config     base proto grpc)
set(BFLOW_LAYER_rpc        base scorer_api engine registry metrics config proto grpc)
set(BFLOW_LAYER_client     base checkpoint data proto grpc cli11)
set(BFLOW_LAYER_app        base proto checkpoint data ops layers flow scorer_api scoring training metrics
                           engine registry config rpc client
                           torch grpc prometheus civetweb cli11 spdlog openssl)

set_property(TARGET gRPC::grpc++ gRPC::grpc++_reflection protobuf::libprotobuf PROPERTY BFLOW_LAYER grpc)
set_property(TARGET prometheus-cpp::core PROPERTY BFLOW_LAYER prometheus)
set_property(TARGET spdlog::spdlog PROPERTY BFLOW_LAYER spdlog)
set_property(TARGET OpenSSL::Crypto PROPERTY BFLOW_LAYER openssl)
set_property(TARGET CLI11::CLI11 PROPERTY BFLOW_LAYER cli11)
set_property(TARGET bflow_civetweb PROPERTY BFLOW_LAYER civetweb)
set_property(TARGET bflow_flac PROPERTY BFLOW_LAYER flac)
set_property(TARGET PNG::PNG PROPERTY BFLOW_LAYER libpng)
set_property(TARGET bflow_libzip PROPERTY BFLOW_LAYER libzip)
set_property(TARGET ZLIB::ZLIB PROPERTY BFLOW_LAYER zlib)
foreach(t bflow_torch bflow_torch_cuda)
  if(TARGET ${t})
    set_property(TARGET ${t} PROPERTY BFLOW_LAYER torch)
  endif()
endforeach()

# Refuses a dependency of NAME (layer LAYER) that the table does not allow.
function(bflow_check_layer name layer)
  if(NOT DEFINED BFLOW_LAYER_${layer} AND NOT layer STREQUAL "base")
    message(FATAL_ERROR "${name}: unknown LAYER '${layer}'; see cmake/layers.cmake")
  endif()
  foreach(dep IN LISTS ARGN)
    if(dep MATCHES "^(absl|nlohmann_json|Threads)::")  # free for all
      continue()
    endif()
    get_target_property(dep_layer ${dep} BFLOW_LAYER)
    if(NOT dep_layer STREQUAL layer AND NOT dep_layer IN_LIST BFLOW_LAYER_${layer})
      message(FATAL_ERROR "${name} (layer ${layer}) may not depend on ${dep} (layer ${dep_layer})")
    endif()
  endforeach()
endfunction()

# bflow_library(bflow_ops LAYER ops [KIND OBJECT] SRCS a.cc ... DEPS x y)
function(bflow_library name)
  cmake_parse_arguments(PARSE_ARGV 1 A "" "LAYER;KIND" "SRCS;DEPS")
  bflow_check_layer(${name} "${A_LAYER}" ${A_DEPS})
  if(A_KIND STREQUAL "INTERFACE")
    add_library(${name} INTERFACE)
    target_include_directories(${name} INTERFACE ${PROJECT_SOURCE_DIR})
    target_link_libraries(${name} INTERFACE ${A_DEPS} bflow_warnings)
  else()
    add_library(${name} ${A_KIND} ${A_SRCS})
    target_include_directories(${name} PUBLIC ${PROJECT_SOURCE_DIR})
    target_link_libraries(${name} PUBLIC ${A_DEPS} bflow_warnings)
  endif()
  set_property(TARGET ${name} PROPERTY BFLOW_LAYER ${A_LAYER})
endfunction()

# bflow_program(bflow-server SRCS main.cc DEPS ...): layer app. A program or test that runs operators names
# bflow_ops itself: the objects that register them reach direct dependents only.
function(bflow_program name)
  cmake_parse_arguments(PARSE_ARGV 1 A "" "" "SRCS;DEPS")
  bflow_check_layer(${name} app ${A_DEPS})
  add_executable(${name} ${A_SRCS})
  target_link_libraries(${name} PRIVATE ${A_DEPS} bflow_warnings)
endfunction()

# The tests labelled tsan: those that the thread sanitizer runs, where neither LibTorch nor a gRPC server is at work.
add_custom_target(bflow_tsan_tests)

# bflow_test(base_test SRCS ... DEPS ... [LABELS ...] [DATA dir]): one GoogleTest program, one CTest
# entry per test case; the working directory is the source root so that tests name their data by
# a path relative to it. Tests run side by side: OpenMP's idle threads must not spin on the cores of the others.
function(bflow_test name)
  cmake_parse_arguments(PARSE_ARGV 1 A "" "" "SRCS;DEPS;LABELS")
  add_executable(${name} ${A_SRCS})
  target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR})
  target_link_libraries(${name} PRIVATE ${A_DEPS} bflow_warnings GTest::gtest GTest::gmock GTest::gtest_main)
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  gtest_discover_tests(${name} WORKING_DIRECTORY ${PROJECT_SOURCE_DIR} DISCOVERY_TIMEOUT 60
                       PROPERTIES TIMEOUT 300 ENVIRONMENT OMP_WAIT_POLICY=passive LABELS "${A_LABELS}")
  if("tsan" IN_LIST A_LABELS)
    add_dependencies(bflow_tsan_tests ${name})
  endif()
endfunction()
