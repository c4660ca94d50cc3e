// The gradient of a 3x3 convolution with respect to its kernel, for CPUs with AVX-512 and its bfloat16 products.
//
//   dK(i, j, c, o) = sum over n, h, w of x(n, stride h + i - 1, stride w + j - 1, c) dy(n, h, w, o)
//
// Each example is packed once: x with its border of zeros, dy too, and of bfloat16 each two neighbours along w as one
// word of 32 bits, which is what the processor multiplies and adds.  Then 3 x 8 x 16 sums at a time (i, c, o) stay in
// registers for a pass over the example.  It reads the arrays as they lie, so nothing is shifted or transposed in
// memory.  The examples are divided into parts whose number depends on the shape alone and whose sums are added in
// order: results do not depend on the number of threads.

#include <immintrin.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

constexpr int64_t kSize = 3, kHalf = 1;  // of the kernel
constexpr int64_t kInner = 8;            // input channels whose sums are in registers
constexpr int64_t kOuter = 16;           // output channels in a register
constexpr int64_t kExamples = 16;        // of a part, at least
constexpr int64_t kSums = 1 << 20;       // of all parts together, unless that makes fewer than kParts
constexpr int64_t kParts = 4;
constexpr int64_t kShares = 8;           // of the parts' addition

int64_t RoundUp(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

// What is packed of bfloat16 are pairs, of float32 single numbers.
struct Bfloat16 {
  using Stored = uint16_t;
  static constexpr int64_t kPacked = 2;

  static __m512i Load(const Stored* from, __mmask16 mask) {
    return _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, from));
  }
  static __m512i Pack(__m512i first, __m512i second) { return _mm512_or_si512(first, _mm512_slli_epi32(second, 16)); }
  static __m512 MultiplyAdd(__m512 sum, __m512i a, __m512i b) {
    return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
  }
};

struct Float32 {
  using Stored = uint32_t;
  static constexpr int64_t kPacked = 1;

  static __m512i Load(const Stored* from, __mmask16 mask) { return _mm512_maskz_loadu_epi32(mask, from); }
  static __m512i Pack(__m512i first, __m512i) { return first; }
  static __m512 MultiplyAdd(__m512 sum, __m512i a, __m512i b) {
    return _mm512_fmadd_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), sum);
  }
};

// The shapes of x (examples, x_rows, x_columns, inner) and dy (examples, rows, columns, outer), and of what is packed.
struct Shape {
  int64_t examples, x_rows, x_columns, inner, rows, columns, outer, stride, packed;

  int64_t inner_padded() const { return RoundUp(inner, kInner); }
  int64_t outer_padded() const { return RoundUp(outer, kOuter); }
  int64_t words() const { return RoundUp(columns, packed) / packed; }  // in a row of dy
  // Word q of a row of x holds the columns q - 1 and, of bfloat16, q - 1 + stride.
  int64_t x_words() const { return stride * (words() * packed - 1) + kSize; }
  int64_t x_packed_rows() const { return x_rows + 2 * kHalf; }
  int64_t packed_rows() const { return rows + 2 * kHalf; }
  int64_t sums() const { return kSize * kSize * inner_padded() * outer_padded(); }
  int64_t examples_of_part() const {
    const int64_t most = std::max(kParts, kSums / sums());
    return std::max(kExamples, (examples + most - 1) / most);
  }
  int64_t parts() const { return std::max<int64_t>(1, RoundUp(examples, examples_of_part()) / examples_of_part()); }
};

// Grows to what is asked for and stays, aligned to a cache line; what it holds is lost.
class Memory {
 public:
  template <typename T>
  T* Take(int64_t count) {
    bytes_.resize(std::max<size_t>(bytes_.size(), count * sizeof(T) + kLine));
    return reinterpret_cast<T*>(RoundUp(reinterpret_cast<int64_t>(bytes_.data()), kLine));
  }

 private:
  static constexpr int64_t kLine = 64;
  std::vector<char> bytes_;
};

// Writes the words of two pixels, of which a null pointer is zeros: `channels` of each, and zeros up to `padded`.
template <typename Kind>
void PackPixels(const typename Kind::Stored* first, const typename Kind::Stored* second, int64_t channels,
                int64_t padded, uint32_t* to) {
  const __m512i zeros = _mm512_setzero_si512();
  for (int64_t k = 0; k < padded; k += 16) {
    const __mmask16 read = _bzhi_u32(0xffff, std::clamp<int64_t>(channels - k, 0, 16));
    const __mmask16 written = _bzhi_u32(0xffff, std::min<int64_t>(padded - k, 16));
    const __m512i one = first ? Kind::Load(first + k, read) : zeros, two = second ? Kind::Load(second + k, read) : zeros;
    _mm512_mask_storeu_epi32(to + k, written, Kind::Pack(one, two));
  }
}

// Packs an image (rows, columns, channels) with a border of rows of zeros.  Word q of a row holds the columns
// first + q step and, of bfloat16, the one `apart` to the right of it; those outside are zeros.
template <typename Kind>
void PackImage(const typename Kind::Stored* image, int64_t rows, int64_t columns, int64_t channels, int64_t padded,
               int64_t words, int64_t first, int64_t step, int64_t apart, uint32_t* to) {
  const bool whole = channels % 16 == 0;
  to = std::fill_n(to, kHalf * words * padded, 0);
  for (int64_t r = 0; r < rows; ++r, image += columns * channels) {
    const auto pixel = [&](int64_t column) {
      return column >= 0 && column < columns ? image + column * channels : nullptr;
    };
    for (int64_t q = 0; q < words; ++q, to += padded) {
      const auto *one = pixel(first + q * step), *two = pixel(first + q * step + apart);
      if (whole && one && two) {
        for (int64_t k = 0; k < padded; k += 16)
          _mm512_store_si512(to + k, Kind::Pack(Kind::Load(one + k, 0xffff), Kind::Load(two + k, 0xffff)));
      } else {
        PackPixels<Kind>(one, two, channels, padded, to);
      }
    }
  }
  std::fill_n(to, kHalf * words * padded, 0);
}

// Adds an example's share to the sums (i, j, c .. c + 8, o .. o + 16) of all i.
template <typename Kind, int64_t stride>
void AddBlock(const Shape& s, const uint32_t* x_packed, const uint32_t* dy_packed, int64_t j, int64_t c, int64_t o,
              float* sums) {
  const int64_t inner = s.inner_padded(), outer = s.outer_padded(), words = s.words(), x_row = s.x_words() * inner;
  const auto place = [&](int64_t i, int64_t k) { return sums + ((i * kSize + j) * inner + c + k) * outer + o; };
  __m512 sum[kSize][kInner];
  for (int64_t i = 0; i < kSize; ++i)
    for (int64_t k = 0; k < kInner; ++k) sum[i][k] = _mm512_load_ps(place(i, k));
  if constexpr (stride == 1) {
    // A row of x meets three rows of dy.
    for (int64_t r = 0; r < s.x_rows; ++r) {
      const uint32_t* a = x_packed + (r + kHalf) * x_row + j * inner + c;
      const uint32_t* b = dy_packed + r * words * outer + o;
      for (int64_t q = 0; q < words; ++q, a += Kind::kPacked * inner, b += outer) {
        __m512i dy[kSize];
        for (int64_t i = 0; i < kSize; ++i) dy[i] = _mm512_load_si512(b + (2 * kHalf - i) * words * outer);
#pragma GCC unroll 8
        for (int64_t k = 0; k < kInner; ++k) {
          const __m512i x = _mm512_set1_epi32(a[k]);
#pragma GCC unroll 3
          for (int64_t i = 0; i < kSize; ++i) sum[i][k] = Kind::MultiplyAdd(sum[i][k], x, dy[i]);
        }
      }
    }
  } else {
    // A row of dy meets three rows of x.
    for (int64_t r = 0; r < s.rows; ++r) {
      const uint32_t* a = x_packed + stride * r * x_row + j * inner + c;
      const uint32_t* b = dy_packed + (r + kHalf) * words * outer + o;
      for (int64_t q = 0; q < words; ++q, a += stride * Kind::kPacked * inner, b += outer) {
        const __m512i dy = _mm512_load_si512(b);
#pragma GCC unroll 3
        for (int64_t i = 0; i < kSize; ++i) {
#pragma GCC unroll 8
          for (int64_t k = 0; k < kInner; ++k)
            sum[i][k] = Kind::MultiplyAdd(sum[i][k], _mm512_set1_epi32(a[i * x_row + k]), dy);
        }
      }
    }
  }
  for (int64_t i = 0; i < kSize; ++i)
    for (int64_t k = 0; k < kInner; ++k) _mm512_store_ps(place(i, k), sum[i][k]);
}

// Writes the sums over one part of the examples.
template <typename Kind, int64_t stride>
void SumPart(const Shape& s, const typename Kind::Stored* x, const typename Kind::Stored* dy, int64_t part, float* sums) {
  thread_local Memory for_x, for_dy;
  uint32_t* x_packed = for_x.Take<uint32_t>(s.x_packed_rows() * s.x_words() * s.inner_padded());
  uint32_t* dy_packed = for_dy.Take<uint32_t>(s.packed_rows() * s.words() * s.outer_padded());
  std::fill_n(sums, s.sums(), 0.0f);
  const int64_t end = std::min((part + 1) * s.examples_of_part(), s.examples);
  for (int64_t n = part * s.examples_of_part(); n < end; ++n) {
    PackImage<Kind>(x + n * s.x_rows * s.x_columns * s.inner, s.x_rows, s.x_columns, s.inner, s.inner_padded(),
                    s.x_words(), -kHalf, 1, s.stride, x_packed);
    PackImage<Kind>(dy + n * s.rows * s.columns * s.outer, s.rows, s.columns, s.outer, s.outer_padded(), s.words(), 0,
                    s.packed, 1, dy_packed);
    for (int64_t j = 0; j < kSize; ++j)
      for (int64_t c = 0; c < s.inner_padded(); c += kInner)
        for (int64_t o = 0; o < s.outer_padded(); o += kOuter)
          AddBlock<Kind, stride>(s, x_packed, dy_packed, j, c, o, sums);
  }
}

// Adds the parts' sums in order, without the padding of channels, in one of kShares shares of the rows (i, j, c).
void AddParts(const Shape& s, const float* sums, int64_t share, float* out) {
  const int64_t rows = kSize * kSize * s.inner;
  for (int64_t row = share * rows / kShares; row < (share + 1) * rows / kShares; ++row) {
    const float* from = sums + (row / s.inner * s.inner_padded() + row % s.inner) * s.outer_padded();
    for (int64_t o = 0; o < s.outer; o += kOuter) {
      __m512 sum = _mm512_load_ps(from + o);
      for (int64_t part = 1; part < s.parts(); ++part)
        sum = _mm512_add_ps(sum, _mm512_load_ps(from + part * s.sums() + o));
      const __mmask16 written = _bzhi_u32(0xffff, std::min<int64_t>(s.outer - o, kOuter));
      _mm512_mask_storeu_ps(out + row * s.outer + o, written, sum);
    }
  }
}

// Calls work(0 .. count - 1) on the caller's thread and on those of the pool that are free, and returns when all is
// done.  It waits only for work that has begun, so callers that hold all threads of the pool do not block each other.
void InParallel(ffi::ThreadPool& pool, int64_t count, const std::function<void(int64_t)>& work) {
  struct Progress {
    std::atomic<int64_t> next{0};
    std::mutex mutex;
    std::condition_variable finished;
    int64_t done = 0;
  };
  const auto progress = std::make_shared<Progress>();
  // A helper that comes late finds nothing left, and may not touch `work`, which is the caller's.
  const std::function<void()> help = [progress, count, &work] {
    for (int64_t part; (part = progress->next++) < count;) {
      work(part);
      const std::lock_guard<std::mutex> lock(progress->mutex);
      if (++progress->done == count) progress->finished.notify_all();
    }
  };
  for (int64_t helpers = std::min(pool.num_threads(), count) - 1; helpers > 0; --helpers)
    pool.Schedule(std::function<void()>(help));
  help();
  std::unique_lock<std::mutex> lock(progress->mutex);
  progress->finished.wait(lock, [&] { return progress->done == count; });
}

template <typename Kind, int64_t stride>
void KernelGradientOf(ffi::ThreadPool& pool, const Shape& s, const void* x, const void* dy, float* out) {
  using Stored = typename Kind::Stored;
  thread_local Memory for_sums;
  float* sums = for_sums.Take<float>(s.parts() * s.sums());
  InParallel(pool, s.parts(), [&](int64_t part) {
    SumPart<Kind, stride>(s, static_cast<const Stored*>(x), static_cast<const Stored*>(dy), part,
                          sums + part * s.sums());
  });
  InParallel(pool, kShares, [&](int64_t share) { AddParts(s, sums, share, out); });
}

// x (..., N, H, W, I) and dy (..., N, H / stride, W / stride, O), both bfloat16 or both float32, to (..., 3, 3, I, O).
ffi::Error Handle(ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::AnyBuffer dy, ffi::Result<ffi::Buffer<ffi::F32>> out) {
  const auto of_x = x.dimensions(), of_dy = dy.dimensions();
  const size_t leading = of_x.size() < 4 ? 0 : of_x.size() - 4;
  if (of_x.size() < 4 || of_dy.size() != of_x.size() || x.element_type() != dy.element_type())
    return ffi::Error::InvalidArgument("kernel_gradient: x and dy must be of one dtype and have four axes or more");
  const bool narrow = x.element_type() == ffi::BF16;
  if (!narrow && x.element_type() != ffi::F32)
    return ffi::Error::InvalidArgument("kernel_gradient: x must be of bfloat16 or float32");
  const int64_t* sx = of_x.begin() + leading;
  const int64_t* sy = of_dy.begin() + leading;
  Shape s{sx[0], sx[1], sx[2], sx[3], sy[1], sy[2], sy[3], sy[1] ? sx[1] / sy[1] : 0, narrow ? 2 : 1};
  if (sx[0] != sy[0] || (s.stride != 1 && s.stride != 2) || s.rows * s.stride != s.x_rows ||
      s.columns * s.stride != s.x_columns)
    return ffi::Error::InvalidArgument("kernel_gradient: dy must have x's examples, and its height and width over 1 or 2");
  const auto of_one = narrow ? (s.stride == 1 ? KernelGradientOf<Bfloat16, 1> : KernelGradientOf<Bfloat16, 2>)
                             : (s.stride == 1 ? KernelGradientOf<Float32, 1> : KernelGradientOf<Float32, 2>);
  int64_t members = 1;
  for (size_t axis = 0; axis < leading; ++axis) {
    if (of_x[axis] != of_dy[axis]) return ffi::Error::InvalidArgument("kernel_gradient: dy must have x's leading axes");
    members *= of_x[axis];
  }
  if (static_cast<int64_t>(out->element_count()) != members * kSize * kSize * s.inner * s.outer)
    return ffi::Error::InvalidArgument("kernel_gradient: the result must have 9 x inner x outer elements");
  const int64_t bytes = narrow ? 2 : 4;
  for (int64_t member = 0; member < members; ++member)
    of_one(pool, s, static_cast<const char*>(x.untyped_data()) + member * (x.element_count() / members) * bytes,
           static_cast<const char*>(dy.untyped_data()) + member * (dy.element_count() / members) * bytes,
           out->typed_data() + member * (out->element_count() / members));
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    KernelGradient, Handle,
    ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<ffi::AnyBuffer>().Arg<ffi::AnyBuffer>().Ret<ffi::Buffer<ffi::F32>>());
