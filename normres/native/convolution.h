// Convolutions of size 1 or 3 and stride 1 or 2 with what stands around them in a network, for CPUs with AVX-512 and its
// bfloat16 products: what a norm, an addition and a rectifier make of the input is done while an example is packed, and
// the output's moments are taken while it is in registers.  Nothing of that is written to memory unless it is asked for.
//
//   Forward:   u = max(factor (x - center) + shift + side, floor),  y = u * kernel,
//              mean and sum of squared deviations of y for each example and channel
//   Backward:  the gradients of x, side, factor, shift and kernel, from those of y, its moments and u

#pragma once

#include "kernel_gradient.h"
#include "product.h"

namespace normres {

constexpr int64_t kForwardExamples = 4;  // that a thread takes at a time

// Moves a pointer to an example's numbers; null stays null.
template <typename T>
T* At(T* array, int64_t offset) {
  return array ? array + offset : nullptr;
}

template <typename Kind>
Input<Kind> Example(const Input<Kind>& in, int64_t n, int64_t image) {
  return {in.x + n * image,
          At(in.side, n * image),
          At(in.center, n * in.next),
          At(in.factor, n * in.next),
          At(in.shift, n * in.next),
          in.next,
          in.rectify,
          At(in.activated, n * image)};
}

// The kernel's words, for each 16 channels of the result; they are the calling thread's until its next call.
template <typename Kind>
const uint32_t* PackedKernel(xla::ffi::ThreadPool& pool, const Shape& s, const std::vector<Phase>& phases, bool forward,
                             const float* kernel, int64_t* block_words) {
  thread_local Memory memory;
  const int64_t summed = forward ? s.inner : s.outer, results = forward ? s.outer : s.inner;
  *block_words = s.taps() * Shape::Channels(summed) / Kind::kPacked * kLanes;
  const int64_t blocks = RoundUp(results, kLanes) / kLanes, words = *block_words;
  uint32_t* to = memory.Take<uint32_t>(blocks * words);
  InParallel(pool, blocks, [&](int64_t block) {
    PackKernel<Kind>(s, phases, forward, kernel, block * kLanes, to + block * words);
  });
  return to;
}

template <typename Kind>
void ForwardOf(xla::ffi::ThreadPool& pool, const Shape& s, const Input<Kind>& in, const float* kernel,
               typename Kind::Stored* y, float* mean, float* squares) {
  const std::vector<Phase> phases = ForwardPhases(s);
  int64_t block_words;
  const uint32_t* words = PackedKernel<Kind>(pool, s, phases, true, kernel, &block_words);
  const int64_t row_step = s.columns * s.outer, tiles = Tiles(phases) * (RoundUp(s.outer, kLanes) / kLanes);
  const auto example = [&](int64_t n, bool last, typename Kind::Stored* packed) {
    PackInput<Kind>(Example(in, n, s.x_image()), s.x_rows, s.x_columns, s.inner, s.half(),
                    s.x_packed_columns(), packed);
    Ahead ahead(tiles);
    if (!last) {
      const Input<Kind> next = Example(in, n + 1, s.x_image());
      ahead.Add(next.x, s.x_image()), ahead.Add(next.side, s.x_image());
    }
    for (int64_t o = 0; o < s.outer; o += kLanes) {
      typename Kind::Stored* image = y + n * s.y_image() + o;
      const __mmask16 mask = Lanes(s.outer - o);
      const uint32_t* block = words + o / kLanes * block_words;
      const auto convolve = [&](const auto& finish) {
        Convolve<Kind>(packed, s.x_packed_columns(), s.inner, s.stride, phases[0], block, [&](const Tile& tile) {
          ahead.Fetch();
          finish(tile, image + tile.row * row_step + tile.column * s.outer);
        });
      };
      if (!mean) {
        convolve([&](const Tile& tile, typename Kind::Stored* to) {
          tile.Each([&](int64_t r, int64_t c, __m512 sum) { Kind::Write(to + r * row_step + c * s.outer, mask, sum); });
        });
        continue;
      }
      // Deviations from the first pixel, so that squares of a large mean do not swallow the variance.
      __m512 first = _mm512_setzero_ps(), total = first, of_squares = first;
      convolve([&](const Tile& tile, typename Kind::Stored* to) {
        if (to == image) first = Kind::Write(to, mask, tile.sums[0]);
        // In registers, unlike what is captured.
        const __m512 apart = first;
        __m512 own_total = total, own_squares = of_squares;
        const int64_t down = row_step, right = s.outer;
        tile.Each([&](int64_t r, int64_t c, __m512 sum) {
          const __m512 deviation = _mm512_sub_ps(Kind::Write(to + r * down + c * right, mask, sum), apart);
          own_total = _mm512_add_ps(own_total, deviation);
          own_squares = _mm512_fmadd_ps(deviation, deviation, own_squares);
        });
        total = own_total, of_squares = own_squares;
      });
      const __m512 count = _mm512_set1_ps(static_cast<float>(s.rows * s.columns));
      const __m512 own = _mm512_div_ps(total, count);
      const __m512 left = _mm512_fnmadd_ps(own, total, of_squares);
      _mm512_mask_storeu_ps(mean + n * s.outer + o, mask, _mm512_add_ps(first, own));
      _mm512_mask_storeu_ps(squares + n * s.outer + o, mask, _mm512_max_ps(_mm512_setzero_ps(), left));
    }
  };
  InParallel(pool, RoundUp(s.examples, kForwardExamples) / kForwardExamples, [&](int64_t part) {
    thread_local Memory memory;
    auto* packed = memory.Take<typename Kind::Stored>(s.x_packed());
    std::fill_n(packed, s.x_packed(), 0);
    const int64_t end = std::min((part + 1) * kForwardExamples, s.examples);
    for (int64_t n = part * kForwardExamples; n < end; ++n) example(n, n + 1 == end, packed);
  });
}

// Where the gradients go; null: not wanted.  `activated` is that of what Input keeps.  Those of factor and shift are for
// each example and channel here.
template <typename Kind>
struct Gradients {
  using Stored = typename Kind::Stored;
  const Stored* activated;
  Stored *x, *side;
  float *center, *factor, *shift;
};

// Writes the gradients of an example's input from the packed images of what was convolved and of y's gradient.
template <typename Kind>
void InputGradient(const Shape& s, const Input<Kind>& in, const std::vector<Phase>& phases, const uint32_t* words,
                   int64_t block_words, const typename Kind::Stored* packed, const typename Kind::Stored* dy,
                   const Gradients<Kind>& to, Ahead& ahead) {
  using Stored = typename Kind::Stored;
  const int64_t channels = Shape::Channels(s.inner), packed_columns = s.x_packed_columns();
  for (int64_t c = 0; c < s.inner; c += kLanes) {
    const __mmask16 mask = Lanes(s.inner - c);
    const uint32_t* kernel = words + c / kLanes * block_words;
    const bool affine = in.factor;
    const auto number = [&](const float* of) {
      return affine ? _mm512_maskz_loadu_ps(mask, of + c) : _mm512_setzero_ps();
    };
    const __m512 factor = number(in.factor), center = number(in.center);
    __m512 of_factor = _mm512_setzero_ps(), of_shift = of_factor;
    for (const Phase& phase : phases) {
      Convolve<Kind>(dy, s.y_packed_columns(), s.outer, 1, phase, kernel, [&](const Tile& tile) {
        ahead.Fetch();
        const int64_t row = tile.row * phase.step + phase.row, column = tile.column * phase.step + phase.column;
        const int64_t first = (row * s.x_columns + column) * s.inner + c;
        const int64_t down = phase.step * s.x_columns * s.inner, right = phase.step * s.inner;
        const int64_t packed_down = phase.step * packed_columns * channels, packed_right = phase.step * channels;
        const Stored* passed = packed + ((row + s.half()) * packed_columns + column + s.half()) * channels + c;
        const Stored *x = At(in.x, first), *activated = At(to.activated, first);
        Stored *dx = At(to.x, first), *side = At(to.side, first);
        const bool rectify = in.rectify;
        // In registers, unlike what is captured.
        const __m512 by = factor, apart = center;
        __m512 own_factor = of_factor, own_shift = of_shift;
        tile.Each([&](int64_t r, int64_t q, __m512 sum) {
          const int64_t at = r * down + q * right;
          if (activated) sum = _mm512_add_ps(sum, Kind::Read(activated + at, mask));
          if (rectify)
            sum = _mm512_maskz_mov_ps(Kind::Positive(passed + r * packed_down + q * packed_right, mask), sum);
          if (side) Kind::Write(side + at, mask, sum);
          if (affine) {
            own_shift = _mm512_add_ps(own_shift, sum);
            own_factor = _mm512_fmadd_ps(sum, _mm512_sub_ps(Kind::Read(x + at, mask), apart), own_factor);
            sum = _mm512_mul_ps(sum, by);
          }
          Kind::Write(dx + at, mask, sum);
        });
        of_factor = own_factor, of_shift = own_shift;
      });
      kernel += phase.taps.size() * Shape::Channels(s.outer) / Kind::kPacked * kLanes;
    }
    if (!affine) continue;
    _mm512_mask_storeu_ps(to.factor + c, mask, of_factor);
    _mm512_mask_storeu_ps(to.shift + c, mask, of_shift);
  }
}

// Sums over the examples, in order, of numbers (examples, channels).
inline void SumExamples(int64_t examples, int64_t channels, const float* from, float* to) {
  std::fill_n(to, channels, 0.0f);
  for (int64_t n = 0; n < examples; ++n, from += channels)
    for (int64_t c = 0; c < channels; ++c) to[c] += from[c];
}

// `moments` is y with its moments as a Pending input: the side is y's gradient, center the mean, factor and shift the
// gradients of the squares and of the mean.
template <typename Kind>
void BackwardOf(xla::ffi::ThreadPool& pool, const Shape& s, const Input<Kind>& in, const Input<Kind>& moments,
                const float* kernel, const Gradients<Kind>& wanted, float* kernel_gradient) {
  using Stored = typename Kind::Stored;
  thread_local Memory for_examples, for_moments;
  Input<Kind> out = moments;
  if (moments.factor) {
    // dy + d_mean / pixels + 2 d_squares (y - mean)
    const int64_t count = s.examples * s.outer;
    float* scaled = for_moments.Take<float>(2 * count);
    for (int64_t i = 0; i < count; ++i) scaled[i] = 2 * moments.factor[i];
    for (int64_t i = 0; i < count; ++i) scaled[count + i] = moments.shift[i] / (s.rows * s.columns);
    out.factor = scaled, out.shift = scaled + count;
  }
  const int64_t numbers = s.examples * s.inner;
  const bool shared = wanted.factor && in.next == 0;
  Gradients<Kind> to = wanted;
  if (shared) to.factor = for_examples.Take<float>(2 * numbers), to.shift = to.factor + numbers;
  const std::vector<Phase> phases = BackwardPhases(s);
  int64_t block_words = 0;
  const uint32_t* words = to.x ? PackedKernel<Kind>(pool, s, phases, false, kernel, &block_words) : nullptr;
  const int64_t tiles = Tiles(phases) * (RoundUp(s.inner, kLanes) / kLanes);
  const Sums n{s, Kind::kPacked};
  thread_local Memory for_sums;
  float* sums = for_sums.Take<float>(n.parts() * n.count());
  InParallel(pool, n.parts(), [&](int64_t part) {
    thread_local Memory for_x, for_dy, for_x_words, for_dy_words;
    auto *packed = for_x.Take<Stored>(s.x_packed()), *dy = for_dy.Take<Stored>(s.y_packed());
    auto* x_words = for_x_words.Take<uint32_t>(n.together() * n.x_size());
    auto* dy_words = for_dy_words.Take<uint32_t>(n.together() * n.dy_size());
    int64_t waiting = 0;
    std::fill_n(packed, s.x_packed(), 0);
    std::fill_n(dy, s.y_packed(), 0);
    std::fill_n(sums + part * n.count(), n.count(), 0.0f);
    const int64_t end = std::min((part + 1) * n.examples_of_part(), s.examples);
    for (int64_t e = part * n.examples_of_part(); e < end; ++e) {
      const Input<Kind> own = Example(in, e, s.x_image());
      PackInput<Kind>(own, s.x_rows, s.x_columns, s.inner, s.half(), s.x_packed_columns(), packed);
      PackInput<Kind>(Example(out, e, s.y_image()), s.rows, s.columns, s.outer, s.half(),
                      s.y_packed_columns(), dy);
      if (to.x) {
        const int64_t image = e * s.x_image(), channels = e * s.inner;
        const Gradients<Kind> of{At(to.activated, image), to.x + image,            At(to.side, image), nullptr,
                                 At(to.factor, channels), At(to.shift, channels)};
        Ahead ahead(tiles);
        if (e + 1 < end) {
          const Input<Kind> next_in = Example(in, e + 1, s.x_image()), next_out = Example(out, e + 1, s.y_image());
          for (const Stored* array : {next_in.x, next_in.side, At(to.activated, image + s.x_image())})
            ahead.Add(array, s.x_image());
          for (const Stored* array : {next_out.x, next_out.side}) ahead.Add(array, s.y_image());
        }
        InputGradient(s, own, phases, words, block_words, packed, dy, of, ahead);
      }
      PackExample<Kind>(n, packed, dy, x_words + waiting * n.x_size(), dy_words + waiting * n.dy_size());
      if (++waiting == n.together() || e + 1 == end) {
        AddExamples<Kind>(n, x_words, dy_words, waiting, sums + part * n.count());
        waiting = 0;
      }
    }
  });
  InParallel(pool, kShares, [&](int64_t share) { AddParts(n, sums, share, kernel_gradient); });
  if (shared) {
    SumExamples(s.examples, s.inner, to.factor, wanted.factor);
    SumExamples(s.examples, s.inner, to.shift, wanted.shift);
  }
  if (wanted.center)
    for (int64_t i = 0; i < (shared ? s.inner : numbers); ++i) wanted.center[i] = -in.factor[i] * wanted.shift[i];
}

}  // namespace normres
