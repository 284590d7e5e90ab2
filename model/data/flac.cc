#include "model/data/flac.h"

#include <FLAC/stream_decoder.h>

#include <algorithm>
#include <cstring>
#include <memory>

namespace bflow {
namespace {

struct Stream {
  std::string_view rest;
  size_t most = 0;
  bool damaged = false;
  FlacSamples samples;
};

FLAC__StreamDecoderReadStatus Read(const FLAC__StreamDecoder*, FLAC__byte buffer[], size_t* bytes,
                                   void* client) {
  auto& stream = *static_cast<Stream*>(client);
  *bytes = std::min(*bytes, stream.rest.size());
  if (*bytes == 0) return FLAC__STREAM_DECODER_READ_STATUS_END_OF_STREAM;
  std::memcpy(buffer, stream.rest.data(), *bytes);
  stream.rest.remove_prefix(*bytes);
  return FLAC__STREAM_DECODER_READ_STATUS_CONTINUE;
}

FLAC__StreamDecoderWriteStatus Write(const FLAC__StreamDecoder*, const FLAC__Frame* frame,
                                     const FLAC__int32* const buffer[], void* client) {
  auto& stream = *static_cast<Stream*>(client);
  FlacSamples& samples = stream.samples;
  const int channels = static_cast<int>(frame->header.channels);
  const int bits = static_cast<int>(frame->header.bits_per_sample);
  if (samples.channels == 0) {
    samples.channels = channels;
    samples.bits = bits;
  }
  if (samples.channels != channels || samples.bits != bits) {
    stream.damaged = true;
    return FLAC__STREAM_DECODER_WRITE_STATUS_ABORT;
  }
  for (unsigned t = 0; t < frame->header.blocksize; ++t) {
    if (samples.values.size() + static_cast<size_t>(channels) > stream.most) {
      samples.whole = false;
      return FLAC__STREAM_DECODER_WRITE_STATUS_ABORT;
    }
    for (int c = 0; c < channels; ++c) samples.values.push_back(buffer[c][t]);
  }
  return FLAC__STREAM_DECODER_WRITE_STATUS_CONTINUE;
}

void Fault(const FLAC__StreamDecoder*, FLAC__StreamDecoderErrorStatus, void* client) {
  static_cast<Stream*>(client)->damaged = true;
}

}  // namespace

absl::StatusOr<FlacSamples> DecodeFlac(std::string_view bytes, int64_t most) {
  const std::unique_ptr<FLAC__StreamDecoder, decltype(&FLAC__stream_decoder_delete)> decoder(
      FLAC__stream_decoder_new(), FLAC__stream_decoder_delete);
  if (decoder == nullptr) return absl::ResourceExhaustedError("FLAC: not enough memory");
  Stream stream;
  stream.rest = bytes;
  stream.most = static_cast<size_t>(std::max<int64_t>(most, 0));
  // The stream's own MD5 of its samples, where it has one.
  FLAC__stream_decoder_set_md5_checking(decoder.get(), true);
  const bool started = bytes.substr(0, 4) == "fLaC" &&
                       FLAC__stream_decoder_init_stream(
                           decoder.get(), Read, nullptr, nullptr, nullptr, nullptr, Write, nullptr,
                           Fault, &stream) == FLAC__STREAM_DECODER_INIT_STATUS_OK;
  if (!started) return absl::DataLossError("not a FLAC stream");
  const bool ended = FLAC__stream_decoder_process_until_end_of_stream(decoder.get());
  const bool checked = FLAC__stream_decoder_finish(decoder.get());
  if (stream.damaged || (stream.samples.whole && !(ended && checked))) {
    return absl::DataLossError("a damaged FLAC stream");
  }
  return std::move(stream.samples);
}

}  // namespace bflow
