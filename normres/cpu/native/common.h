// What the others build on: the two kinds of numbers, a convolution's sizes, memory, and threads.

#pragma once

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

namespace normres {

constexpr int64_t kLanes = 16;  // float32 numbers in a register
constexpr int64_t kLine = 64;   // bytes of the caches' lines
constexpr int64_t kTile = 4;    // rows and columns of output pixels whose sums are in registers together

inline int64_t RoundUp(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

// The first `count` lanes.
inline __mmask16 Lanes(int64_t count) { return _bzhi_u32(0xffff, std::clamp<int64_t>(count, 0, kLanes)); }

// What is multiplied are words of 32 bits: a pair of bfloat16 numbers, or one of float32.
struct Bfloat16 {
  using Stored = uint16_t;
  static constexpr int64_t kPacked = 2;

  static __m512i Bits(const Stored* from, __mmask16 mask) {
    return _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, from));
  }
  static __m256i Rounded(__m512 value) { return reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(value)); }
  static void Write(Stored* to, __mmask16 mask, __m512 value) { _mm256_mask_storeu_epi16(to, mask, Rounded(value)); }
  static __m512i Join(__m512i first, __m512i second) { return _mm512_or_si512(first, _mm512_slli_epi32(second, 16)); }
  static __m512i Words(__m512 first, __m512 second) {
    return Join(_mm512_cvtepu16_epi32(Rounded(first)), _mm512_cvtepu16_epi32(Rounded(second)));
  }
  static __m512 MultiplyAdd(__m512 sum, __m512i a, __m512i b) {
    return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
  }
};

struct Float32 {
  using Stored = float;
  static constexpr int64_t kPacked = 1;

  static __m512i Bits(const Stored* from, __mmask16 mask) { return _mm512_maskz_loadu_epi32(mask, from); }
  static void Write(Stored* to, __mmask16 mask, __m512 value) { _mm512_mask_storeu_ps(to, mask, value); }
  static __m512i Join(__m512i first, __m512i) { return first; }
  static __m512i Words(__m512 first, __m512) { return _mm512_castps_si512(first); }
  static __m512 MultiplyAdd(__m512 sum, __m512i a, __m512i b) {
    return _mm512_fmadd_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), sum);
  }
};

// The sizes of x (examples, x_rows, x_columns, inner), of the kernel (size, size, inner, outer) and of
// y (examples, rows, columns, outer), and of their packed images: rows of pixels with a border of zeros, on the right
// and below as wide as tiles of outputs reach, and their channels filled up to pairs.
struct Shape {
  int64_t examples, x_rows, x_columns, inner, rows, columns, outer, stride, size;

  int64_t half() const { return size / 2; }
  int64_t taps() const { return size * size; }
  static int64_t Channels(int64_t channels) { return RoundUp(channels, 2); }
  int64_t x_image() const { return x_rows * x_columns * inner; }
  int64_t y_image() const { return rows * columns * outer; }
  int64_t x_packed_rows() const { return stride * RoundUp(rows, kTile) + size; }
  int64_t x_packed_columns() const { return stride * RoundUp(columns, kTile) + size; }
  int64_t y_packed_rows() const { return RoundUp(rows, kTile) + 2 * half(); }
  int64_t y_packed_columns() const { return RoundUp(columns, kTile) + 2 * half() + 1; }
  int64_t x_packed() const { return x_packed_rows() * x_packed_columns() * Channels(inner); }
  int64_t y_packed() const { return y_packed_rows() * y_packed_columns() * Channels(outer); }
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
  std::vector<char> bytes_;
};

// Calls work(0 .. count - 1) on the caller's thread and on those of the pool that are free, and returns when all is
// done.  It waits only for work that has begun, so callers that hold all threads of the pool do not block each other.
inline void InParallel(xla::ffi::ThreadPool& pool, int64_t count, const std::function<void(int64_t)>& work) {
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

}  // namespace normres
