// What the tests of images share.
#ifndef BFLOW_TESTS_MODEL_DATA_IMAGE_TEST_UTIL_H_
#define BFLOW_TESTS_MODEL_DATA_IMAGE_TEST_UTIL_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "gtest/gtest.h"

namespace bflow {

inline const std::string kImageFolder = "tests/model/data/images/";

// A file of tests/model/data/images.
std::string ImageFixture(const std::string& name);

// `status` has this code and each of `parts` in its message.
void ExpectImageError(const absl::Status& status, absl::StatusCode code,
                      const std::vector<std::string>& parts);

// A folder of its own for each test.
class ImageFolderTest : public ::testing::Test {
 protected:
  ImageFolderTest();
  ~ImageFolderTest() override;
  // The path of a new file.
  std::string Write(const std::string& name, const std::string& content);

  std::string folder_;
};

// Deflated, with the header of gzip, that of zlib, none.
std::string Gzip(const std::string& content);
std::string Zlib(const std::string& content);
std::string RawDeflate(const std::string& content);

// A member of a zip archive; the fields other than the first two are what the headers claim.
struct ZipMember {
  ZipMember(std::string n, std::string c);  // stored
  std::string name;
  std::string data;
  int method = 0;
  int flags = 0;
  uint32_t crc = 0;
  uint32_t size = 0;
};
ZipMember DeflatedMember(const std::string& name, const std::string& content);
std::string Zip(const std::vector<ZipMember>& members);

// A .npy file of version 1.0.
std::string NpyFile(const std::string& descr, const std::string& shape, const std::string& data);

// Big-endian.
std::string Big32(uint32_t value);
// A chunk of a PNG file with the right checksum; the signature and an IHDR.
std::string PngChunk(const std::string& kind, const std::string& data);
std::string PngStart(uint32_t width, uint32_t height, int bits, int colour, int interlaced = 0);

}  // namespace bflow

#endif  // BFLOW_TESTS_MODEL_DATA_IMAGE_TEST_UTIL_H_
