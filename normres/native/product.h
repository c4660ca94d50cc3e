// The convolution of a packed image: 16 output pixels times 16 output channels at a time stay in registers.

#pragma once

#include <limits>
#include <type_traits>

#include "common.h"

namespace normres {

// What becomes of a convolution's input before it is convolved: max(factor (x - center) + shift + side, floor), rounded.
// Null pointers stand for what there is not; factor, center and shift are there together, a number for each channel, and
// for the next example `next` numbers on: 0 if all share them.
template <typename Kind>
struct Input {
  using Stored = typename Kind::Stored;
  const Stored* x;
  const Stored* side;
  const float *center, *factor, *shift;
  int64_t next;
  bool rectify;
  Stored* activated;  // where it is kept
};

template <typename Kind, bool affine, bool side, bool keep>
void PackInputAs(const Input<Kind>& in, int64_t rows, int64_t columns, int64_t channels, int64_t half,
                 int64_t packed_columns, typename Kind::Stored* to) {
  const __m512 floor = _mm512_set1_ps(in.rectify ? 0.0f : -std::numeric_limits<float>::infinity());
  const int64_t packed_channels = Shape::Channels(channels);
  for (int64_t c = 0; c < channels; c += kLanes) {
    const __mmask16 mask = Lanes(channels - c);
    const auto number = [&](const float* of) { return affine ? _mm512_maskz_loadu_ps(mask, of + c) : floor; };
    const __m512 center = number(in.center), factor = number(in.factor), shift = number(in.shift);
    for (int64_t r = 0; r < rows; ++r) {
      int64_t from = r * columns * channels + c;
      auto* out = to + ((r + half) * packed_columns + half) * packed_channels + c;
      for (int64_t column = 0; column < columns; ++column, from += channels, out += packed_channels) {
        __m512 value = Kind::Read(in.x + from, mask);
        if constexpr (affine) value = _mm512_fmadd_ps(_mm512_sub_ps(value, center), factor, shift);
        if constexpr (side) value = _mm512_add_ps(value, Kind::Read(in.side + from, mask));
        value = _mm512_max_ps(floor, value);  // of a number and what is none, it returns the second
        Kind::Write(out, mask, value);
        if constexpr (keep) Kind::Write(in.activated + from, mask, value);
      }
    }
  }
}

// Packs an image of the input; `to` holds zeros, or an image of the same sizes, and keeps its border.
template <typename Kind>
void PackInput(const Input<Kind>& in, int64_t rows, int64_t columns, int64_t channels, int64_t half,
               int64_t packed_columns, typename Kind::Stored* to) {
  const auto as = [&](auto affine, auto side, auto keep) {
    PackInputAs<Kind, affine, side, keep>(in, rows, columns, channels, half, packed_columns, to);
  };
  const std::true_type yes;
  const std::false_type no;
  const auto with = [&](auto affine, auto side) { in.activated ? as(affine, side, yes) : as(affine, side, no); };
  if (in.factor)
    in.side ? with(yes, yes) : with(yes, no);
  else
    in.side ? with(no, yes) : with(no, no);
}

// A kernel's taps that meet at the output pixels (step r + row, step c + column), of which there are rows x columns, and
// where the pixel that a tap reads stands in the packed image, as seen from that of output (0, 0).
struct Phase {
  int64_t row, column, step, rows, columns;
  std::vector<int64_t> taps, offsets;  // offsets in pixels
};

// Those of the forward convolution: all taps, which is one phase.
inline std::vector<Phase> ForwardPhases(const Shape& s) {
  Phase all{0, 0, 1, s.rows, s.columns, {}, {}};
  for (int64_t tap = 0; tap < s.taps(); ++tap) {
    all.taps.push_back(tap);
    all.offsets.push_back(tap / s.size * s.x_packed_columns() + tap % s.size);
  }
  return {all};
}

// Those of the input's gradient.  Pixel stride p + a of x met row i of the kernel in the window of row h of y where
// stride h + i - half = stride p + a, so phase a sees row p + (a + half - i) / stride of dy where that is whole.
inline std::vector<Phase> BackwardPhases(const Shape& s) {
  std::vector<Phase> phases;
  for (int64_t a = 0; a < s.stride; ++a)
    for (int64_t b = 0; b < s.stride; ++b) {
      const auto count = [&](int64_t size, int64_t first) { return (size - first + s.stride - 1) / s.stride; };
      Phase phase{a, b, s.stride, count(s.x_rows, a), count(s.x_columns, b), {}, {}};
      for (int64_t tap = 0; tap < s.taps(); ++tap) {
        const int64_t down = a + s.half() - tap / s.size, right = b + s.half() - tap % s.size;
        if (down % s.stride || right % s.stride) continue;
        phase.taps.push_back(tap);
        phase.offsets.push_back((down / s.stride + s.half()) * s.y_packed_columns() + right / s.stride + s.half());
      }
      phases.push_back(phase);
    }
  return phases;
}

// Writes a kernel (taps, inner, outer) as words (tap, word of summed channels, lane) for 16 channels of the result from
// `first` on, the taps as the phases have them.  Forward, the inner channels are summed over; backward, the outer ones.
template <typename Kind>
void PackKernel(const Shape& s, const std::vector<Phase>& phases, bool forward, const float* kernel, int64_t first,
                uint32_t* to) {
  const int64_t summed = forward ? s.inner : s.outer, results = forward ? s.outer : s.inner;
  const int64_t summed_step = forward ? s.outer : 1, result_step = forward ? 1 : s.outer;
  const __mmask16 mask = Lanes(results - first);
  const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const __m512i places = _mm512_mullo_epi32(lanes, _mm512_set1_epi32(static_cast<int>(result_step)));
  for (const Phase& phase : phases)
    for (const int64_t tap : phase.taps) {
      const float* from = kernel + tap * s.inner * s.outer + first * result_step;
      const auto channel = [&](int64_t number) {
        const __m512 zeros = _mm512_setzero_ps();
        if (number >= summed) return zeros;
        const float* of = from + number * summed_step;
        return forward ? _mm512_maskz_loadu_ps(mask, of) : _mm512_mask_i32gather_ps(zeros, mask, places, of, 4);
      };
      for (int64_t c = 0; c < Shape::Channels(summed); c += Kind::kPacked, to += kLanes)
        _mm512_store_si512(to, Kind::Words(channel(c), channel(c + Kind::kPacked - 1)));
    }
}

// Adds to the sums of four groups of pixels, each kGroup pixels `step` words apart from its base, all taps' products.
template <typename Kind>
[[gnu::always_inline]] inline void MultiplyTile(const uint32_t* const* base, int64_t step, int64_t words,
                                                const std::vector<int64_t>& offsets, const uint32_t* kernel,
                                                __m512* sum) {
  for (const int64_t offset : offsets) {
    const uint32_t *a = base[0] + offset * words, *b = base[1] + offset * words, *c = base[2] + offset * words,
                   *d = base[3] + offset * words;
    for (int64_t k = 0; k < words; k += 4, a += 4, b += 4, c += 4, d += 4, kernel += 4 * kLanes) {
#pragma GCC unroll 4
      for (int64_t word = 0; word < 4; ++word) {
        const __m512i weights = _mm512_load_si512(kernel + word * kLanes);
        const auto add = [&](int64_t place, uint32_t of) {
          sum[place] = Kind::MultiplyAdd(sum[place], _mm512_set1_epi32(static_cast<int>(of)), weights);
        };
#pragma GCC unroll 4
        for (int64_t p = 0; p < kGroup; ++p) add(p, a[p * step + word]);
#pragma GCC unroll 4
        for (int64_t p = 0; p < kGroup; ++p) add(kGroup + p, b[p * step + word]);
#pragma GCC unroll 4
        for (int64_t p = 0; p < kGroup; ++p) add(2 * kGroup + p, c[p * step + word]);
#pragma GCC unroll 4
        for (int64_t p = 0; p < kGroup; ++p) add(3 * kGroup + p, d[p * step + word]);
      }
    }
  }
}

// Convolves a packed image with the phase's taps at a stride, and calls finish(row, column, sum) for each output pixel.
template <typename Kind, typename Finish>
void Convolve(const void* packed, int64_t packed_columns, int64_t channels, int64_t stride, const Phase& phase,
              const uint32_t* kernel, const Finish& finish) {
  constexpr int64_t kGroups = 4;
  const auto* image = static_cast<const uint32_t*>(packed);
  const int64_t words = Shape::Channels(channels) / Kind::kPacked;
  const int64_t of_row = RoundUp(phase.columns, kGroup) / kGroup, groups = phase.rows * of_row;
  int64_t row = 0, column = 0;
  for (int64_t g = 0; g < groups; g += kGroups) {
    const uint32_t* base[kGroups];
    int64_t rows[kGroups], columns[kGroups], valid[kGroups];
    for (int64_t q = 0; q < kGroups; ++q) {
      // Groups beyond the last are computed in vain.
      rows[q] = row, columns[q] = column;
      valid[q] = g + q < groups ? std::min(kGroup, phase.columns - column) : 0;
      base[q] = image + (row * packed_columns + column) * stride * words;
      if (g + q + 1 < groups && (column += kGroup) >= phase.columns) column = 0, ++row;
    }
    __m512 sum[kGroups * kGroup];
#pragma GCC unroll 16
    for (int64_t p = 0; p < kGroups * kGroup; ++p) sum[p] = _mm512_setzero_ps();
    MultiplyTile<Kind>(base, stride * words, words, phase.offsets, kernel, sum);
#pragma GCC unroll 4
    for (int64_t q = 0; q < kGroups; ++q)
#pragma GCC unroll 4
      for (int64_t p = 0; p < kGroup; ++p)
        if (p < valid[q]) finish(rows[q], columns[q] + p, sum[q * kGroup + p]);
  }
}

}  // namespace normres
