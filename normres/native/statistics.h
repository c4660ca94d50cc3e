// A norm's statistics and its factor scale / sqrt(var + epsilon), from the mean and the sum of squared deviations of each
// example and channel, merged after Chan et al. 1979, and the gradients of both.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace normres {

// Arrays are (examples, channels), or one row for all examples (`shared`).  The statistics are those of `batches` equal
// parts of the examples and `groups` of the channels; `size` elements are behind each number.
struct Merging {
  int64_t examples, channels, batches, groups, size;
  bool center, shared;
  float epsilon;

  int64_t of_batch() const { return examples / batches; }
  int64_t of_group() const { return channels / groups; }
  double number() const { return static_cast<double>(of_batch() * of_group()); }
  const float* Row(const float* array, int64_t n) const { return array + (shared ? 0 : n * channels); }
  float* Row(float* array, int64_t n) const { return array + (shared ? 0 : n * channels); }
  // Where the results of a part of the examples stand: its rows, or the one row that all share.
  int64_t first(int64_t batch) const { return shared ? 0 : batch * of_batch(); }
  int64_t last(int64_t batch) const { return shared ? 1 : first(batch) + of_batch(); }

  // Gives each channel its group's sum.
  void AddGroups(std::vector<double>& sums) const {
    for (int64_t c = 0; c < channels; c += of_group()) {
      double sum = 0;
      for (int64_t k = 0; k < of_group(); ++k) sum += sums[c + k];
      std::fill_n(sums.begin() + c, of_group(), sum);
    }
  }

  // scale may be null.
  void Forward(const float* mean, const float* squares, const float* scale, float* found, float* var,
               float* factor) const {
    std::vector<double> of_mean(channels), of_squares(channels);
    for (int64_t batch = 0; batch < batches; ++batch) {
      const int64_t begin = batch * of_batch(), end = begin + of_batch();
      std::fill(of_mean.begin(), of_mean.end(), 0.0);
      std::fill(of_squares.begin(), of_squares.end(), 0.0);
      for (int64_t n = begin; center && n < end; ++n)
        for (int64_t c = 0; c < channels; ++c) of_mean[c] += mean[n * channels + c];
      AddGroups(of_mean);
      for (double& of : of_mean) of /= number();
      for (int64_t n = begin; n < end; ++n)
        for (int64_t c = 0; c < channels; ++c) {
          const double apart = mean[n * channels + c] - of_mean[c];
          of_squares[c] += squares[n * channels + c] / static_cast<double>(size) + apart * apart;
        }
      AddGroups(of_squares);
      for (int64_t n = first(batch); n < last(batch); ++n)
        for (int64_t c = 0; c < channels; ++c) {
          const float variance = static_cast<float>(of_squares[c] / number());
          Row(found, n)[c] = static_cast<float>(of_mean[c]);
          Row(var, n)[c] = variance;
          Row(factor, n)[c] = (scale ? scale[c] : 1.0f) / std::sqrt(variance + epsilon);
        }
    }
  }

  // Cotangents may be null, for zeros, as may scale and its gradient.
  void Backward(const float* mean, const float* scale, const float* found, const float* var, const float* d_found,
                const float* d_var, const float* d_factor, float* d_mean, float* d_squares, float* d_scale) const {
    std::vector<double> of_mean(channels), of_var(channels), of_scale(channels);
    for (int64_t batch = 0; batch < batches; ++batch) {
      std::fill(of_mean.begin(), of_mean.end(), 0.0);
      std::fill(of_var.begin(), of_var.end(), 0.0);
      for (int64_t n = first(batch); n < last(batch); ++n)
        for (int64_t c = 0; c < channels; ++c) {
          const double within = 1.0 / (static_cast<double>(Row(var, n)[c]) + epsilon), root = std::sqrt(within);
          const double of_factor = d_factor ? Row(d_factor, n)[c] : 0.0;
          if (d_found && center) of_mean[c] += Row(d_found, n)[c];
          of_var[c] += (d_var ? Row(d_var, n)[c] : 0.0) - 0.5 * of_factor * (scale ? scale[c] : 1.0) * within * root;
          of_scale[c] += of_factor * root;
        }
      AddGroups(of_mean);
      AddGroups(of_var);
      for (int64_t n = batch * of_batch(); n < (batch + 1) * of_batch(); ++n)
        for (int64_t c = 0; c < channels; ++c) {
          const int64_t at = n * channels + c;
          const double of_square = of_var[c] / number();
          d_squares[at] = static_cast<float>(of_square / size);
          d_mean[at] = static_cast<float>(of_mean[c] / number() + 2 * (mean[at] - Row(found, n)[c]) * of_square);
        }
    }
    if (d_scale)
      for (int64_t c = 0; c < channels; ++c) d_scale[c] = static_cast<float>(of_scale[c]);
  }
};

}  // namespace normres
