# Own imported targets for LibTorch: find_package(Torch) with a CUDA wheel fails without a CUDA
# toolkit and drags libtorch_cuda into every target. The wheel is located without importing it,
# because the slim set of wheels that ./dev setup installs cannot be imported from Python.
if(NOT BFLOW_TORCH_ROOT)
  find_package(Python3 COMPONENTS Interpreter REQUIRED)
  execute_process(
    COMMAND ${Python3_EXECUTABLE} -c
            "import importlib.util as u; print(u.find_spec('torch').submodule_search_locations[0])"
    OUTPUT_VARIABLE _root OUTPUT_STRIP_TRAILING_WHITESPACE RESULT_VARIABLE _rc ERROR_QUIET)
  if(NOT _rc EQUAL 0)
    message(FATAL_ERROR "no torch package for ${Python3_EXECUTABLE}: run ./dev setup, or set "
                        "BFLOW_TORCH_ROOT to the folder of an installed torch")
  endif()
  set(BFLOW_TORCH_ROOT "${_root}" CACHE PATH "torch package folder")
endif()
file(STRINGS "${BFLOW_TORCH_ROOT}/version.py" _version REGEX "^__version__")
string(REGEX REPLACE ".*'([^']+)'.*" "\\1" BFLOW_TORCH_VERSION "${_version}")
message(STATUS "torch ${BFLOW_TORCH_VERSION} in ${BFLOW_TORCH_ROOT}")

foreach(l c10 torch_cpu)
  add_library(bflow::_${l} SHARED IMPORTED GLOBAL)
  set_target_properties(bflow::_${l} PROPERTIES IMPORTED_LOCATION "${BFLOW_TORCH_ROOT}/lib/lib${l}.so")
endforeach()
# The wheel's include folder also holds google/protobuf, fmt and pybind11, which would shadow the
# system's: expose torch's own folders only.
set(_inc "${CMAKE_BINARY_DIR}/torch_include")
file(MAKE_DIRECTORY "${_inc}")
foreach(d ATen c10 torch caffe2 torchgen)
  file(CREATE_LINK "${BFLOW_TORCH_ROOT}/include/${d}" "${_inc}/${d}" SYMBOLIC)
endforeach()
add_library(bflow_torch INTERFACE)
target_include_directories(bflow_torch SYSTEM INTERFACE "${_inc}" "${_inc}/torch/csrc/api/include")
target_compile_definitions(bflow_torch INTERFACE AT_PER_OPERATOR_HEADERS)
target_link_libraries(bflow_torch INTERFACE bflow::_torch_cpu bflow::_c10)  # libtorch.so needs CUDA
file(GLOB _nv LIST_DIRECTORIES true "${BFLOW_TORCH_ROOT}/../nvidia/*/lib")
list(TRANSFORM _nv PREPEND "LINKER:-rpath-link,")
target_link_options(bflow_torch INTERFACE LINKER:--allow-shlib-undefined ${_nv})
if(BFLOW_CUDA)
  foreach(l c10_cuda torch_cuda)
    add_library(bflow::_${l} SHARED IMPORTED GLOBAL)
    set_target_properties(bflow::_${l} PROPERTIES IMPORTED_LOCATION "${BFLOW_TORCH_ROOT}/lib/lib${l}.so")
  endforeach()
  add_library(bflow_torch_cuda INTERFACE)
  # torch_cuda registers itself when it is loaded: nothing refers to it, so the linker must be told.
  target_link_libraries(bflow_torch_cuda INTERFACE bflow_torch bflow::_c10_cuda
    "-Wl,--push-state,--no-as-needed" bflow::_torch_cuda "-Wl,--pop-state" CUDA::cudart)
endif()
