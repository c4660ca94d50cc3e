// The convolution of a packed image: 4 x 4 output pixels times 16 output channels at a time stay in registers, with the
// kernel's taps for one word of the input, so that a word that was read serves all pixels and taps where it belongs.
// Reading it for each of them anew, from the nearest cache, would take longer than the products.

#pragma once

#include "common.h"

namespace normres {

constexpr int64_t kFetched = 16;  // cache lines of the next image that are fetched with each tile of this one

// Packs an image; `to` holds zeros, or an image of the same sizes, and keeps its border.
template <typename Stored>
void PackImage(const Stored* from, int64_t rows, int64_t columns, int64_t channels, int64_t half,
               int64_t packed_columns, Stored* to) {
  const int64_t packed = Shape::Channels(channels);
  for (int64_t r = 0; r < rows; ++r, from += columns * channels) {
    Stored* row = to + ((r + half) * packed_columns + half) * packed;
    if (packed == channels)
      std::copy_n(from, columns * channels, row);
    else
      for (int64_t c = 0; c < columns; ++c) std::copy_n(from + c * channels, channels, row + c * packed);
  }
}

// A kernel's taps that meet at the output pixels (step r + row, step c + column), of which there are rows x columns.
// They are a rectangle of `down` x `right`, as are the pixels that they read, of which the first for output (0, 0)
// stands `first` pixels after the packed image's.
struct Phase {
  int64_t row, column, step, rows, columns, down, right, first;
  std::vector<int64_t> taps;  // in the order of those pixels
};

// A convolution of packed images: the forward one, or the one whose result is the input's gradient.
struct Plan {
  bool forward;
  int64_t summed, results;  // channels of the packed image and of the result
  int64_t stride, packed_columns, columns;
  std::vector<Phase> phases;
};

// The forward convolution: all taps, which is one phase.
inline Plan ForwardPlan(const Shape& s) {
  Phase all{0, 0, 1, s.rows, s.columns, s.size, s.size, 0, {}};
  for (int64_t tap = 0; tap < s.taps(); ++tap) all.taps.push_back(tap);
  return {true, s.inner, s.outer, s.stride, s.x_packed_columns(), s.columns, {all}};
}

// The input's gradient.  Pixel stride p + a of x met row i of the kernel in the window of row h of y where
// stride h + i - half = stride p + a, so phase a sees row p + (a + half - i) / stride of dy where that is whole.
inline Plan BackwardPlan(const Shape& s) {
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
  Plan plan{false, s.outer, s.inner, 1, s.y_packed_columns(), s.x_columns, {}};
  for (int64_t a = 0; a < s.stride; ++a)
    for (int64_t b = 0; b < s.stride; ++b) {
      const std::vector<int64_t> down = met(a), right = met(b);
      Phase phase{a, b, s.stride, s.rows, s.columns, 0, 0, 0, {}};
      phase.down = down.size(), phase.right = right.size();
      phase.first = start(a, down) * s.y_packed_columns() + start(b, right);
      for (const int64_t i : down)
        for (const int64_t j : right) phase.taps.push_back(i * s.size + j);
      plan.phases.push_back(phase);
    }
  return plan;
}

// Returns a kernel (taps, inner, outer) as words: for each 16 channels of the result and each phase, by word of summed
// channels, tap and lane.  They are the calling thread's until its next call.
template <typename Kind>
const uint32_t* PackKernel(const Shape& s, const Plan& plan, const float* kernel) {
  thread_local Memory memory;
  const int64_t blocks = RoundUp(plan.results, kLanes) / kLanes;
  uint32_t* const words = memory.Take<uint32_t>(blocks * s.taps() * Shape::Channels(plan.summed) * kLanes);
  const int64_t summed_step = plan.forward ? s.outer : 1, result_step = plan.forward ? 1 : s.outer;
  const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const __m512i places = _mm512_mullo_epi32(lanes, _mm512_set1_epi32(static_cast<int>(result_step)));
  uint32_t* to = words;
  for (int64_t block = 0; block < plan.results; block += kLanes)
    for (const Phase& phase : plan.phases)
      for (int64_t c = 0; c < Shape::Channels(plan.summed); c += Kind::kPacked)
        for (const int64_t tap : phase.taps) {
          const float* from = kernel + tap * s.inner * s.outer + block * result_step;
          const auto channel = [&](int64_t number) {
            const __mmask16 mask = number < plan.summed ? Lanes(plan.results - block) : 0;
            return _mm512_mask_i32gather_ps(_mm512_setzero_ps(), mask, places, from + number * summed_step, 4);
          };
          _mm512_store_si512(to, Kind::Words(channel(c), channel(c + Kind::kPacked - 1)));
          to += kLanes;
        }
  return words;
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

// Writes the convolution of a packed image with the words of a kernel.  Meanwhile the `next_count` numbers at `next`,
// which will be packed next, are fetched into the cache.
template <typename Kind, typename Stored = typename Kind::Stored>
void Convolve(const Plan& plan, const Stored* packed, const uint32_t* kernel, Stored* result, const Stored* next,
              int64_t next_count) {
  const auto* ahead = reinterpret_cast<const char*>(next);
  const auto* const end = reinterpret_cast<const char*>(next + next_count);
  const int64_t words = Shape::Channels(plan.summed) / Kind::kPacked, row_step = plan.packed_columns * words;
  for (int64_t block = 0; block < plan.results; block += kLanes) {
    const __mmask16 mask = Lanes(plan.results - block);
    for (const Phase& phase : plan.phases) {
      const auto multiply = TileOf<Kind>(phase, plan.stride);
      const auto* image = reinterpret_cast<const uint32_t*>(packed) + phase.first * words;
      const int64_t right = phase.step * plan.results, down = right * plan.columns;
      auto* first = result + (phase.row * plan.columns + phase.column) * plan.results + block;
      __m512 sums[kTile * kTile]{};
      for (int64_t row = 0; row < phase.rows; row += kTile)
        for (int64_t column = 0; column < phase.columns; column += kTile) {
          const uint32_t* from = image + plan.stride * (row * row_step + column * words);
          if (multiply) multiply(from, row_step, words, kernel, sums);
          for (int64_t line = 0; line < kFetched && ahead < end; ++line, ahead += kLine)
            _mm_prefetch(ahead, _MM_HINT_T1);
          // Pixels beyond the last were computed in vain.
          const int64_t rows = std::min(kTile, phase.rows - row), columns = std::min(kTile, phase.columns - column);
          for (int64_t r = 0; r < rows; ++r)
            for (int64_t c = 0; c < columns; ++c)
              Kind::Write(first + (row + r) * down + (column + c) * right, mask, sums[r * kTile + c]);
        }
      kernel += phase.taps.size() * words * kLanes;
    }
  }
}

}  // namespace normres
