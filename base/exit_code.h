// Exit codes of every program of this project (sysexits.h where it has the meaning).
#ifndef BFLOW_BASE_EXIT_CODE_H_
#define BFLOW_BASE_EXIT_CODE_H_

#include <cstdio>

namespace bflow {

enum ExitCode : int {
  kExitOk = 0,
  kExitPartial = 1,         // some rows or records failed; they are listed
  kExitUsage = 64,          // wrong command line
  kExitBadInput = 65,       // input data cannot be used
  kExitUnavailable = 69,    // system not supported or server unreachable
  kExitInternal = 70,       // a defect of ours
  kExitOs = 71,             // the operating system refused (port in use, thread)
  kExitCannotWrite = 73,    // output cannot be created
  kExitTemporary = 75,      // device lost or interrupted state that a rerun resumes
  kExitConfiguration = 78,  // configuration
  kExitInterrupted = 130,   // Ctrl-C; state is kept
  kExitForced = 143,        // second SIGTERM
};

// The last words of a program: `exit_code`, or kExitCannotWrite and a line on stderr if what was
// printed did not reach standard output.
inline int ExitAfterOutput(int exit_code, const char* program) {
  if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return exit_code;
  std::fprintf(stderr, "%s: standard output: cannot be written\n", program);
  return kExitCannotWrite;
}

}  // namespace bflow

#endif  // BFLOW_BASE_EXIT_CODE_H_
