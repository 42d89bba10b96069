// Clipping thresholds from a histogram {lo, width, counts}: percentile, entropy, least expected error. All are functions of the
// counts alone (no tensor is touched), cost well under a millisecond or two, and run on the calling thread.
#include <algorithm>
#include <cmath>
#include <limits>

#include "register.h"
#include "simd.h"

namespace halftone {
namespace {

constexpr double kPseudoCount = 1e-4;
constexpr double kInfinite = std::numeric_limits<double>::infinity();

/** Positions are in bins: edge e lies at lo + e·width. */
struct Bins {
  double lo, width;
  const double* counts;
  int64_t n;
  int64_t first, end;  // the bins in use: [first, end)
  double zero;         // where 0 lies; not whole when the grid is not aligned to it
  std::vector<double> below;  // below[e]: how many values lie under edge e
  double total;

  Bins(double lo_, double width_, const double* counts_, int64_t n_) : lo(lo_), width(width_), counts(counts_), n(n_), below(n_ + 1, 0) {
    first = 0;
    end = n;
    while (first < n && counts[first] == 0) first++;
    while (end > first && counts[end - 1] == 0) end--;
    zero = -lo / width;
    for (int64_t i = 0; i < n; i++) below[i + 1] = below[i] + counts[i];
    total = below[n];
  }
  double At(double edge) const { return lo + edge * width; }
  double BelowEdge(double edge) const { return below[static_cast<size_t>(std::clamp(edge, 0.0, static_cast<double>(n)))]; }
};

struct Interval {
  double low, high;  // in bins
};

/** The widest interval: everything seen, and zero. */
Interval Everything(const Bins& bins) {
  return {std::min(bins.zero, static_cast<double>(bins.first)), std::max(bins.zero, static_cast<double>(bins.end))};
}

// --------------------------------------------------------------------------------------------------------------- percentile

/**
 * The interval that keeps `percentile` % of the values: half of the rest is cut on each side, or all of it on the one side of
 * zero that has values. Inside a bin values are taken as evenly spread. Zero is always included.
 */
Interval Percentile(const Bins& bins, double percentile) {
  Interval range = Everything(bins);
  const double rest = bins.total * (1 - percentile / 100);
  const bool negative = range.low < bins.zero, positive = range.high > bins.zero;
  const double cut = negative && positive ? rest / 2 : rest;
  if (positive) {
    double left = cut;
    int64_t i = bins.end - 1;
    while (i > bins.first && bins.counts[i] <= left) left -= bins.counts[i--];
    range.high = static_cast<double>(i + 1) - std::min(1.0, left / bins.counts[i]);
  }
  if (negative) {
    double left = cut;
    int64_t i = bins.first;
    while (i + 1 < bins.end && bins.counts[i] <= left) left -= bins.counts[i++];
    range.low = static_cast<double>(i) + std::min(1.0, left / bins.counts[i]);
  }
  return {std::min(range.low, bins.zero), std::max(range.high, bins.zero)};
}

// ------------------------------------------------------------------------------------------------------------------ entropy

/**
 * S. Migacz, "8-bit inference with TensorRT" (GTC 2017), for an interval with two free ends. P: the histogram clipped to
 * [low, high), what lies outside added to the outermost bins. Q: the same bins without the outliers, merged into `levels`
 * equal groups, each group's mass spread evenly over those of its bins that P has something in. The interval with the least
 * KL(P‖Q) wins. A group that has outliers only would be an infinite divergence, so that no interval could end in an empty tail:
 * it counts as a ten-thousandth of a value, as other implementations smooth.
 *
 * A group's Q is constant over its bins, so KL = Σ P ln P − Σ_groups P(group) ln(Q(group) ÷ bins in use), and with prefix sums of
 * counts, of bins in use and of c·ln c an interval costs one logarithm a level instead of two a bin.
 */
class Entropy {
 public:
  Entropy(const Bins& bins, int64_t levels) : bins_(bins), levels_(levels), used_(bins.n + 1, 0), entropy_(bins.n + 1, 0) {
    for (int64_t i = 0; i < bins.n; i++) {
      used_[i + 1] = used_[i] + (bins.counts[i] > 0);
      entropy_[i + 1] = entropy_[i] + TimesLog(bins.counts[i]);
    }
  }

  double Divergence(const Interval& range) const {
    const int64_t low = Edge(range.low), high = Edge(range.high);
    if (low >= high) return kInfinite;
    const double under = bins_.below[low], over = bins_.total - bins_.below[high], inside = bins_.below[high] - bins_.below[low];
    if (inside <= 0) return kInfinite;
    // Σ P ln P over the counts, with the outermost bins as P has them.
    const double outermostLow = bins_.counts[low], outermostHigh = bins_.counts[high - 1];
    double information = entropy_[high] - entropy_[low];
    if (high - low == 1) {
      information += TimesLog(outermostLow + under + over) - TimesLog(outermostLow);
    } else {
      information += TimesLog(outermostLow + under) - TimesLog(outermostLow);
      information += TimesLog(outermostHigh + over) - TimesLog(outermostHigh);
    }
    double cross = 0;
    const double step = (range.high - range.low) / static_cast<double>(levels_);
    int64_t begin = low;
    for (int64_t j = 0; j < levels_ && begin < high; j++) {
      const int64_t stop = j + 1 == levels_ ? high : std::min(high, Edge(std::floor(range.low + static_cast<double>(j + 1) * step)));
      if (stop <= begin) continue;
      const double q = bins_.below[stop] - bins_.below[begin];
      double p = q;
      int64_t used = used_[stop] - used_[begin];
      if (begin == low) {
        p += under;
        used += under > 0 && outermostLow == 0;
      }
      if (stop == high) {
        p += over;
        used += over > 0 && outermostHigh == 0 && !(high - low == 1 && under > 0);
      }
      if (p > 0) cross += p * std::log(std::max(q, kPseudoCount) / static_cast<double>(used));
      begin = stop;
    }
    const double total = bins_.total;
    return (information / total - std::log(total)) - (cross / total - std::log(inside));
  }

  Interval Search() const {
    const Interval widest = Everything(bins_);
    Interval best = widest;
    double least = Divergence(best);
    const double levels = static_cast<double>(levels_);
    // With fewer bins than levels nothing is merged, and the divergence only says that clipping loses something.
    if (widest.high - widest.low <= levels) return widest;
    auto consider = [&](const Interval& range) {
      if (range.high - range.low < levels) return;
      const double divergence = Divergence(range);
      if (divergence < least) {
        least = divergence;
        best = range;
      }
    };
    const double lowMost = std::max(widest.low, std::floor(bins_.zero)), highLeast = std::min(widest.high, std::ceil(bins_.zero));
    // A grid over both ends, then finer ones around the best so far. One end after the other would stop where only a shift of
    // both gains anything.
    auto scan = [&](double lowFrom, double lowTo, double highFrom, double highTo, double step) {
      for (double low = std::max(lowFrom, widest.low); low <= std::min(lowTo, lowMost); low += step)
        for (double high = std::min(highTo, widest.high); high >= std::max(highFrom, highLeast); high -= step) consider({low, high});
    };
    const double longest = std::max(lowMost - widest.low, widest.high - highLeast);
    const bool both = lowMost > widest.low && highLeast < widest.high;
    double step = std::max(1.0, std::floor(longest / (both ? 12 : 200)));
    scan(widest.low, lowMost, highLeast, widest.high, step);
    while (step > 1) {
      const double finer = std::max(1.0, std::ceil(step / 4));
      const Interval centre = best;
      scan(centre.low - step, centre.low + step, centre.high - step, centre.high + step, finer);
      step = finer;
    }
    return best;
  }

 private:
  static double TimesLog(double c) { return c > 0 ? c * std::log(c) : 0; }
  int64_t Edge(double edge) const { return static_cast<int64_t>(std::clamp(edge, 0.0, static_cast<double>(bins_.n))); }
  const Bins& bins_;
  int64_t levels_;
  std::vector<int64_t> used_;
  std::vector<double> entropy_;
};

// -------------------------------------------------------------------------------------------------------------- least error

/**
 * Expected |x − Q(x)|^p of clipping to [low, high) and rounding to `levels` equal steps Δ: (Δ/2)^p ÷ (p+1) for a value inside
 * (Δ²/12 for p = 2), the distance to the power p for one outside, values evenly spread over their bin. The bin that begins or
 * ends at zero holds zeros mostly (after a ReLU: half of all values), which every range represents exactly, so there a value
 * costs no more than width^p ÷ (p+1).
 */
class LeastError {
 public:
  LeastError(const Bins& bins, int64_t levels, double power) : bins_(bins), power_(power), steps_(static_cast<double>(levels - 1)) {
    const int64_t span = bins.end - bins.first + 1;
    distance_.resize(span);
    double last = 0;
    const double unit = std::pow(bins.width, power) / (power + 1);
    for (int64_t k = 0; k < span; k++) {
      const double next = std::pow(static_cast<double>(k + 1), power + 1);
      distance_[k] = (next - last) * unit;
      last = next;
    }
    atZero_ = bins.width;
    zeroBin_ = -1;
    const double nearest = std::round(bins.zero);
    if (nearest == bins.zero && nearest >= 0 && nearest <= static_cast<double>(bins.n)) {
      const int64_t above = static_cast<int64_t>(nearest), under = above - 1;
      const double countAbove = above < bins.n ? bins.counts[above] : 0, countUnder = under >= 0 ? bins.counts[under] : 0;
      zeroBin_ = countAbove >= countUnder ? above : under;
      if (countAbove == 0 && countUnder == 0) zeroBin_ = -1;
    }
    clipLow_.assign(bins.n + 1, -1);
    clipHigh_.assign(bins.n + 1, -1);
  }

  /** Sum over all values. */
  double Error(const Interval& range) {
    const double delta = (range.high - range.low) * bins_.width / steps_;
    const double inside = std::pow(delta / 2, power_) / (power_ + 1);
    double count = bins_.BelowEdge(range.high) - bins_.BelowEdge(range.low), error = 0;
    if (zeroBin_ >= 0 && static_cast<double>(zeroBin_) >= range.low && static_cast<double>(zeroBin_) < range.high) {
      const double zeros = bins_.counts[zeroBin_];
      count -= zeros;
      error += zeros * std::min(inside, std::pow(atZero_, power_) / (power_ + 1));
    }
    return error + count * inside + ClipLow(range.low) + ClipHigh(range.high);
  }

  Interval Search(bool includeZero, double* error) {
    const Interval widest = includeZero ? Everything(bins_) : Interval{static_cast<double>(bins_.first), static_cast<double>(bins_.end)};
    const double lowMost = includeZero ? std::min(std::floor(bins_.zero), static_cast<double>(bins_.end)) : static_cast<double>(bins_.end - 1);
    const double highLeast = includeZero ? std::max(std::ceil(bins_.zero), static_cast<double>(bins_.first)) : static_cast<double>(bins_.first + 1);
    Interval best = widest;
    double least = Error(best);
    auto consider = [&](double low, double high) {
      if (low >= high) return;
      const double candidate = Error({low, high});
      if (candidate < least) {
        least = candidate;
        best = {low, high};
      }
    };
    auto scan = [&](double lowFrom, double lowTo, double highFrom, double highTo, double step) {
      const bool lowFixed = widest.low >= lowMost, highFixed = widest.high <= highLeast;
      for (double low = lowFixed ? widest.low : std::max(lowFrom, widest.low); low <= (lowFixed ? widest.low : std::min(lowTo, lowMost)); low += step)
        for (double high = highFixed ? widest.high : std::min(highTo, widest.high); high >= (highFixed ? widest.high : std::max(highFrom, highLeast)); high -= step)
          consider(low, high);
    };
    const double longest = std::max(lowMost - widest.low, widest.high - highLeast);
    double step = std::max(1.0, std::floor(longest / 64));
    scan(widest.low, lowMost, highLeast, widest.high, step);
    while (step > 1) {
      const double finer = std::max(1.0, std::floor(step / 4));
      const Interval centre = best;
      scan(centre.low - step, centre.low + step, centre.high - step, centre.high + step, finer);
      step = finer;
    }
    *error = least;
    return best;
  }

 private:
  /** Error of what lies below edge `low`, when it is clipped there; computed once an edge. */
  double ClipLow(double low) {
    if (low <= static_cast<double>(bins_.first)) return 0;
    const int64_t edge = static_cast<int64_t>(low);
    if (clipLow_[edge] < 0) {
      double error = 0;
      for (int64_t i = bins_.first; i < edge && i < bins_.end; i++) error += bins_.counts[i] * distance_[edge - 1 - i];
      clipLow_[edge] = error;
    }
    return clipLow_[edge];
  }
  double ClipHigh(double high) {
    if (high >= static_cast<double>(bins_.end)) return 0;
    const int64_t edge = static_cast<int64_t>(high);
    if (clipHigh_[edge] < 0) {
      double error = 0;
      for (int64_t i = std::max(edge, bins_.first); i < bins_.end; i++) error += bins_.counts[i] * distance_[i - edge];
      clipHigh_[edge] = error;
    }
    return clipHigh_[edge];
  }
  const Bins& bins_;
  double power_, steps_, atZero_;
  int64_t zeroBin_;
  std::vector<double> distance_;  // E|x − edge|^p for x in the bin that begins k bins from the edge
  std::vector<double> clipLow_, clipHigh_;
};

// ------------------------------------------------------------------------------------------------------------------ bindings

/** Arguments 0 to 2 are lo, width and counts, checked in index.ts (something is counted). */
Bins ReadBins(const Napi::CallbackInfo& info) {
  auto counts = info[2].As<Napi::Float64Array>();
  return Bins(info[0].As<Napi::Number>().DoubleValue(), info[1].As<Napi::Number>().DoubleValue(), counts.Data(), static_cast<int64_t>(counts.ElementLength()));
}

Napi::Object ToObject(Napi::Env env, const Bins& bins, const Interval& range) {
  auto result = Napi::Object::New(env);
  // −0 is no value anyone wants to see in a report.
  result["min"] = Napi::Number::New(env, bins.At(range.low) + 0.0);
  result["max"] = Napi::Number::New(env, bins.At(range.high) + 0.0);
  return result;
}

/** (lo, width, counts, percentile) */
Napi::Value PercentileRange(const Napi::CallbackInfo& info) {
  const Bins bins = ReadBins(info);
  return ToObject(info.Env(), bins, Percentile(bins, info[3].As<Napi::Number>().DoubleValue()));
}

/** (lo, width, counts, levels) */
Napi::Value EntropyRange(const Napi::CallbackInfo& info) {
  const Bins bins = ReadBins(info);
  return ToObject(info.Env(), bins, Entropy(bins, info[3].As<Napi::Number>().Int64Value()).Search());
}

/** (lo, width, counts, levels, p, includeZero) */
Napi::Value MseRange(const Napi::CallbackInfo& info) {
  const Bins bins = ReadBins(info);
  double error = 0;
  const Interval range =
      LeastError(bins, info[3].As<Napi::Number>().Int64Value(), info[4].As<Napi::Number>().DoubleValue()).Search(info[5].As<Napi::Boolean>(), &error);
  auto result = ToObject(info.Env(), bins, range);
  result["error"] = Napi::Number::New(info.Env(), error / bins.total);
  return result;
}

}  // namespace
}  // namespace halftone

void RegisterThresholds(Napi::Env env, Napi::Object exports) {
  exports["percentileRange"] = Napi::Function::New(env, halftone::PercentileRange, "percentileRange");
  exports["entropyRange"] = Napi::Function::New(env, halftone::EntropyRange, "entropyRange");
  exports["mseRange"] = Napi::Function::New(env, halftone::MseRange, "mseRange");
}
