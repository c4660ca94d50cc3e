// The gradient of a convolution with respect to its kernel.
//
//   dK(i, j, c, o) = sum over n, h, w of x(n, stride h + i - half, stride w + j - half, c) dy(n, h, w, o)
//
// Of the packed images, each two neighbours along w make one word if they are bfloat16, which is what the processor
// multiplies and adds.  Then size x 8 x 16 sums at a time (i, c, o) stay in registers for a pass over the example.  It
// reads the arrays as they lie, so nothing is shifted or transposed in memory.  The examples are divided into parts
// whose number depends on the shape alone and whose sums are added in order: results do not depend on the number of
// threads.

#pragma once

#include "common.h"

namespace normres {

constexpr int64_t kInner = 8;       // input channels whose sums are in registers
constexpr int64_t kExamples = 4;    // of a part, at least
constexpr int64_t kSums = 1 << 19;  // of all parts together, unless that makes fewer than kParts
constexpr int64_t kParts = 4;
constexpr int64_t kShares = 8;      // of the parts' addition
constexpr int64_t kWords = 256;     // of dy that a pass over packed examples meets, if the part has as many

// The sizes of what is summed, and of the words; packed is the numbers in a word.
struct Sums {
  const Shape& s;
  int64_t packed;

  int64_t inner() const { return RoundUp(s.inner, kInner); }
  int64_t outer() const { return RoundUp(s.outer, kLanes); }
  int64_t words() const { return RoundUp(s.columns, packed) / packed; }  // in a row of dy
  // Word q of a row of x holds the columns q - half and, of bfloat16, q - half + stride.
  int64_t x_words() const { return s.stride * (words() * packed - 1) + s.size; }
  int64_t x_size() const { return (s.x_rows + 2 * s.half()) * x_words() * inner(); }
  int64_t dy_size() const { return (s.rows + 2 * s.half()) * words() * outer(); }
  int64_t count() const { return s.taps() * inner() * outer(); }
  // Examples that are packed before a pass over them, so that sums are not taken to registers and back for a few words.
  int64_t together() const {
    return std::clamp<int64_t>(kWords / std::max<int64_t>(1, s.rows * words()), 1, kExamples);
  }
  int64_t examples_of_part() const {
    const int64_t most = std::max(kParts, kSums / count());
    return std::max(kExamples, (s.examples + most - 1) / most);
  }
  int64_t parts() const { return std::max<int64_t>(1, RoundUp(s.examples, examples_of_part()) / examples_of_part()); }
};

// Writes words of a packed image: word q of a row holds column first + q step and, of bfloat16, that `apart` to the
// right of it, `padded` channels of them, zeros where the image has none.  `whole`: the channels fill registers.
template <typename Kind, bool whole>
void PackPairs(const typename Kind::Stored* image, int64_t rows, int64_t packed_columns, int64_t channels,
               int64_t first, int64_t step, int64_t apart, int64_t words, int64_t padded, uint32_t* to) {
  const int64_t packed = Shape::Channels(channels);
  for (int64_t r = 0; r < rows; ++r) {
    const auto* one = image + (r * packed_columns + first) * packed;
    const auto* two = one + apart * packed;
    for (int64_t q = 0; q < words; ++q, one += step * packed, two += step * packed, to += padded)
      for (int64_t c = 0; c < padded; c += kLanes) {
        const __mmask16 read = whole ? 0xffff : Lanes(packed - c), written = whole ? 0xffff : Lanes(padded - c);
        const __m512i word = Kind::Join(Kind::Bits(one + c, read), Kind::Bits(two + c, read));
        if (written == 0xffff)
          _mm512_storeu_si512(to + c, word);
        else
          _mm512_mask_storeu_epi32(to + c, written, word);
      }
  }
}

// Adds the share of some examples to the sums (i, j, c .. c + 8, o .. o + 16) of all i.
template <typename Kind, int64_t stride, int64_t size>
void AddBlock(const Sums& n, const uint32_t* x, const uint32_t* dy, int64_t examples, int64_t j, int64_t c, int64_t o,
              float* sums) {
  constexpr int64_t half = size / 2;
  const int64_t inner = n.inner(), outer = n.outer(), words = n.words(), x_row = n.x_words() * inner;
  const auto place = [&](int64_t i, int64_t k) { return sums + ((i * size + j) * inner + c + k) * outer + o; };
  __m512 sum[size][kInner];
  for (int64_t i = 0; i < size; ++i)
    for (int64_t k = 0; k < kInner; ++k) sum[i][k] = _mm512_load_ps(place(i, k));
  for (int64_t e = 0; e < examples; ++e, x += n.x_size(), dy += n.dy_size()) {
    if constexpr (stride == 1) {
      // A row of x meets `size` rows of dy.
      for (int64_t r = 0; r < n.s.x_rows; ++r) {
        const uint32_t* a = x + (r + half) * x_row + j * inner + c;
        const uint32_t* b = dy + r * words * outer + o;
        for (int64_t q = 0; q < words; ++q, a += Kind::kPacked * inner, b += outer) {
          __m512i rows[size];
          for (int64_t i = 0; i < size; ++i) rows[i] = _mm512_load_si512(b + (2 * half - i) * words * outer);
#pragma GCC unroll 8
          for (int64_t k = 0; k < kInner; ++k) {
            const __m512i of_x = _mm512_set1_epi32(a[k]);
#pragma GCC unroll 3
            for (int64_t i = 0; i < size; ++i) sum[i][k] = Kind::MultiplyAdd(sum[i][k], of_x, rows[i]);
          }
        }
      }
    } else {
      // A row of dy meets `size` rows of x.
      for (int64_t r = 0; r < n.s.rows; ++r) {
        const uint32_t* a = x + stride * r * x_row + j * inner + c;
        const uint32_t* b = dy + (r + half) * words * outer + o;
        for (int64_t q = 0; q < words; ++q, a += stride * Kind::kPacked * inner, b += outer) {
          const __m512i row = _mm512_load_si512(b);
#pragma GCC unroll 3
          for (int64_t i = 0; i < size; ++i) {
#pragma GCC unroll 8
            for (int64_t k = 0; k < kInner; ++k)
              sum[i][k] = Kind::MultiplyAdd(sum[i][k], _mm512_set1_epi32(a[i * x_row + k]), row);
          }
        }
      }
    }
  }
  for (int64_t i = 0; i < size; ++i)
    for (int64_t k = 0; k < kInner; ++k) _mm512_store_ps(place(i, k), sum[i][k]);
}

// Writes the words of an example, from its packed images.
template <typename Kind>
void PackExample(const Sums& n, const typename Kind::Stored* x_packed, const typename Kind::Stored* dy_packed,
                 uint32_t* x, uint32_t* dy) {
  const Shape& s = n.s;
  const auto pack_x = s.inner % kLanes ? PackPairs<Kind, false> : PackPairs<Kind, true>;
  const auto pack_dy = s.outer % kLanes ? PackPairs<Kind, false> : PackPairs<Kind, true>;
  pack_x(x_packed, s.x_rows + 2 * s.half(), s.x_packed_columns(), s.inner, 0, 1, s.stride, n.x_words(), n.inner(), x);
  pack_dy(dy_packed, s.rows + 2 * s.half(), s.y_packed_columns(), s.outer, s.half(), n.packed, 1, n.words(), n.outer(),
          dy);
}

// Adds the share of some examples to all sums.
template <typename Kind>
void AddExamples(const Sums& n, const uint32_t* x, const uint32_t* dy, int64_t examples, float* sums) {
  const Shape& s = n.s;
  const auto add = s.size == 1 ? (s.stride == 1 ? AddBlock<Kind, 1, 1> : AddBlock<Kind, 2, 1>)
                               : (s.stride == 1 ? AddBlock<Kind, 1, 3> : AddBlock<Kind, 2, 3>);
  for (int64_t j = 0; j < s.size; ++j)
    for (int64_t c = 0; c < n.inner(); c += kInner)
      for (int64_t o = 0; o < n.outer(); o += kLanes) add(n, x, dy, examples, j, c, o, sums);
}

// Adds the parts' sums in order, without the padding of channels, in one of kShares shares of the rows (i, j, c).
inline void AddParts(const Sums& n, const float* sums, int64_t share, float* out) {
  const Shape& s = n.s;
  const int64_t rows = s.taps() * s.inner;
  for (int64_t row = share * rows / kShares; row < (share + 1) * rows / kShares; ++row) {
    const float* from = sums + (row / s.inner * n.inner() + row % s.inner) * n.outer();
    for (int64_t o = 0; o < s.outer; o += kLanes) {
      __m512 sum = _mm512_load_ps(from + o);
      for (int64_t part = 1; part < n.parts(); ++part)
        sum = _mm512_add_ps(sum, _mm512_load_ps(from + part * n.count() + o));
      _mm512_mask_storeu_ps(out + row * s.outer + o, Lanes(s.outer - o), sum);
    }
  }
}

}  // namespace normres
