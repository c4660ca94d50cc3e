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
  const auto example = [&](int64_t n, typename Kind::Stored* packed) {
    PackInput<Kind>(Example(in, n, s.x_image()), s.x_rows, s.x_columns, s.inner, s.half(),
                    s.x_packed_columns(), packed);
    for (int64_t o = 0; o < s.outer; o += kLanes) {
      typename Kind::Stored* to = y + n * s.y_image() + o;
      const __mmask16 mask = Lanes(s.outer - o);
      const uint32_t* block = words + o / kLanes * block_words;
      const auto convolve = [&](const auto& finish) {
        Convolve<Kind>(packed, s.x_packed_columns(), s.inner, s.stride, phases[0], block, finish);
      };
      if (!mean) {
        convolve([&](int64_t row, int64_t column, __m512 sum) {
          Kind::Write(to + (row * s.columns + column) * s.outer, mask, sum);
        });
        continue;
      }
      // Deviations from the first pixel, so that squares of a large mean do not swallow the variance.
      __m512 first = _mm512_setzero_ps(), total = first, of_squares = first;
      convolve([&](int64_t row, int64_t column, __m512 sum) {
        const __m512 value = Kind::Write(to + (row * s.columns + column) * s.outer, mask, sum);
        if ((row | column) == 0) first = value;
        const __m512 deviation = _mm512_sub_ps(value, first);
        total = _mm512_add_ps(total, deviation);
        of_squares = _mm512_fmadd_ps(deviation, deviation, of_squares);
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
    for (int64_t n = part * kForwardExamples; n < end; ++n) example(n, packed);
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
                   const Gradients<Kind>& to) {
  const int64_t channels = Shape::Channels(s.inner);
  for (int64_t c = 0; c < s.inner; c += kLanes) {
    const __mmask16 mask = Lanes(s.inner - c);
    const uint32_t* kernel = words + c / kLanes * block_words;
    const auto* activated = packed + (s.half() * s.x_packed_columns() + s.half()) * channels + c;
    const auto convolve = [&](const auto& finish) {
      for (const Phase& phase : phases) {
        Convolve<Kind>(dy, s.y_packed_columns(), s.outer, 1, phase, kernel, [&](int64_t r, int64_t q, __m512 sum) {
          const int64_t row = r * phase.step + phase.row, column = q * phase.step + phase.column;
          const int64_t at = (row * s.x_columns + column) * s.inner + c;
          if (to.activated) sum = _mm512_add_ps(sum, Kind::Read(to.activated + at, mask));
          if (in.rectify) {
            const auto* passed = activated + (row * s.x_packed_columns() + column) * channels;
            sum = _mm512_maskz_mov_ps(Kind::Positive(passed, mask), sum);
          }
          if (to.side) Kind::Write(to.side + at, mask, sum);
          finish(at, sum);
        });
        kernel += phase.taps.size() * Shape::Channels(s.outer) / Kind::kPacked * kLanes;
      }
    };
    if (!in.factor) {
      convolve([&](int64_t at, __m512 sum) { Kind::Write(to.x + at, mask, sum); });
      continue;
    }
    const __m512 factor = _mm512_maskz_loadu_ps(mask, in.factor + c);
    const __m512 center = _mm512_maskz_loadu_ps(mask, in.center + c);
    __m512 of_factor = _mm512_setzero_ps(), of_shift = of_factor;
    convolve([&](int64_t at, __m512 sum) {
      const __m512 deviation = _mm512_sub_ps(Kind::Read(in.x + at, mask), center);
      of_shift = _mm512_add_ps(of_shift, sum);
      of_factor = _mm512_fmadd_ps(sum, deviation, of_factor);
      Kind::Write(to.x + at, mask, _mm512_mul_ps(sum, factor));
    });
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
        InputGradient(s, own, phases, words, block_words, packed, dy, of);
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
