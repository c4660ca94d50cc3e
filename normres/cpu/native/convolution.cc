// Convolutions of size 1 or 3 and stride 1 or 2, and their gradients, for CPUs with AVX-512 and its bfloat16 products.
// XLA calls them; all that they are given is checked.

#include <initializer_list>
#include <string>

#include "kernel_gradient.h"
#include "product.h"

namespace ffi = xla::ffi;

namespace normres {
namespace {

constexpr int64_t kForwardExamples = 4;  // that a thread takes at a time

template <typename Kind, typename Stored = typename Kind::Stored>
void Forward(ffi::ThreadPool& pool, const Shape& s, const Stored* x, const float* kernel, Stored* y) {
  const Plan plan = ForwardPlan(s);
  const uint32_t* words = PackKernel<Kind>(s, plan, kernel);
  InParallel(pool, RoundUp(s.examples, kForwardExamples) / kForwardExamples, [&](int64_t part) {
    thread_local Memory for_x;
    Stored* packed = for_x.Take<Stored>(s.x_packed());
    std::fill_n(packed, s.x_packed(), 0);
    const int64_t end = std::min((part + 1) * kForwardExamples, s.examples);
    for (int64_t e = part * kForwardExamples; e < end; ++e) {
      const Stored *own = x + e * s.x_image(), *next = own + s.x_image();
      PackImage(own, s.x_rows, s.x_columns, s.inner, s.half(), s.x_packed_columns(), packed);
      Convolve<Kind>(plan, packed, words, y + e * s.y_image(), next, e + 1 < end ? s.x_image() : 0);
    }
  });
}

// dx is null where it is not wanted.
template <typename Kind, typename Stored = typename Kind::Stored>
void Backward(ffi::ThreadPool& pool, const Shape& s, const Stored* x, const float* kernel, const Stored* dy, Stored* dx,
              float* d_kernel) {
  const Plan plan = BackwardPlan(s);
  const uint32_t* words = dx ? PackKernel<Kind>(s, plan, kernel) : nullptr;
  const Sums n{s, Kind::kPacked};
  thread_local Memory for_sums;
  float* sums = for_sums.Take<float>(n.parts() * n.count());
  InParallel(pool, n.parts(), [&](int64_t part) {
    thread_local Memory for_x, for_dy, for_x_words, for_dy_words;
    Stored *x_packed = for_x.Take<Stored>(s.x_packed()), *dy_packed = for_dy.Take<Stored>(s.y_packed());
    uint32_t* x_words = for_x_words.Take<uint32_t>(n.together() * n.x_size());
    uint32_t* dy_words = for_dy_words.Take<uint32_t>(n.together() * n.dy_size());
    std::fill_n(x_packed, s.x_packed(), 0);
    std::fill_n(dy_packed, s.y_packed(), 0);
    std::fill_n(sums + part * n.count(), n.count(), 0.0f);
    int64_t waiting = 0;
    const int64_t end = std::min((part + 1) * n.examples_of_part(), s.examples);
    for (int64_t e = part * n.examples_of_part(); e < end; ++e) {
      const Stored *own = x + e * s.x_image(), *next = own + s.x_image();
      PackImage(own, s.x_rows, s.x_columns, s.inner, s.half(), s.x_packed_columns(), x_packed);
      PackImage(dy + e * s.y_image(), s.rows, s.columns, s.outer, s.half(), s.y_packed_columns(), dy_packed);
      if (dx) Convolve<Kind>(plan, dy_packed, words, dx + e * s.x_image(), next, e + 1 < end ? s.x_image() : 0);
      PackExample<Kind>(n, x_packed, dy_packed, x_words + waiting * n.x_size(), dy_words + waiting * n.dy_size());
      if (++waiting == n.together() || e + 1 == end) {
        AddExamples<Kind>(n, x_words, dy_words, waiting, sums + part * n.count());
        waiting = 0;
      }
    }
  });
  InParallel(pool, kShares, [&](int64_t share) { AddParts(n, sums, share, d_kernel); });
}

// What a call is given.  Leading axes beyond the usual ones are those of members, which are convolved one by one.
class Call {
 public:
  // x (..., N, H, W, I), kernel (..., K, K, I, O), and y or its gradient (..., N, H / stride, W / stride, O).
  Call(ffi::AnyBuffer x, ffi::AnyBuffer kernel, ffi::AnyBuffer y, int64_t stride) : type_(x.element_type()) {
    const auto of_x = x.dimensions(), of_kernel = kernel.dimensions();
    Check(of_x.size() >= 4 && of_kernel.size() == of_x.size(), "x and kernel must have four axes, or as many more");
    if (!error.empty()) return;
    leading_.assign(of_x.begin(), of_x.end() - 4);
    for (const int64_t size : leading_) members_ *= size;
    const int64_t *sx = of_x.end() - 4, *sk = of_kernel.end() - 4;
    Check(stride == 1 || stride == 2, "stride must be 1 or 2");
    Check(sk[0] == 1 || sk[0] == 3, "the kernel must be of 1x1 or 3x3");
    Check(sx[3] > 0 && sk[3] > 0, "there must be channels");
    if (!error.empty()) return;
    Check(sx[1] % stride == 0 && sx[2] % stride == 0, "the stride must divide x's height and width");
    Check(type_ == ffi::BF16 || type_ == ffi::F32, "x must be of bfloat16 or float32");
    shape = {sx[0], sx[1], sx[2], sx[3], sx[1] / stride, sx[2] / stride, sk[3], stride, sk[0]};
    ExpectKernel("kernel", kernel);
    Expect("y or its gradient", y, type_, {shape.examples, shape.rows, shape.columns, shape.outer});
  }

  void ExpectInput(const char* name, ffi::AnyBuffer buffer) {
    Expect(name, buffer, type_, {shape.examples, shape.x_rows, shape.x_columns, shape.inner});
  }
  void ExpectKernel(const char* name, ffi::AnyBuffer buffer) {
    Expect(name, buffer, ffi::F32, {shape.size, shape.size, shape.inner, shape.outer});
  }

  // Calls work(kind, member) for each.
  template <typename Work>
  void ForMembers(const Work& work) const {
    for (int64_t member = 0; member < members_; ++member)
      type_ == ffi::BF16 ? work(Bfloat16{}, member) : work(Float32{}, member);
  }

  // A member's elements; null if the array has none.
  template <typename T>
  T* Of(ffi::AnyBuffer buffer, int64_t member) const {
    const int64_t elements = static_cast<int64_t>(buffer.element_count());
    return elements ? static_cast<T*>(buffer.untyped_data()) + member * (elements / members_) : nullptr;
  }

  Shape shape{};
  std::string error;

 private:
  void Check(bool holds, const std::string& message) {
    if (!holds && error.empty()) error = "convolution: " + message;
  }
  void Expect(const char* name, ffi::AnyBuffer buffer, ffi::DataType type, std::initializer_list<int64_t> member) {
    std::vector<int64_t> whole = leading_;
    whole.insert(whole.end(), member);
    const auto found = buffer.dimensions();
    Check(std::equal(found.begin(), found.end(), whole.begin(), whole.end()), std::string(name) + " has a wrong shape");
    Check(buffer.element_type() == type, std::string(name) + " has a wrong dtype");
  }

  ffi::DataType type_;
  std::vector<int64_t> leading_;
  int64_t members_ = 1;
};

ffi::Error CallForward(ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::AnyBuffer kernel, ffi::Result<ffi::AnyBuffer> y,
                       int64_t stride) {
  const Call call(x, kernel, *y, stride);
  if (!call.error.empty()) return ffi::Error::InvalidArgument(call.error);
  call.ForMembers([&](auto kind, int64_t m) {
    using Stored = typename decltype(kind)::Stored;
    Forward<decltype(kind)>(pool, call.shape, call.Of<Stored>(x, m), call.Of<float>(kernel, m), call.Of<Stored>(*y, m));
  });
  return ffi::Error::Success();
}

ffi::Error CallBackward(ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::AnyBuffer kernel, ffi::AnyBuffer dy,
                        ffi::Result<ffi::AnyBuffer> dx, ffi::Result<ffi::AnyBuffer> d_kernel, int64_t stride) {
  Call call(x, kernel, dy, stride);
  // No elements: it is not wanted.
  if (dx->element_count()) call.ExpectInput("dx", *dx);
  call.ExpectKernel("d_kernel", *d_kernel);
  if (!call.error.empty()) return ffi::Error::InvalidArgument(call.error);
  call.ForMembers([&](auto kind, int64_t m) {
    using Stored = typename decltype(kind)::Stored;
    Backward<decltype(kind)>(pool, call.shape, call.Of<Stored>(x, m), call.Of<float>(kernel, m),
                             call.Of<Stored>(dy, m), call.Of<Stored>(*dx, m), call.Of<float>(*d_kernel, m));
  });
  return ffi::Error::Success();
}

}  // namespace
}  // namespace normres

XLA_FFI_DEFINE_HANDLER_SYMBOL(ConvolutionForward, normres::CallForward,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::AnyBuffer>()  // x
                                  .Arg<ffi::AnyBuffer>()  // kernel
                                  .Ret<ffi::AnyBuffer>()  // y
                                  .Attr<int64_t>("stride"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(ConvolutionBackward, normres::CallBackward,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::AnyBuffer>()  // x
                                  .Arg<ffi::AnyBuffer>()  // kernel
                                  .Arg<ffi::AnyBuffer>()  // dy
                                  .Ret<ffi::AnyBuffer>()  // dx
                                  .Ret<ffi::AnyBuffer>()  // d_kernel
                                  .Attr<int64_t>("stride"));
