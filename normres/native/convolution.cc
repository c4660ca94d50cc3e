// What XLA calls: the convolution and its gradients, with checks of all that they are given.
//
// An array of no elements stands for one that is not given or not wanted.

#include <string>

#include "convolution.h"

namespace ffi = xla::ffi;

namespace normres {
namespace {

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
  // A number for each channel of x, or for each example and channel, or none.
  void PerChannel(const char* name, ffi::AnyBuffer buffer) {
    const bool shared = static_cast<int64_t>(buffer.element_count()) == members * shape.inner;
    Numbers(name, buffer, shared ? shape.inner : shape.examples * shape.inner);
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

  // How far the next example's numbers are.
  int64_t Next(ffi::AnyBuffer numbers) const {
    return static_cast<int64_t>(numbers.element_count()) == members * shape.inner ? 0 : shape.inner;
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
  for (const auto& array : {center, factor, shift}) call.PerChannel("center, factor or shift", array);
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
                           call.Of<float>(factor, m), call.Of<float>(shift, m), call.Next(factor),
                           rectify,                   call.Of<Stored>(*activated, m)};
      ForwardOf<Kind>(pool, s, in, call.Of<float>(kernel, m), call.Of<Stored>(*y, m), call.Of<float>(*mean, m),
                      call.Of<float>(*squares, m));
    }
  };
  call.narrow ? run(Bfloat16{}) : run(Float32{});
  return ffi::Error::Success();
}

ffi::Error Backward(ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::AnyBuffer center, ffi::AnyBuffer factor,
                    ffi::AnyBuffer shift, ffi::AnyBuffer side, ffi::AnyBuffer kernel, ffi::AnyBuffer dy,
                    ffi::AnyBuffer y, ffi::AnyBuffer mean, ffi::AnyBuffer d_mean, ffi::AnyBuffer d_squares,
                    ffi::AnyBuffer d_activated, ffi::Result<ffi::AnyBuffer> dx, ffi::Result<ffi::AnyBuffer> d_side,
                    Numbers d_center, Numbers d_factor, Numbers d_shift, Numbers d_kernel, int64_t stride, bool rectify) {
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
  for (const auto& array : {center, factor, shift}) call.PerChannel("center, factor or shift", array);
  for (const auto& array : {mean, d_mean, d_squares})
    call.Numbers("mean, d_mean or d_squares", array, s.examples * s.outer);
  for (const auto& array : {*d_center, *d_factor, *d_shift})
    call.PerChannel("d_center, d_factor or d_shift", array);
  call.Numbers("d_kernel", *d_kernel, s.taps() * s.inner * s.outer, false);
  const bool measured = y.element_count(), wanted = dx->element_count();
  call.Check(center.element_count() == factor.element_count() && shift.element_count() == factor.element_count(),
             "center, factor and shift must be given together");
  call.Check(!!mean.element_count() == measured && !!d_mean.element_count() == measured &&
                 !!d_squares.element_count() == measured,
             "y, mean, d_mean and d_squares must be given together");
  call.Check(!wanted || (d_center->element_count() == factor.element_count() &&
                         d_factor->element_count() == factor.element_count() &&
                         d_shift->element_count() == factor.element_count()),
             "d_center, d_factor and d_shift belong to factor");
  if (!call.ok()) return call.error();
  const auto run = [&](auto kind) {
    using Kind = decltype(kind);
    using Stored = typename Kind::Stored;
    for (int64_t m = 0; m < call.members; ++m) {
      const Input<Kind> in{call.Of<Stored>(x, m),     call.Of<Stored>(side, m), call.Of<float>(center, m),
                           call.Of<float>(factor, m), call.Of<float>(shift, m), call.Next(factor),
                           rectify,                   nullptr};
      const Stored *of_y = call.Of<Stored>(y, m), *of_dy = call.Of<Stored>(dy, m);
      const Input<Kind> out{of_y ? of_y : of_dy,
                            of_y ? of_dy : nullptr,
                            call.Of<float>(mean, m),
                            call.Of<float>(d_squares, m),
                            call.Of<float>(d_mean, m),
                            s.outer,
                            false,
                            nullptr};
      const Gradients<Kind> to{call.Of<Stored>(d_activated, m), call.Of<Stored>(*dx, m), call.Of<Stored>(*d_side, m),
                               call.Of<float>(*d_center, m), call.Of<float>(*d_factor, m), call.Of<float>(*d_shift, m)};
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
                                  .Arg<Any>()  // d_mean
                                  .Arg<Any>()  // d_squares
                                  .Arg<Any>()  // d_activated
                                  .Ret<Any>()  // dx
                                  .Ret<Any>()  // d_side
                                  .Ret<Any>()  // d_center
                                  .Ret<Any>()  // d_factor
                                  .Ret<Any>()  // d_shift
                                  .Ret<Any>()  // d_kernel
                                  .Attr<int64_t>("stride")
                                  .Attr<bool>("rectify"));
