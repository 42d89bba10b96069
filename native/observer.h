// What an observer gathers of one value (an activation) over all runs of the calibration set, and how other .cc files
// feed one: `ObserverUpdate` takes the tensor where it lies, so the ONNX Runtime binding needs no copy into JavaScript.
#pragma once
#include <napi.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

namespace halftone {

struct ObserverConfig {
  uint32_t bins = 0;  // power of two, 16..65536; 0 = no histogram
  bool hasChannelAxis = false;
  int64_t channelAxis = 0;  // may be negative
  uint32_t histogramStride = 1;  // of each run the histogram counts pieces 0, s, 2s, … of 64 elements; everything else sees all
};

/**
 * Statistics of one value over all runs. NaN and infinities are counted and otherwise left out: min, max, sums, histogram
 * and channels are those of the finite values. Memory is constant: 8 bytes a bin and 24 a channel.
 *
 * The histogram lies on an absolute grid: width is a power of two and lo a multiple of it, so merging pairs of bins is exact
 * and the result depends on the values only, not on the order in which runs came: the width is the least power of two for
 * which the range of everything seen fits into `bins` bins.
 */
struct ObserverState {
  explicit ObserverState(const ObserverConfig& config);

  ObserverConfig config;
  std::mutex mutex;  // ObserverUpdate and the JavaScript getters hold it

  uint64_t runs = 0;  // runs with at least one finite value: the means below are over these
  uint64_t count = 0, nans = 0, infs = 0;
  float min, max;  // +inf, -inf until a finite value was seen
  double sumRunMin = 0, sumRunMax = 0;
  double sum = 0, sumSquares = 0;

  // Bin i holds values with floor(x · 2^-exponent) == base + i.
  int exponent = 0;
  int64_t base = 0;
  bool gridSet = false;
  std::vector<uint64_t> counts;

  // Fixed by the first run. Sums of finite values and how many there were, by channel.
  int64_t channels = 0;
  std::vector<float> channelMin, channelMax;
  std::vector<double> channelSum;
  std::vector<uint64_t> channelCount;
};

/**
 * Adds one run: `n` float32 values of a tensor of shape dims[0..rank). Safe from any thread (locks the state); no N-API calls.
 * The order of calls matters only for the last bits of the sums. Throws std::invalid_argument when the channel axis is
 * outside the rank, n is not the product of dims, or the number of channels differs from the first run's.
 */
void ObserverUpdate(ObserverState& state, const float* data, size_t n, const int64_t* dims, size_t rank);

/**
 * Adds to `state` all that `other`, an observer with the same options, has seen; everything but the last bits of the sums is
 * then what one observer of all their runs would have. Throws std::invalid_argument where options or channels differ.
 */
void ObserverMerge(ObserverState& state, ObserverState& other);

/**
 * The state behind a JavaScript observer: `value` is the addon's own Observer object, that is the `handle` property of
 * native/index.ts' Observer class. The pointer keeps the state alive while a worker uses it. Throws Napi::TypeError when
 * `value` is anything else. Main thread only.
 */
std::shared_ptr<ObserverState> UnwrapObserver(const Napi::Value& value);

}  // namespace halftone
