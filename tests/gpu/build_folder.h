// Where the build lies that a test program is part of.
#ifndef BFLOW_TESTS_GPU_BUILD_FOLDER_H_
#define BFLOW_TESTS_GPU_BUILD_FOLDER_H_

#include <filesystem>
#include <string>

namespace bflow {

// From the running file, BUILD/tests/NAME: a build that was carried to another machine finds
// itself.
inline std::string BuildFolder() {
  return std::filesystem::read_symlink("/proc/self/exe").parent_path().parent_path().string();
}

}  // namespace bflow

#endif  // BFLOW_TESTS_GPU_BUILD_FOLDER_H_
