// Convolutions of size 1 or 3 and stride 1 or 2 with what stands around them in a network, for CPUs with AVX-512 and its
// bfloat16 products: what a norm, an addition and a rectifier make of the input is done while an example is packed, and
// the output's moments are taken while it is in registers.  Nothing of that is written to memory unless it is asked for.
//
//   Forward:   u = max(factor (x - center) + shift + side, floor),  y = u * kernel,
//              mean and sum of squared deviations of y for each example and channel
//   Backward:  the gradients of x, side, factor, shift and kernel, from those of y, its moments and u
//
// An array of no elements stands for one that is not given or not wanted.

#include "kernel_gradient.h"
#include "product.h"

namespace ffi = xla::ffi;

namespace normres {
namespace {

constexpr int64_t kForwardExamples = 4;  // that a thread takes at a time

// Moves a pointer to an example's numbers; null stays null.
template <typename T>
T* At(T* array, int64_t offset) {
  return array ? array + offset : nullptr;
}

template <typename Kind>
Input<Kind> Example(const Input<Kind>& in, int64_t n, int64_t image, int64_t channels) {
  return {in.x + n * image,           At(in.side, n * image),          At(in.center, n * channels),
          At(in.factor, n * channels), At(in.shift, n * channels), in.rectify, At(in.activated, n * image)};
}

// The kernel's words, for each 16 channels of the result; they are the calling thread's until its next call.
template <typename Kind>
const uint32_t* PackedKernel(ffi::ThreadPool& pool, const Shape& s, const std::vector<Phase>& phases, bool forward,
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
void ForwardOf(ffi::ThreadPool& pool, const Shape& s, const Input<Kind>& in, const float* kernel,
               typename Kind::Stored* y, float* mean, float* squares) {
  const std::vector<Phase> phases = ForwardPhases(s);
  int64_t block_words;
  const uint32_t* words = PackedKernel<Kind>(pool, s, phases, true, kernel, &block_words);
  const auto example = [&](int64_t n, typename Kind::Stored* packed) {
    PackInput<Kind>(Example(in, n, s.x_image(), s.inner), s.x_rows, s.x_columns, s.inner, s.half(),
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

// Where the gradients go; null: not wanted.  `activated` is that of what Input keeps.
template <typename Kind>
struct Gradients {
  using Stored = typename Kind::Stored;
  const Stored* activated;
  Stored *x, *side;
  float *factor, *shift;
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

// `out` is y seen as an input: its gradient the side, its moments' gradients center, factor and shift.
template <typename Kind>
void BackwardOf(ffi::ThreadPool& pool, const Shape& s, const Input<Kind>& in, const Input<Kind>& out,
                const float* kernel, const Gradients<Kind>& to, float* kernel_gradient) {
  using Stored = typename Kind::Stored;
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
      const Input<Kind> own = Example(in, e, s.x_image(), s.inner);
      PackInput<Kind>(own, s.x_rows, s.x_columns, s.inner, s.half(), s.x_packed_columns(), packed);
      PackInput<Kind>(Example(out, e, s.y_image(), s.outer), s.rows, s.columns, s.outer, s.half(),
                      s.y_packed_columns(), dy);
      if (to.x) {
        const int64_t image = e * s.x_image(), channels = e * s.inner;
        const Gradients<Kind> of{At(to.activated, image), to.x + image, At(to.side, image), At(to.factor, channels),
                                 At(to.shift, channels)};
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
}

// Reads the arguments of calls for several members (leading axes beyond the usual ones) one by one.
class Call {
 public:
  // x (..., N, H, W, I) and kernel (..., K, K, I, O).
  Call(ffi::AnyBuffer x, ffi::AnyBuffer kernel, int64_t stride) {
    const auto of_x = x.dimensions(), of_kernel = kernel.dimensions();
    Check(of_x.size() >= 4 && of_kernel.size() == of_x.size(), "x and kernel must have four axes, or as many more");
    if (!error_.empty()) return;
    const size_t leading = of_x.size() - 4;
    for (size_t axis = 0; axis < leading; ++axis) {
      members *= of_x[axis];
      Check(of_x[axis] == of_kernel[axis], "kernel must have x's leading axes");
    }
    const int64_t *sx = of_x.begin() + leading, *sk = of_kernel.begin() + leading;
    Check(stride == 1 || stride == 2, "stride must be 1 or 2");
    Check(sk[0] == sk[1] && (sk[0] == 1 || sk[0] == 3), "the kernel must be of 1x1 or 3x3");
    Check(sk[2] == sx[3], "the kernel must have x's channels");
    if (!error_.empty()) return;
    shape = {sx[0], sx[1], sx[2], sx[3], (sx[1] + stride - 1) / stride, (sx[2] + stride - 1) / stride, sk[3], stride, sk[0]};
    type_ = x.element_type();
    narrow = type_ == ffi::BF16;
    Check(narrow || type_ == ffi::F32, "x must be of bfloat16 or float32");
    Expect("kernel", kernel, shape.taps() * shape.inner * shape.outer, ffi::F32, false);
  }

  // Requires x's dtype and so many elements of each member, or none.
  void Image(const char* name, ffi::AnyBuffer buffer, int64_t elements, bool absent = true) {
    Expect(name, buffer, elements, type_, absent);
  }
  void Numbers(const char* name, ffi::AnyBuffer buffer, int64_t elements, bool absent = true) {
    Expect(name, buffer, elements, ffi::F32, absent);
  }
  void Check(bool holds, const std::string& message) {
    if (!holds && error_.empty()) error_ = "convolution: " + message;
  }
  bool ok() const { return error_.empty(); }
  ffi::Error error() const { return ffi::Error::InvalidArgument(error_); }

  // A member's elements; null if the array has none.
  template <typename T>
  T* Of(ffi::AnyBuffer buffer, int64_t member) const {
    const int64_t elements = static_cast<int64_t>(buffer.element_count());
    return elements ? static_cast<T*>(buffer.untyped_data()) + member * (elements / members) : nullptr;
  }

  Shape shape{};
  int64_t members = 1;
  bool narrow = false;

 private:
  void Expect(const char* name, ffi::AnyBuffer buffer, int64_t elements, ffi::DataType type, bool absent) {
    const int64_t found = static_cast<int64_t>(buffer.element_count());
    Check(found == members * elements || (absent && found == 0), std::string(name) + " has a wrong shape");
    Check(buffer.element_type() == type, std::string(name) + " has a wrong dtype");
  }

  std::string error_;
  ffi::DataType type_{};
};

using Numbers = ffi::Result<ffi::AnyBuffer>;  // float32

ffi::Error Forward(ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::AnyBuffer center, ffi::AnyBuffer factor,
                   ffi::AnyBuffer shift, ffi::AnyBuffer side, ffi::AnyBuffer kernel, ffi::Result<ffi::AnyBuffer> y,
                   Numbers mean, Numbers squares, ffi::Result<ffi::AnyBuffer> activated, int64_t stride, bool rectify) {
  Call call(x, kernel, stride);
  if (!call.ok()) return call.error();
  const Shape& s = call.shape;
  call.Image("side", side, s.examples * s.x_image());
  call.Image("y", *y, s.examples * s.y_image(), false);
  call.Image("activated", *activated, s.examples * s.x_image());
  for (const auto& array : {center, factor, shift}) call.Numbers("center, factor or shift", array, s.examples * s.inner);
  call.Check(center.element_count() == factor.element_count() && shift.element_count() == factor.element_count(),
             "center, factor and shift must be given together");
  call.Numbers("mean", *mean, s.examples * s.outer);
  call.Numbers("squares", *squares, s.examples * s.outer);
  call.Check(mean->element_count() == squares->element_count(), "mean and squares must be wanted together");
  if (!call.ok()) return call.error();
  const auto run = [&](auto kind) {
    using Kind = decltype(kind);
    using Stored = typename Kind::Stored;
    for (int64_t m = 0; m < call.members; ++m) {
      const Input<Kind> in{call.Of<Stored>(x, m),     call.Of<Stored>(side, m), call.Of<float>(center, m),
                           call.Of<float>(factor, m), call.Of<float>(shift, m), rectify,
                           call.Of<Stored>(*activated, m)};
      ForwardOf<Kind>(pool, s, in, call.Of<float>(kernel, m), call.Of<Stored>(*y, m), call.Of<float>(*mean, m),
                      call.Of<float>(*squares, m));
    }
  };
  call.narrow ? run(Bfloat16{}) : run(Float32{});
  return ffi::Error::Success();
}

ffi::Error Backward(ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::AnyBuffer center, ffi::AnyBuffer factor,
                    ffi::AnyBuffer shift, ffi::AnyBuffer side, ffi::AnyBuffer kernel, ffi::AnyBuffer dy,
                    ffi::AnyBuffer y, ffi::AnyBuffer mean, ffi::AnyBuffer per_deviation, ffi::AnyBuffer per_element,
                    ffi::AnyBuffer d_activated, ffi::Result<ffi::AnyBuffer> dx, ffi::Result<ffi::AnyBuffer> d_side,
                    Numbers d_factor, Numbers d_shift, Numbers d_kernel, int64_t stride, bool rectify) {
  Call call(x, kernel, stride);
  if (!call.ok()) return call.error();
  const Shape& s = call.shape;
  call.Check(s.rows * stride == s.x_rows && s.columns * stride == s.x_columns,
             "the stride must divide x's height and width");
  call.Image("side", side, s.examples * s.x_image());
  call.Image("dy", dy, s.examples * s.y_image(), false);
  call.Image("y", y, s.examples * s.y_image());
  call.Image("d_activated", d_activated, s.examples * s.x_image());
  call.Image("dx", *dx, s.examples * s.x_image());
  call.Image("d_side", *d_side, s.examples * s.x_image());
  for (const auto& array : {center, factor, shift}) call.Numbers("center, factor or shift", array, s.examples * s.inner);
  for (const auto& array : {mean, per_deviation, per_element})
    call.Numbers("mean, per_deviation or per_element", array, s.examples * s.outer);
  for (const auto& array : {*d_factor, *d_shift}) call.Numbers("d_factor or d_shift", array, s.examples * s.inner);
  call.Numbers("d_kernel", *d_kernel, s.taps() * s.inner * s.outer, false);
  const bool affine = factor.element_count(), measured = y.element_count(), wanted = dx->element_count();
  call.Check(!!center.element_count() == affine && !!shift.element_count() == affine,
             "center, factor and shift must be given together");
  call.Check(!!mean.element_count() == measured && !!per_deviation.element_count() == measured &&
                 !!per_element.element_count() == measured,
             "y, mean, per_deviation and per_element must be given together");
  call.Check(!wanted || (!!d_factor->element_count() == affine && !!d_shift->element_count() == affine),
             "d_factor and d_shift belong to factor and shift");
  if (!call.ok()) return call.error();
  const auto run = [&](auto kind) {
    using Kind = decltype(kind);
    using Stored = typename Kind::Stored;
    for (int64_t m = 0; m < call.members; ++m) {
      const Input<Kind> in{call.Of<Stored>(x, m),     call.Of<Stored>(side, m), call.Of<float>(center, m),
                           call.Of<float>(factor, m), call.Of<float>(shift, m), rectify, nullptr};
      const Stored *of_y = call.Of<Stored>(y, m), *of_dy = call.Of<Stored>(dy, m);
      const Input<Kind> out{of_y ? of_y : of_dy,
                            of_y ? of_dy : nullptr,
                            call.Of<float>(mean, m),
                            call.Of<float>(per_deviation, m),
                            call.Of<float>(per_element, m),
                            false,
                            nullptr};
      const Gradients<Kind> to{call.Of<Stored>(d_activated, m), call.Of<Stored>(*dx, m), call.Of<Stored>(*d_side, m),
                               call.Of<float>(*d_factor, m), call.Of<float>(*d_shift, m)};
      BackwardOf<Kind>(pool, s, in, out, call.Of<float>(kernel, m), to, call.Of<float>(*d_kernel, m));
    }
  };
  call.narrow ? run(Bfloat16{}) : run(Float32{});
  return ffi::Error::Success();
}

}  // namespace
}  // namespace normres

using Any = ffi::AnyBuffer;

XLA_FFI_DEFINE_HANDLER_SYMBOL(ConvolutionForward, normres::Forward,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Any>()  // x
                                  .Arg<Any>()  // center
                                  .Arg<Any>()  // factor
                                  .Arg<Any>()  // shift
                                  .Arg<Any>()  // side
                                  .Arg<Any>()  // kernel
                                  .Ret<Any>()  // y
                                  .Ret<Any>()  // mean
                                  .Ret<Any>()  // squares
                                  .Ret<Any>()  // activated
                                  .Attr<int64_t>("stride")
                                  .Attr<bool>("rectify"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(ConvolutionBackward, normres::Backward,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Any>()  // x
                                  .Arg<Any>()  // center
                                  .Arg<Any>()  // factor
                                  .Arg<Any>()  // shift
                                  .Arg<Any>()  // side
                                  .Arg<Any>()  // kernel
                                  .Arg<Any>()  // dy
                                  .Arg<Any>()  // y
                                  .Arg<Any>()  // mean
                                  .Arg<Any>()  // per_deviation
                                  .Arg<Any>()  // per_element
                                  .Arg<Any>()  // d_activated
                                  .Ret<Any>()  // dx
                                  .Ret<Any>()  // d_side
                                  .Ret<Any>()  // d_factor
                                  .Ret<Any>()  // d_shift
                                  .Ret<Any>()  // d_kernel
                                  .Attr<int64_t>("stride")
                                  .Attr<bool>("rectify"));
