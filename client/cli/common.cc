#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>

#include "absl/strings/str_split.h"
#include "base/exit_code.h"
#include "base/file.h"
#include "base/status.h"
#include "client/cli/commands.h"
#include "client/rpc_status.h"
#include "client/time_text.h"

namespace bflow::client {

void CommonFlags::Add(CLI::App* app) {
  app->add_option("--server", server, "host:port of bflow-server")->capture_default_str();
  app->add_option("--deadline", deadline, "time limit of each call, as 30s or 500ms")
      ->capture_default_str();
  app->add_flag("--json", json, "print one JSON document");
}

absl::StatusOr<ClientOptions> CommonFlags::Options() const {
  ClientOptions options;
  options.server = server;
  BFLOW_ASSIGN_OR_RETURN(options.deadline, ParseDeadline(deadline));
  return options;
}

void InputFlags::Add(CLI::App* app) {
  app->add_option("MODEL", model, "name, name@version or name:label")->required();
  app->add_option(
         "INPUT", inputs,
         "WFDB records (with or without .hea) or .npy files; of images: IDX, CIFAR-10, .npz, "
         ".npy and PNG files, folders of PNG files")
      ->required();
  app->add_option("--signals", signals,
                  "A,B: names of the record's signals, in the order of the model's channels");
  app->add_option("--hop", hop, "frames from one window to the next; the window if not given")
      ->check(WholeNumber());
  app->add_option("--from", from,
                  "only windows from this time into the record: SECONDS or H:MM:SS");
  app->add_option("--to", to, "only windows that end by this time into the record");
}

absl::StatusOr<InputOptions> InputFlags::Options() const {
  InputOptions options;
  if (hop.has_value() && *hop < 1) return absl::InvalidArgumentError("--hop: takes 1 or more");
  options.hop = hop.value_or(0);
  if (!signals.empty()) options.signals = absl::StrSplit(signals, ',');
  if (!from.empty()) {
    BFLOW_ASSIGN_OR_RETURN(options.from_s, ParseOffset(from));
  }
  if (!to.empty()) {
    BFLOW_ASSIGN_OR_RETURN(options.to_s, ParseOffset(to));
  }
  return options;
}

const CLI::Validator& WholeNumber() {
  static const CLI::Validator validator(
      [](std::string& text) {
        const bool digits = !text.empty() && std::all_of(text.begin(), text.end(), [](char c) {
          return c >= '0' && c <= '9';
        });
        return digits ? std::string() : std::string("takes a whole number, 0 or more");
      },
      "");
  return validator;
}

int Fail(const std::string& text, int exit_code) {
  std::fprintf(stderr, "bflow: %s\n", text.c_str());
  return exit_code;
}

int Fail(const absl::Status& status) {
  return Fail(std::string(status.message().data(), status.message().size()),
              ExitCodeForStatus(status));
}

bool CanWrite(const std::string& path) {
  struct stat info;
  if (stat(path.c_str(), &info) == 0) {
    if (S_ISDIR(info.st_mode)) return false;
    if (!S_ISREG(info.st_mode)) return access(path.c_str(), W_OK) == 0;
    const std::unique_ptr<char, decltype(&std::free)> target(realpath(path.c_str(), nullptr),
                                                             std::free);
    return target != nullptr && access(DirName(target.get()).c_str(), W_OK) == 0;
  }
  return access(DirName(path).c_str(), W_OK) == 0;
}

ProgressBar::ProgressBar(const std::string& label, int64_t total)
    : label_(label), total_(total), shown_(isatty(STDERR_FILENO) != 0 && total > 0) {
  Update(0);
}

ProgressBar::~ProgressBar() {
  if (shown_) std::fprintf(stderr, "\r\033[K");
}

void ProgressBar::Update(int64_t done) {
  if (!shown_) return;
  constexpr int64_t kWidth = 32;
  const size_t filled = static_cast<size_t>(std::min(kWidth, done * kWidth / total_));
  const std::string bar = std::string(filled, '#') + std::string(kWidth - filled, '.');
  std::fprintf(stderr, "\r%s [%s] %lld/%lld", label_.c_str(), bar.c_str(),
               static_cast<long long>(done), static_cast<long long>(total_));
}

std::vector<std::string> NormaliseArguments(int argc, char** argv) {
  std::vector<std::string> out;
  bool flags = true;
  for (int i = 1; i < argc; ++i) {
    std::string argument = argv[i];
    if (argument == "--") flags = false;
    if (flags && argument.rfind("--", 0) == 0) {
      const size_t end = std::min(argument.find('='), argument.size());
      std::replace(argument.begin() + 2, argument.begin() + static_cast<std::ptrdiff_t>(end), '_',
                   '-');
    }
    out.push_back(std::move(argument));
  }
  return out;
}

}  // namespace bflow::client
