#include "tests/model/data/image_test_util.h"

#include <unistd.h>
#include <zlib.h>

#include <cstdlib>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "gmock/gmock.h"

namespace bflow {
namespace {

constexpr int64_t kMostFixtureBytes = 1 << 20;

std::string Little(uint32_t value, int bytes) {
  std::string text;
  for (int i = 0; i < bytes; ++i) text += static_cast<char>(value >> (8 * i) & 0xFF);
  return text;
}

uint32_t Crc(const std::string& content) {
  return static_cast<uint32_t>(
      crc32(0, reinterpret_cast<const Bytef*>(content.data()), static_cast<uInt>(content.size())));
}

std::string Deflate(const std::string& content, int window_bits) {
  z_stream stream = {};
  EXPECT_EQ(deflateInit2(&stream, 9, Z_DEFLATED, window_bits, 9, Z_DEFAULT_STRATEGY), Z_OK);
  std::string out(deflateBound(&stream, content.size()) + 64, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(content.data()));
  stream.avail_in = static_cast<uInt>(content.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  EXPECT_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

}  // namespace

std::string ImageFixture(const std::string& name) {
  const auto content = ReadFile(kImageFolder + name, kMostFixtureBytes);
  EXPECT_TRUE(content.ok()) << content.status();
  return content.value_or("");
}

void ExpectImageError(const absl::Status& status, absl::StatusCode code,
                      const std::vector<std::string>& parts) {
  EXPECT_EQ(status.code(), code) << status;
  for (const std::string& part : parts) {
    EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr(part));
  }
}

ImageFolderTest::ImageFolderTest() {
  std::string pattern = ::testing::TempDir() + "/bflow_images_XXXXXX";
  folder_ = mkdtemp(pattern.data());
}

ImageFolderTest::~ImageFolderTest() {
  const auto names = ListDirectory(folder_);
  for (const std::string& name : *names) unlink(JoinPath(folder_, name).c_str());
  rmdir(folder_.c_str());
}

std::string ImageFolderTest::Write(const std::string& name, const std::string& content) {
  const std::string path = JoinPath(folder_, name);
  std::ofstream file(path, std::ios::binary);
  file << content;
  EXPECT_TRUE(file.good());
  return path;
}

std::string Gzip(const std::string& content) { return Deflate(content, 15 + 16); }
std::string Zlib(const std::string& content) { return Deflate(content, 15); }
std::string RawDeflate(const std::string& content) { return Deflate(content, -15); }

ZipMember::ZipMember(std::string n, std::string c)
    : name(std::move(n)),
      data(std::move(c)),
      crc(Crc(data)),
      size(static_cast<uint32_t>(data.size())) {}

ZipMember DeflatedMember(const std::string& name, const std::string& content) {
  ZipMember member(name, content);
  member.method = 8;
  member.data = RawDeflate(content);
  return member;
}

std::string Zip(const std::vector<ZipMember>& members) {
  std::string archive, directory;
  for (const ZipMember& m : members) {
    const std::string shared = Little(20, 2) + Little(static_cast<uint32_t>(m.flags), 2) +
                               Little(static_cast<uint32_t>(m.method), 2) + Little(0x00210000, 4) +
                               Little(m.crc, 4) + Little(static_cast<uint32_t>(m.data.size()), 4) +
                               Little(m.size, 4) + Little(static_cast<uint32_t>(m.name.size()), 2) +
                               Little(0, 2);
    directory += "PK\x01\x02" + Little(20, 2) + shared + std::string(10, '\0') +
                 Little(static_cast<uint32_t>(archive.size()), 4) + m.name;
    archive += "PK\x03\x04" + shared + m.name + m.data;
  }
  const auto count = static_cast<uint32_t>(members.size());
  const auto start = static_cast<uint32_t>(archive.size());
  return archive + directory + "PK\x05\x06" + Little(0, 4) + Little(count, 2) + Little(count, 2) +
         Little(static_cast<uint32_t>(directory.size()), 4) + Little(start, 4) + Little(0, 2);
}

std::string NpyFile(const std::string& descr, const std::string& shape, const std::string& data) {
  const std::string header =
      absl::StrCat("{'descr': '", descr, "', 'fortran_order': False, 'shape': ", shape, ", }\n");
  return std::string("\x93NUMPY\x01\0", 8) + Little(static_cast<uint32_t>(header.size()), 2) +
         header + data;
}

std::string Big32(uint32_t value) {
  const std::string little = Little(value, 4);
  return {little.rbegin(), little.rend()};
}

std::string PngChunk(const std::string& kind, const std::string& data) {
  return Big32(static_cast<uint32_t>(data.size())) + kind + data + Big32(Crc(kind + data));
}

std::string PngStart(uint32_t width, uint32_t height, int bits, int colour, int interlaced) {
  std::string header = Big32(width) + Big32(height);
  for (int v : {bits, colour, 0, 0, interlaced}) header += static_cast<char>(v);
  return "\x89PNG\r\n\x1a\n" + PngChunk("IHDR", header);
}

}  // namespace bflow
