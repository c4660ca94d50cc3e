// The convolution of a packed image: 4 x 4 output pixels times 16 output channels at a time stay in registers, with the
// kernel's taps for one word of the input, so that a word that was read serves all pixels and taps where it belongs.
// Reading it for each of them anew, from the nearest cache, would take longer than the products.

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

// A kernel's taps that meet at the output pixels (step r + row, step c + column), of which there are rows x columns.
// They are a rectangle of `down` x `right`, as are the pixels that they read, of which the first for output (0, 0)
// stands `first` pixels after the packed image's.
struct Phase {
  int64_t row, column, step, rows, columns, down, right, first;
  std::vector<int64_t> taps;  // in the order of those pixels
};

// Those of the forward convolution: all taps, which is one phase.
inline std::vector<Phase> ForwardPhases(const Shape& s) {
  Phase all{0, 0, 1, s.rows, s.columns, s.size, s.size, 0, {}};
  for (int64_t tap = 0; tap < s.taps(); ++tap) all.taps.push_back(tap);
  return {all};
}

// Those of the input's gradient.  Pixel stride p + a of x met row i of the kernel in the window of row h of y where
// stride h + i - half = stride p + a, so phase a sees row p + (a + half - i) / stride of dy where that is whole.
inline std::vector<Phase> BackwardPhases(const Shape& s) {
  // The kernel's rows, or columns, of phase a, by the pixels that they read.
  const auto met = [&](int64_t a) {
    std::vector<int64_t> found;
    for (int64_t i = s.size - 1; i >= 0; --i)
      if ((a + s.half() - i) % s.stride == 0) found.push_back(i);
    return found;
  };
  // Where the first of them reads.
  const auto start = [&](int64_t a, const std::vector<int64_t>& of) {
    return of.empty() ? 0 : (a + s.half() - of[0]) / s.stride + s.half();
  };
  const auto count = [&](int64_t size, int64_t first) { return (size - first + s.stride - 1) / s.stride; };
  std::vector<Phase> phases;
  for (int64_t a = 0; a < s.stride; ++a)
    for (int64_t b = 0; b < s.stride; ++b) {
      const std::vector<int64_t> down = met(a), right = met(b);
      Phase phase{a, b, s.stride, count(s.x_rows, a), count(s.x_columns, b), 0, 0, 0, {}};
      phase.down = down.size(), phase.right = right.size();
      phase.first = start(a, down) * s.y_packed_columns() + start(b, right);
      for (const int64_t i : down)
        for (const int64_t j : right) phase.taps.push_back(i * s.size + j);
      phases.push_back(phase);
    }
  return phases;
}

// Writes a kernel (taps, inner, outer) as words (word of summed channels, tap, lane) for 16 channels of the result from
// `first` on, phase by phase.  Forward, the inner channels are summed over; backward, the outer ones.
template <typename Kind>
void PackKernel(const Shape& s, const std::vector<Phase>& phases, bool forward, const float* kernel, int64_t first,
                uint32_t* to) {
  const int64_t summed = forward ? s.inner : s.outer, results = forward ? s.outer : s.inner;
  const int64_t summed_step = forward ? s.outer : 1, result_step = forward ? 1 : s.outer;
  const __mmask16 mask = Lanes(results - first);
  const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const __m512i places = _mm512_mullo_epi32(lanes, _mm512_set1_epi32(static_cast<int>(result_step)));
  for (const Phase& phase : phases)
    for (int64_t c = 0; c < Shape::Channels(summed); c += Kind::kPacked)
      for (const int64_t tap : phase.taps) {
        const float* from = kernel + tap * s.inner * s.outer + first * result_step;
        const auto channel = [&](int64_t number) {
          const __m512 zeros = _mm512_setzero_ps();
          if (number >= summed) return zeros;
          const float* of = from + number * summed_step;
          return forward ? _mm512_maskz_loadu_ps(mask, of) : _mm512_mask_i32gather_ps(zeros, mask, places, of, 4);
        };
        _mm512_store_si512(to, Kind::Words(channel(c), channel(c + Kind::kPacked - 1)));
        to += kLanes;
      }
}

// Writes the sums of all taps' products for kTile x kTile output pixels.  `from` is the first pixel that they read, the
// next one below stands row_step words on.
template <typename Kind, int down, int right, int stride>
void MultiplyTile(const uint32_t* from, int64_t row_step, int64_t words, const uint32_t* kernel, __m512* sums) {
  constexpr int kTaps = down * right, kAcross = stride * (kTile - 1);
  __m512 sum[kTile * kTile];
#pragma GCC unroll 16
  for (int p = 0; p < kTile * kTile; ++p) sum[p] = _mm512_setzero_ps();
  const uint32_t* rows[kAcross + down];
#pragma GCC unroll 16
  for (int r = 0; r < kAcross + down; ++r) rows[r] = from + r * row_step;
  for (int64_t word = 0; word < words; ++word, kernel += kTaps * kLanes) {
    __m512i weights[kTaps];
#pragma GCC unroll 16
    for (int tap = 0; tap < kTaps; ++tap) weights[tap] = _mm512_load_si512(kernel + tap * kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < kAcross + down; ++r)
#pragma GCC unroll 16
      for (int c = 0; c < kAcross + right; ++c) {
        const __m512i pixel = _mm512_set1_epi32(static_cast<int>(rows[r][c * words + word]));
#pragma GCC unroll 4
        for (int i = 0; i < down; ++i)
#pragma GCC unroll 4
          for (int j = 0; j < right; ++j) {
            const int row = r - i, column = c - j;  // times stride, of the output
            if (row < 0 || column < 0 || row > kAcross || column > kAcross || row % stride || column % stride) continue;
            __m512& to = sum[row / stride * kTile + column / stride];
            to = Kind::MultiplyAdd(to, pixel, weights[i * right + j]);
          }
      }
  }
#pragma GCC unroll 16
  for (int p = 0; p < kTile * kTile; ++p) sums[p] = sum[p];
}

// Returns MultiplyTile for a phase's taps at a stride; null if it has none.
template <typename Kind>
auto TileOf(const Phase& phase, int64_t stride) {
  const int64_t down = phase.down, right = phase.right;
  if (phase.taps.empty()) return static_cast<decltype(&MultiplyTile<Kind, 1, 1, 1>)>(nullptr);
  // Strided are forward convolutions alone; rectangles other than the kernel's are phases of their gradients.
  if (stride == 2) return down == 3 ? MultiplyTile<Kind, 3, 3, 2> : MultiplyTile<Kind, 1, 1, 2>;
  if (down == 3) return MultiplyTile<Kind, 3, 3, 1>;
  if (down == 2) return right == 2 ? MultiplyTile<Kind, 2, 2, 1> : MultiplyTile<Kind, 2, 1, 1>;
  return right == 2 ? MultiplyTile<Kind, 1, 2, 1> : MultiplyTile<Kind, 1, 1, 1>;
}

// The sums of rows x columns output pixels, the first of which is (row, column).
struct Tile {
  int64_t row, column, rows, columns;
  __m512 sums[kTile * kTile];

  // Calls work(r, c, sum) for each, (r, c) being its place among them.
  template <typename Work>
  [[gnu::always_inline]] void Each(const Work& work) const {
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < columns; ++c) work(r, c, sums[r * kTile + c]);
  }
};

inline int64_t Tiles(const std::vector<Phase>& phases) {
  int64_t count = 0;
  for (const Phase& phase : phases) count += RoundUp(phase.rows, kTile) / kTile * (RoundUp(phase.columns, kTile) / kTile);
  return count;
}

// Convolves a packed image with the phase's taps at a stride, and calls finish(Tile), which begins with pixel (0, 0).
template <typename Kind, typename Finish>
void Convolve(const void* packed, int64_t packed_columns, int64_t channels, int64_t stride, const Phase& phase,
              const uint32_t* kernel, const Finish& finish) {
  const auto multiply = TileOf<Kind>(phase, stride);
  const int64_t words = Shape::Channels(channels) / Kind::kPacked, row_step = packed_columns * words;
  const auto* image = static_cast<const uint32_t*>(packed) + phase.first * words;
  Tile tile{};
  for (tile.row = 0; tile.row < phase.rows; tile.row += kTile)
    for (tile.column = 0; tile.column < phase.columns; tile.column += kTile) {
      const uint32_t* from = image + stride * (tile.row * row_step + tile.column * words);
      if (multiply) multiply(from, row_step, words, kernel, tile.sums);
      // Pixels beyond the last were computed in vain.
      tile.rows = std::min(kTile, phase.rows - tile.row), tile.columns = std::min(kTile, phase.columns - tile.column);
      finish(tile);
    }
}

}  // namespace normres
