// Where the products of a convolution or a matrix product lie.
#pragma once
#include <napi.h>

#include <cstdint>

namespace halftone {

/** One sample's layer, three spatial axes (those missing are 1). */
struct Layer {
  int64_t channels = 0, outputs = 0, group = 1;  // input channels and output channels of the whole layer
  int64_t in[3] = {1, 1, 1}, kernel[3] = {1, 1, 1}, stride[3] = {1, 1, 1}, padBegin[3] = {0, 0, 0}, dilation[3] = {1, 1, 1}, out[3] = {1, 1, 1};
  uint8_t zeroPoint = 0;
  bool matmul = false;
  int64_t Positions() const { return out[0] * out[1] * out[2]; }
  int64_t PairedLength() const { return channels / group * kernel[0] * kernel[1] * kernel[2]; }
};

/** Numbers of index.ts' `packGeometry`, in its order. */
inline Layer ReadLayer(const Napi::Value& value) {
  auto array = value.As<Napi::Float64Array>();
  const double* v = array.Data();
  Layer layer;
  layer.matmul = v[0] != 0;
  layer.channels = static_cast<int64_t>(v[1]);
  layer.outputs = static_cast<int64_t>(v[2]);
  layer.group = static_cast<int64_t>(v[3]);
  layer.zeroPoint = static_cast<uint8_t>(v[4]);
  for (int d = 0; d < 3; d++) {
    const double* axis = v + 5 + 6 * d;
    layer.in[d] = static_cast<int64_t>(axis[0]);
    layer.kernel[d] = static_cast<int64_t>(axis[1]);
    layer.stride[d] = static_cast<int64_t>(axis[2]);
    layer.padBegin[d] = static_cast<int64_t>(axis[3]);
    layer.dilation[d] = static_cast<int64_t>(axis[4]);
    layer.out[d] = static_cast<int64_t>(axis[5]);
  }
  return layer;
}

}  // namespace halftone
