// Pairs of products that saturate in 16 bits where a processor multiplies u8 by s8 without VNNI (vpmaddubsw): k ordered (kernel
// row, kernel column, input channel of the group), pairs (2i, 2i+1), padding = the input's zero point, k padded to even.
//
// Both products of a saturating pair have the weights' common sign, for one alone is at most 255·128 = 32640. So a pair of
// weights can only saturate when the signs are equal and |b0| + |b1| ≥ 129 (255·128 fits, 255·129 does not). That leaves a few
// per cent of the pairs, and of those the ones that the greatest activations of their two positions can lift over the limit.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <memory>

#include "geometry.h"
#include "register.h"
#include "simd.h"

namespace halftone {
namespace {

/** The codes that position k of the paired order meets, one an output position. Returns the greatest. */
int GatherColumn(const Layer& layer, const uint8_t* x, int64_t group, int64_t k, uint16_t* column) {
  const int64_t perGroup = layer.channels / layer.group;
  if (layer.matmul) {
    int most = 0;
    for (int64_t m = 0; m < layer.out[2]; m++) {
      column[m] = x[m * layer.channels + k];
      most = std::max<int>(most, column[m]);
    }
    return most;
  }
  const int64_t channel = group * perGroup + k % perGroup, tap = k / perGroup;
  const int64_t offset[3] = {tap / (layer.kernel[1] * layer.kernel[2]) * layer.dilation[0] - layer.padBegin[0],
                             tap / layer.kernel[2] % layer.kernel[1] * layer.dilation[1] - layer.padBegin[1],
                             tap % layer.kernel[2] * layer.dilation[2] - layer.padBegin[2]};
  const uint8_t* plane = x + channel * layer.in[0] * layer.in[1] * layer.in[2];
  int most = 0;
  for (int64_t a = 0; a < layer.out[0]; a++) {
    const int64_t i0 = a * layer.stride[0] + offset[0];
    for (int64_t b = 0; b < layer.out[1]; b++) {
      const int64_t i1 = b * layer.stride[1] + offset[1];
      const bool inside = i0 >= 0 && i0 < layer.in[0] && i1 >= 0 && i1 < layer.in[1];
      const uint8_t* row = plane + (i0 * layer.in[1] + i1) * layer.in[2];
      for (int64_t c = 0; c < layer.out[2]; c++) {
        const int64_t i2 = c * layer.stride[2] + offset[2];
        const uint16_t code = inside && i2 >= 0 && i2 < layer.in[2] ? row[i2] : layer.zeroPoint;
        *column++ = code;
        most = std::max<int>(most, code);
      }
    }
  }
  return most;
}

/** How many positions saturate: a0·|b0| + a1·|b1| is at most 2·255·128 = 65280, so it fits in 16 unsigned bits. */
inline __attribute__((always_inline)) uint64_t CountColumns(const uint16_t* a0, const uint16_t* a1, size_t n, uint16_t b0, uint16_t b1, uint16_t limit) {
  uint64_t total = 0;
  for (size_t start = 0; start < n;) {
    const size_t end = std::min(n, start + 32768);  // so that 16-bit counters cannot overflow
    uint16_t count = 0;
    for (size_t i = start; i < end; i++) count = static_cast<uint16_t>(count + (static_cast<uint16_t>(a0[i] * b0 + a1[i] * b1) > limit));
    total += count;
    start = end;
  }
  return total;
}
uint64_t CountScalar(const uint16_t* a0, const uint16_t* a1, size_t n, uint16_t b0, uint16_t b1, uint16_t limit) { return CountColumns(a0, a1, n, b0, b1, limit); }
#if HALFTONE_X86
HALFTONE_AVX2 uint64_t CountAvx2(const uint16_t* a0, const uint16_t* a1, size_t n, uint16_t b0, uint16_t b1, uint16_t limit) {
  return CountColumns(a0, a1, n, b0, b1, limit);
}
#endif

/** Weight of output `o` (within its group's outputs) at position k of the paired order. */
int WeightAt(const Layer& layer, const int8_t* w, int64_t o, int64_t k) {
  if (layer.matmul) return w[k * layer.outputs + o];
  const int64_t perGroup = layer.channels / layer.group, taps = layer.kernel[0] * layer.kernel[1] * layer.kernel[2];
  return w[(o * perGroup + k % perGroup) * taps + k / perGroup];
}

void CountSaturatingPairs(const Layer& layer, const uint8_t* x, const int8_t* w, double* counts) {
  // The runtime's depthwise kernel widens to 16 bits before it multiplies: it never saturates.
  if (!layer.matmul && layer.group > 1 && layer.group == layer.channels && layer.group == layer.outputs) return;
  const int64_t positions = layer.Positions(), length = layer.PairedLength(), perGroup = layer.outputs / layer.group;
  if (positions == 0) return;
  auto count = CountScalar;
#if HALFTONE_X86
  if (SimdLevel() == Simd::kAvx2) count = CountAvx2;
#endif
  std::vector<uint16_t> even(positions), odd(positions);
  struct Candidate {
    int64_t output;
    int b0, b1;
  };
  std::vector<Candidate> candidates;
  for (int64_t g = 0; g < layer.group; g++)
    for (int64_t k = 0; k + 1 < length; k += 2) {  // a last one without a partner meets a zero
      candidates.clear();
      for (int64_t o = g * perGroup; o < (g + 1) * perGroup; o++) {
        const int b0 = WeightAt(layer, w, o, k), b1 = WeightAt(layer, w, o, k + 1);
        if ((b0 < 0) == (b1 < 0) && std::abs(b0 + b1) >= 129) candidates.push_back({o, b0, b1});
      }
      if (candidates.empty()) continue;
      const int most0 = GatherColumn(layer, x, g, k, even.data()), most1 = GatherColumn(layer, x, g, k + 1, odd.data());
      for (const Candidate& c : candidates) {
        const uint16_t limit = c.b0 < 0 ? 32768 : 32767;
        if (most0 * std::abs(c.b0) + most1 * std::abs(c.b1) <= limit) continue;
        counts[c.output] += static_cast<double>(count(even.data(), odd.data(), static_cast<size_t>(positions), static_cast<uint16_t>(std::abs(c.b0)),
                                                      static_cast<uint16_t>(std::abs(c.b1)), limit));
      }
    }
}

/** (x, w, geometry, counts) */
Napi::Value CountSaturation(const Napi::CallbackInfo& info) {
  const uint8_t* x = info[0].As<Napi::Uint8Array>().Data();
  const int8_t* w = info[1].As<Napi::Int8Array>().Data();
  const Layer layer = ReadLayer(info[2]);
  double* counts = info[3].As<Napi::Float64Array>().Data();
  return KernelWorker::Queue(info.Env(), {info[0], info[1], info[3]}, [=] { CountSaturatingPairs(layer, x, w, counts); });
}

}  // namespace
}  // namespace halftone

void RegisterSaturation(Napi::Env env, Napi::Object exports) {
  exports["countSaturation"] = Napi::Function::New(env, halftone::CountSaturation, "countSaturation");
}
