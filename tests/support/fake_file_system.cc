#include "tests/support/fake_file_system.h"

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <random>
#include <sstream>
#include <utility>

#include "base/errno_status.h"
#include "base/file.h"
#include "base/status.h"

namespace bflow {
namespace {

std::string Slurp(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

}  // namespace

// Appends to the real file and to the account.
class FakeNewFile final : public NewFile {
 public:
  FakeNewFile(FakeFileSystem* files, std::string path, size_t node, std::unique_ptr<NewFile> real)
      : files_(files), path_(std::move(path)), node_(node), real_(std::move(real)) {}

  absl::Status Append(std::string_view content) override {
    const absl::Status failed = files_->Next(FakeFileSystem::Kind::kSpace, path_);
    if (!failed.ok()) {
      const bool full = failed.code() == absl::StatusCode::kResourceExhausted;
      if (full) BFLOW_RETURN_IF_ERROR(Keep(content.substr(0, content.size() / 2)));
      return failed;
    }
    return Keep(content);
  }
  absl::Status Sync() override {
    BFLOW_RETURN_IF_ERROR(files_->Next(FakeFileSystem::Kind::kFlush, path_));
    FakeFileSystem::Node& node = files_->nodes_[node_];
    node.flushed = node.content;
    return absl::OkStatus();
  }
  absl::Status Close() override {
    BFLOW_RETURN_IF_ERROR(files_->Next(FakeFileSystem::Kind::kFlush, path_));
    return real_->Close();
  }

 private:
  absl::Status Keep(std::string_view content) {
    files_->nodes_[node_].content.append(content);
    return real_->Append(content);
  }

  FakeFileSystem* files_;
  std::string path_;
  size_t node_;
  std::unique_ptr<NewFile> real_;
};

FakeFileSystem::FakeFileSystem(const std::string& root) : root_(root) {
  for (const auto& entry : std::filesystem::recursive_directory_iterator(root)) {
    Node& node = nodes_.emplace_back();
    node.folder = entry.is_directory();
    if (!node.folder) node.content = node.flushed = Slurp(entry.path().string());
    now_[entry.path().string()] = nodes_.size() - 1;
  }
  flushed_ = now_;
}

void FakeFileSystem::FailFrom(int64_t first, DiskFault fault, int64_t last) {
  first_ = first;
  last_ = last;
  fault_ = fault;
}

absl::Status FakeFileSystem::Next(Kind kind, const std::string& path) {
  ++operations_;
  if (operations_ < first_ || operations_ > last_) return absl::OkStatus();
  int error = 0;
  switch (fault_) {
    case DiskFault::kFull:
      if (kind == Kind::kSpace) error = ENOSPC;
      break;
    case DiskFault::kIo:
      if (kind == Kind::kFlush) error = EIO;
      break;
    case DiskFault::kReadOnly:
      error = EROFS;
      break;
    case DiskFault::kPower:
      error = EIO;
      break;
  }
  if (error == 0) return absl::OkStatus();
  ++failed_;
  return ErrnoStatus("fake", path, error);
}

absl::StatusOr<std::unique_ptr<NewFile>> FakeFileSystem::Create(const std::string& path, int mode) {
  BFLOW_RETURN_IF_ERROR(Next(Kind::kSpace, path));
  BFLOW_ASSIGN_OR_RETURN(std::unique_ptr<NewFile> real, Real()->Create(path, mode));
  if (!now_.contains(path)) {
    nodes_.emplace_back();
    Set(path, nodes_.size() - 1);
  }
  const size_t node = now_.at(path);
  nodes_[node].content.clear();
  return std::make_unique<FakeNewFile>(this, path, node, std::move(real));
}

absl::Status FakeFileSystem::Rename(const std::string& from, const std::string& to) {
  BFLOW_RETURN_IF_ERROR(Next(Kind::kSpace, to));
  BFLOW_RETURN_IF_ERROR(Real()->Rename(from, to));
  Set(to, now_.at(from));
  Set(from, std::nullopt);
  return absl::OkStatus();
}

absl::Status FakeFileSystem::SyncFolder(const std::string& path) {
  BFLOW_RETURN_IF_ERROR(Next(Kind::kFlush, path));
  const auto in_folder = [&](const auto& entry) { return DirName(entry.first) == path; };
  std::erase_if(flushed_, in_folder);
  std::erase_if(since_, in_folder);
  for (const auto& [name, node] : now_) {
    if (DirName(name) == path) flushed_[name] = node;
  }
  return absl::OkStatus();
}

absl::Status FakeFileSystem::MakeFolder(const std::string& path, int mode) {
  BFLOW_RETURN_IF_ERROR(Next(Kind::kSpace, path));
  BFLOW_RETURN_IF_ERROR(Real()->MakeFolder(path, mode));
  if (!now_.contains(path)) {
    nodes_.emplace_back().folder = true;
    Set(path, nodes_.size() - 1);
  }
  return absl::OkStatus();
}

absl::Status FakeFileSystem::RemoveFile(const std::string& path) {
  BFLOW_RETURN_IF_ERROR(Next(Kind::kOther, path));
  BFLOW_RETURN_IF_ERROR(Real()->RemoveFile(path));
  Set(path, std::nullopt);
  return absl::OkStatus();
}

absl::Status FakeFileSystem::RemoveFolder(const std::string& path) {
  BFLOW_RETURN_IF_ERROR(Next(Kind::kOther, path));
  BFLOW_RETURN_IF_ERROR(Real()->RemoveFolder(path));
  Set(path, std::nullopt);
  return absl::OkStatus();
}

void FakeFileSystem::Set(const std::string& path, std::optional<size_t> node) {
  since_[path].push_back(node);
  if (node) {
    now_[path] = *node;
  } else {
    now_.erase(path);
  }
}

void FakeFileSystem::Image(const std::string& to, Unflushed unflushed, uint64_t seed) const {
  std::mt19937_64 generator(seed);
  const auto keeps = [&](Unflushed kept) {
    return unflushed == Unflushed::kKept || unflushed == kept ||
           (unflushed == Unflushed::kMixed && generator() % 2 == 0);
  };
  std::map<std::string, size_t> names = flushed_;
  for (const auto& [path, meanings] : since_) {
    if (!keeps(Unflushed::kNamesOnly)) continue;
    const bool mixed = unflushed == Unflushed::kMixed;
    const auto& meant = mixed ? meanings[generator() % meanings.size()] : meanings.back();
    names.erase(path);
    if (meant) names[path] = *meant;
  }
  std::filesystem::create_directories(to);
  for (const auto& [path, index] : names) {  // a folder comes before what is in it
    const std::string target = to + path.substr(root_.size());
    if (!IsDirectory(DirName(target))) continue;  // lost with its folder
    const Node& node = nodes_[index];
    if (node.folder) {
      std::filesystem::create_directory(target);
    } else {
      std::ofstream(target, std::ios::binary)
          << (keeps(Unflushed::kContentsOnly) ? node.content : node.flushed);
    }
  }
}

}  // namespace bflow
