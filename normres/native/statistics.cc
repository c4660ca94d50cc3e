// What XLA calls: a norm's statistics and their gradients, with checks of all that they are given.
//
// An array of no elements stands for one that is not given or not wanted.

#include "statistics.h"

#include <string>

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace normres {
namespace {

using Numbers = ffi::Result<ffi::AnyBuffer>;  // float32

// Reads the arguments of the norm's statistics; arrays are float32, (..., N, 1, 1, C) or with one row for all examples.
class MergingCall {
 public:
  MergingCall(ffi::AnyBuffer mean, ffi::AnyBuffer result, int64_t batches, int64_t groups, int64_t size, bool center,
              float epsilon) {
    const auto dims = mean.dimensions(), of_result = result.dimensions();
    if (dims.size() < 4 || of_result.size() != dims.size()) {
      Refuse("mean must have four axes, or more");
      return;
    }
    const size_t leading = dims.size() - 4;
    for (size_t axis = 0; axis < leading; ++axis) members *= dims[axis];
    merging = {dims[leading], dims[leading + 3], batches, groups, size, center, of_result[leading] == 1, epsilon};
    if (batches < 1 || merging.examples % batches || groups < 1 || merging.channels % groups) {
      Refuse("batches and groups must divide the examples and the channels");
      return;
    }
    if (merging.shared ? batches > 1 : of_result[leading] != merging.examples)
      Refuse("results must have a row for each example, or one for all if they are one batch");
    Expect(mean, merging.examples, false);
    Expect(result, rows(), false);
  }

  int64_t rows() const { return merging.shared ? 1 : merging.examples; }
  void Expect(ffi::AnyBuffer buffer, int64_t rows, bool absent = true) {
    const int64_t found = static_cast<int64_t>(buffer.element_count());
    if (buffer.element_type() != ffi::F32) Refuse("numbers must be of float32");
    if (found != members * rows * merging.channels && !(absent && found == 0)) Refuse("an array has a wrong shape");
  }
  bool ok() const { return error_.empty(); }
  ffi::Error error() const { return ffi::Error::InvalidArgument("statistics: " + error_); }
  // A member's numbers; null if the array has none.
  float* Of(ffi::AnyBuffer buffer, int64_t member) const {
    const int64_t elements = static_cast<int64_t>(buffer.element_count());
    return elements ? static_cast<float*>(buffer.untyped_data()) + member * (elements / members) : nullptr;
  }

  Merging merging{};
  int64_t members = 1;

 private:
  void Refuse(const char* why) {
    if (error_.empty()) error_ = why;
  }
  std::string error_;
};

ffi::Error Statistics(ffi::AnyBuffer mean, ffi::AnyBuffer squares, ffi::AnyBuffer scale, Numbers found, Numbers var,
                      Numbers factor, int64_t batches, int64_t groups, int64_t size, bool center, float epsilon) {
  MergingCall call(mean, *found, batches, groups, size, center, epsilon);
  if (call.ok()) {
    call.Expect(squares, call.merging.examples, false);
    call.Expect(scale, 1);
    for (const auto& result : {*var, *factor}) call.Expect(result, call.rows(), false);
  }
  if (!call.ok()) return call.error();
  for (int64_t m = 0; m < call.members; ++m)
    call.merging.Forward(call.Of(mean, m), call.Of(squares, m), call.Of(scale, m), call.Of(*found, m),
                         call.Of(*var, m), call.Of(*factor, m));
  return ffi::Error::Success();
}

ffi::Error StatisticsGradients(ffi::AnyBuffer mean, ffi::AnyBuffer scale, ffi::AnyBuffer found, ffi::AnyBuffer var,
                               ffi::AnyBuffer d_found, ffi::AnyBuffer d_var, ffi::AnyBuffer d_factor, Numbers d_mean,
                               Numbers d_squares, Numbers d_scale, int64_t batches, int64_t groups, int64_t size,
                               bool center, float epsilon) {
  MergingCall call(mean, found, batches, groups, size, center, epsilon);
  if (call.ok()) {
    for (const auto& array : {scale, *d_scale}) call.Expect(array, 1);
    call.Expect(var, call.rows(), false);
    for (const auto& array : {d_found, d_var, d_factor}) call.Expect(array, call.rows());
    for (const auto& result : {*d_mean, *d_squares}) call.Expect(result, call.merging.examples, false);
  }
  if (!call.ok()) return call.error();
  for (int64_t m = 0; m < call.members; ++m)
    call.merging.Backward(call.Of(mean, m), call.Of(scale, m), call.Of(found, m), call.Of(var, m), call.Of(d_found, m),
                          call.Of(d_var, m), call.Of(d_factor, m), call.Of(*d_mean, m), call.Of(*d_squares, m),
                          call.Of(*d_scale, m));
  return ffi::Error::Success();
}

}  // namespace
}  // namespace normres

using Any = ffi::AnyBuffer;

XLA_FFI_DEFINE_HANDLER_SYMBOL(StatisticsForward, normres::Statistics,
                              ffi::Ffi::Bind()
                                  .Arg<Any>()  // mean
                                  .Arg<Any>()  // squares
                                  .Arg<Any>()  // scale
                                  .Ret<Any>()  // mean found
                                  .Ret<Any>()  // variance found
                                  .Ret<Any>()  // factor
                                  .Attr<int64_t>("batches")
                                  .Attr<int64_t>("groups")
                                  .Attr<int64_t>("size")
                                  .Attr<bool>("center")
                                  .Attr<float>("epsilon"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(StatisticsBackward, normres::StatisticsGradients,
                              ffi::Ffi::Bind()
                                  .Arg<Any>()  // mean
                                  .Arg<Any>()  // scale
                                  .Arg<Any>()  // mean found
                                  .Arg<Any>()  // variance found
                                  .Arg<Any>()  // d_mean found
                                  .Arg<Any>()  // d_variance
                                  .Arg<Any>()  // d_factor
                                  .Ret<Any>()  // d_mean
                                  .Ret<Any>()  // d_squares
                                  .Ret<Any>()  // d_scale
                                  .Attr<int64_t>("batches")
                                  .Attr<int64_t>("groups")
                                  .Attr<int64_t>("size")
                                  .Attr<bool>("center")
                                  .Attr<float>("epsilon"));
