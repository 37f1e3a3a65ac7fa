// Runs the scan on a few shapes and compares it with the recurrence in double: for machines without Python, and under
// an emulator. Prints the instruction set and the largest relative error; exit code 0 if that is at most 1e-6.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "scan.h"

using Floats = std::vector<float>;

static Floats random_floats(long count) {
  Floats values(count);
  for (float& value : values) value = static_cast<float>(drand48() * 2.0 - 1.0);
  return values;
}

static double check(long length, long channels, long states, bool reverse) {
  const Floats u = random_floats(length * channels), b = random_floats(length * states);
  const Floats c = random_floats(length * states), d = random_floats(channels);
  Floats delta = random_floats(length * channels), a = random_floats(channels * states), y(length * channels);
  for (float& value : delta) value = std::exp(3.45f * (value - 1.0f));
  for (float& value : a) value = -std::exp(2.08f * (value + 1.0f));
  rs4d_scan_inputs in{};
  in.u = u.data(), in.delta = delta.data(), in.a = a.data(), in.b = b.data(), in.c = c.data(), in.d = d.data();
  in.batch = 1, in.length = length, in.channels = channels, in.states = states;
  in.reverse = reverse, in.threads = 2;
  const rs4d_scan_inputs pair[2] = {in, in};
  Floats first(length * channels), second(length * channels);
  float* const both[2] = {first.data(), second.data()};
  if (rs4d_scan_forward(&in, y.data()) != RS4D_OK || rs4d_scan_bidirectional(pair, both) != RS4D_OK) return 1.0;
  if (first != y || second != y) return 1.0;
  double error = 0.0, largest = 0.0;
  for (long e = 0; e < channels; ++e) {
    std::vector<double> h(states, 0.0);
    for (long step = 0; step < length; ++step) {
      const long t = reverse ? length - 1 - step : step;
      const double x = u[t * channels + e], dt = delta[t * channels + e];
      double wanted = d[e] * x;
      for (long n = 0; n < states; ++n) {
        h[n] = std::exp(dt * a[e * states + n]) * h[n] + dt * b[t * states + n] * x;
        wanted += c[t * states + n] * h[n];
      }
      error = std::max(error, std::fabs(wanted - y[t * channels + e]));
      largest = std::max(largest, std::fabs(wanted));
    }
  }
  return error / largest;
}

int main() {
  double worst = 0.0;
  for (const bool reverse : {false, true})
    for (const long states : {3L, 4L, 8L, 16L})
      for (const long channels : {5L, 40L, 130L}) worst = std::max(worst, check(70, channels, states, reverse));
  std::printf("%s %.2e\n", rs4d_isa(), worst);
  return worst <= 1e-6 ? 0 : 1;
}
