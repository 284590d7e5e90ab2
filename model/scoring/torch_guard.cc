#include "model/scoring/torch_guard.h"

#include <cstring>
#include <exception>
#include <new>
#include <string>

#include "ATen/Parallel.h"
#include "absl/strings/str_cat.h"
#include "c10/util/Exception.h"

namespace bflow {
namespace {

absl::Status OutOfMemory(const std::string& operation) {
  return absl::ResourceExhaustedError(
      absl::StrCat(operation, ": out of memory; send fewer rows per call"));
}

// The CPU allocator reports exhaustion as a plain c10::Error; its name in the text is the only
// mark.
bool IsAllocatorError(const c10::Error& error) {
  return std::strstr(error.what_without_backtrace(), "DefaultCPUAllocator") != nullptr;
}

}  // namespace

absl::Status GuardTorch(std::string_view operation, absl::FunctionRef<absl::Status()> body) {
  const std::string name(operation);
  try {
    return body();
  } catch (const std::bad_alloc&) {
    return OutOfMemory(name);
  } catch (const c10::OutOfMemoryError&) {
    return OutOfMemory(name);
  } catch (const c10::Error& error) {
    if (IsAllocatorError(error)) return OutOfMemory(name);
    return absl::InternalError(absl::StrCat(name, ": error of the tensor library"));
  } catch (const std::exception&) {
    return absl::InternalError(absl::StrCat(name, ": standard library exception"));
  } catch (...) {
    return absl::InternalError(absl::StrCat(name, ": exception of unknown type"));
  }
}

void UseSingleThreadedTorch() {
  at::set_num_threads(1);
  // The number between operators can be set once per process: a second call throws, and changes
  // nothing.
  if (at::get_num_interop_threads() != 1) {
    GuardTorch("set_num_interop_threads", [] {
      at::set_num_interop_threads(1);
      return absl::OkStatus();
    }).IgnoreError();
  }
}

}  // namespace bflow
