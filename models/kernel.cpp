// The DKA head on a CPU, in float32: out[b, c] = sum of the K largest x[b, n] * weight[c, n], and its gradients.
//
// The votes (B, C, N) are never stored: a thread holds those of one (b, c) at a time, in its first-level cache. While it
// computes them it keeps the maximum of each of L groups of inputs. K votes at least reach the K-th largest maximum, and
// few more do: they are the candidates, among which ranks decide. For large K the groups are single votes, and the
// threshold rises by bisection. Where fewer than K votes are positive, the first zeros follow them. Rows of few inputs
// other than zero are packed. Rows that hold a NaN or an infinity are sorted instead.
#include <algorithm>
#include <atomic>
#include <climits>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <new>
#include <numeric>
#include <system_error>
#include <thread>
#include <vector>
#if defined(__AVX__)
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int WIDTH = 16;
#elif defined(__AVX__)
constexpr int WIDTH = 8;
#else
constexpr int WIDTH = 4;
#endif
typedef float Floats __attribute__((vector_size(WIDTH * 4), aligned(4), may_alias));
typedef int Ints __attribute__((vector_size(WIDTH * 4), aligned(4), may_alias));

constexpr int64_t MAX_SORTED = 32;   // up to this K, chosen votes are summed and stored in descending order
constexpr int64_t MAX_RANKED = 128;  // candidates; ranks take quadratic time
constexpr int64_t ROWS = 64, CLASSES = 64;  // of a task
constexpr int64_t CACHED = 4096;     // inputs of the rows that share the first-level cache with a class's weights
constexpr int64_t SPARSE = 128;      // inputs per chosen one, above which looking for blocks without candidates pays
constexpr int64_t FEW = 8;           // inputs per one that is not zero, from which gathering the weights of these pays
constexpr int64_t SERIAL = 1 << 15;  // votes that are not worth a second thread

using Pool = void (*)(void (*)(void*), void*, unsigned, unsigned);  // the signature of GOMP_parallel

// Calls task(0), task(1), ... from several threads: PyTorch's own, or where these cannot be reached, new ones.
template <class Task>
void parallel(Pool pool, int64_t threads, int64_t tasks, Task task) {
  std::atomic<int64_t> next{0};
  auto work = [&] {
    for (int64_t i; (i = next++) < tasks;) task(i);
  };
  threads = std::min(threads, tasks);
  if (threads > 1 && pool) return pool([](void* w) { (*static_cast<decltype(work)*>(w))(); }, &work, threads, 0);
  std::vector<std::thread> others;
  try {
    while (int64_t(others.size()) + 1 < threads) others.emplace_back(work);
  } catch (const std::system_error&) {  // no more threads: those there are do it
  }
  work();
  for (auto& other : others) other.join();
}

const Floats& at(const float* p) { return *reinterpret_cast<const Floats*>(p); }
Floats& at(float* p) { return *reinterpret_cast<Floats*>(p); }
const Ints& at(const int* p) { return *reinterpret_cast<const Ints*>(p); }
Ints& at(int* p) { return *reinterpret_cast<Ints*>(p); }

inline Floats larger(const Floats& a, const Floats& b) {
#if defined(__AVX512F__)
  return (Floats)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX__)
  return (Floats)_mm256_max_ps((__m256)a, (__m256)b);
#else
  return a > b ? a : b;
#endif
}

inline float largest_of(const Floats& v) {
#if defined(__AVX512F__)
  return _mm512_reduce_max_ps((__m512)v);
#else
  float largest = v[0];
  for (int l = 1; l < WIDTH; l++) largest = std::max(largest, v[l]);
  return largest;
#endif
}

inline int sum_of(const Ints& v) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_epi32((__m512i)v);
#else
  int total = v[0];
  for (int l = 1; l < WIDTH; l++) total += v[l];
  return total;
#endif
}

inline bool any_reaches(const Floats& v, float threshold) {
#if defined(__AVX512F__)
  return _mm512_cmp_ps_mask((__m512)v, _mm512_set1_ps(threshold), _CMP_GE_OQ);
#elif defined(__AVX__)
  return _mm256_movemask_ps((__m256)(Floats)(v >= threshold));
#else
  return largest_of(v) >= threshold;
#endif
}

// Starts at a cache line, or every vector that is stored would touch two.
template <class T>
struct Aligned {
  using value_type = T;
  T* allocate(size_t n) { return static_cast<T*>(::operator new(n * sizeof(T), std::align_val_t(64))); }
  void deallocate(T* p, size_t) { ::operator delete(p, std::align_val_t(64)); }
  bool operator==(const Aligned&) const { return true; }
  bool operator!=(const Aligned&) const { return false; }
};
template <class T>
using Line = std::vector<T, Aligned<T>>;

struct Scratch {
  Line<float> votes, values;
  Line<int> keys, positions, ranks, order;
  explicit Scratch(int64_t n)
      : votes(n + 64), values(n + 64), keys(n + 512), positions(n + 64), ranks(n + 64), order(n + 64) {}
};

// A threshold that at least `topk` of the values reach, and at most `slack` more, ties apart. Bisects the integers that
// are in the order of the floats. `length` is a multiple of WIDTH.
float threshold_of(const float* values, int64_t length, int64_t topk, int64_t slack, int* keys) {
  Ints low = Ints{} + INT_MAX, high = Ints{} + INT_MIN;
  for (int64_t i = 0; i < length; i += WIDTH) {
    Ints bits = at(reinterpret_cast<const int*>(values) + i);
    Ints key = at(keys + i) = bits ^ ((bits >> 31) & INT_MAX);
    low = key < low ? key : low;
    high = key > high ? key : high;
  }
  int64_t from = low[0], to = high[0];
  for (int i = 1; i < WIDTH; i++) from = std::min<int64_t>(from, low[i]), to = std::max<int64_t>(to, high[i]);
  to++;  // topk values reach `from`, fewer reach `to`
  while (to - from > 1) {
    const int middle = int(from + (to - from) / 2);
    Ints missed{};
    for (int64_t i = 0; i < length; i += WIDTH) missed += at(keys + i) >= middle;
    const int64_t reached = -sum_of(missed);
    if (reached < topk) {
      to = middle;
      continue;
    }
    from = middle;
    if (reached <= topk + slack) break;
  }
  const int bits = int(from) ^ ((int(from) >> 31) & INT_MAX);
  float threshold;
  std::memcpy(&threshold, &bits, 4);
  return threshold;
}

// The K-th largest of few values, by ranks.
template <int A>
float ranked_threshold(const Floats* values, int64_t topk) {
  Ints above[A] = {};
  for (int j = 0; j < A * WIDTH; j++)
    for (int a = 0; a < A; a++) above[a] -= reinterpret_cast<const float*>(values)[j] > values[a];
  Floats largest = Floats{} - INFINITY;  // of the negatives of those that K - 1 exceed at most
  for (int a = 0; a < A; a++) largest = larger(largest, above[a] < int(topk) ? -values[a] : Floats{} - INFINITY);
  return -largest_of(largest);
}

// Fills votes, padded with -inf to a multiple of WIDTH, and returns a threshold that K of them reach. A * WIDTH groups.
template <int A>
float compute_votes(const float* x, const float* w, int64_t n, int64_t topk, Scratch& s) {
  float* votes = s.votes.data();
  Floats maxima[A];
  for (int a = 0; a < A; a++) maxima[a] = Floats{} - INFINITY;
  int64_t i = 0;
  for (; i + A * WIDTH <= n; i += A * WIDTH)
    for (int a = 0; a < A; a++) {
      const Floats vote = at(x + i + a * WIDTH) * at(w + i + a * WIDTH);
      at(votes + i + a * WIDTH) = vote;
      maxima[a] = larger(maxima[a], vote);
    }
  for (int64_t j = i; j < n; j++) votes[j] = x[j] * w[j];
  at(votes + n) = Floats{} - INFINITY;
  for (int a = 0; a < A; a++, i += WIDTH)
    if (i < n) maxima[a] = larger(maxima[a], at(votes + i));
  if (topk == 1) {
    for (int a = 1; a < A; a++) maxima[0] = larger(maxima[0], maxima[a]);
    return largest_of(maxima[0]);
  }
  if (A > 2) return threshold_of(reinterpret_cast<float*>(maxima), A * WIDTH, topk, topk / 16, s.keys.data());
  if (topk * 5 / 2 <= WIDTH) {
    maxima[0] = larger(maxima[0], maxima[1]);
    return ranked_threshold<1>(maxima, topk);
  }
  return ranked_threshold<2>(maxima, topk);
}

float compute_all_votes(const float* x, const float* w, int64_t n, int64_t topk, Scratch& s) {
  for (int64_t i = 0; i < n; i++) s.votes[i] = x[i] * w[i];
  at(s.votes.data() + n) = Floats{} - INFINITY;
  return threshold_of(s.votes.data(), (n + WIDTH - 1) / WIDTH * WIDTH, topk, topk / 16, s.keys.data());
}

// Positions, ascending, of the values that reach a threshold; values are padded to a multiple of WIDTH.
template <bool few>
int64_t positions_of(const float* values, int64_t n, float threshold, int* positions) {
  int64_t found = 0;
#if defined(__AVX512F__)
  const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
#endif
  for (int64_t i = 0; i < n; i += WIDTH) {
    if (few && i % (4 * WIDTH) == 0 && i + 4 * WIDTH <= n) {  // most of these hold no candidate
      const Floats *v = &at(values + i), largest = larger(larger(v[0], v[1]), larger(v[2], v[3]));
      if (!any_reaches(largest, threshold)) {
        i += 3 * WIDTH;
        continue;
      }
    }
#if defined(__AVX512F__)
    const __mmask16 reach = _mm512_cmp_ps_mask((__m512)at(values + i), _mm512_set1_ps(threshold), _CMP_GE_OQ);
    const __m512i own = _mm512_add_epi32(lanes, _mm512_set1_epi32(int(i)));
    _mm512_storeu_si512(positions + found, _mm512_maskz_compress_epi32(reach, own));
    found += __builtin_popcount(reach);
#elif defined(__AVX__)
    unsigned reach = _mm256_movemask_ps((__m256)(Floats)(at(values + i) >= threshold));
    for (; reach; reach &= reach - 1) positions[found++] = int(i) + __builtin_ctz(reach);
#else
    for (int64_t j = i; j < i + WIDTH; j++) {
      positions[found] = int(j);
      found += values[j] >= threshold;
    }
#endif
  }
  while (found && positions[found - 1] >= n) found--;  // the padding, where the threshold is -inf
  return found;
}

// Leaves K of the candidates, the largest, in the order of their positions.
void reduce(int64_t found, int64_t topk, Scratch& s) {
  float* values = s.values.data();
  const float threshold = threshold_of(values, (found + WIDTH - 1) / WIDTH * WIDTH, topk, 0, s.keys.data());
  int64_t ties = topk;
  for (int64_t i = 0; i < found; i++) ties -= values[i] > threshold;
  int64_t kept = 0;
  for (int64_t i = 0; i < found; i++) {  // without branches, which would be mispredicted
    const float value = values[i];
    const bool tie = value == threshold;
    values[kept] = value;
    s.positions[kept] = s.positions[i];
    kept += (value > threshold) | (tie & (ties > 0));
    ties -= tie;
  }
}

// Adds the first votes that equal a value to fewer than K above it, in the order of positions; returns K.
int64_t add_ties(int64_t above, int64_t topk, float value, Scratch& s) {
  int* ties = s.order.data();
  int64_t found = 0;
  for (int64_t i = 0; found < topk - above; i++) {
    ties[found] = int(i);
    found += s.votes[i] == value;
  }
  std::copy_n(s.positions.data(), above, s.ranks.data());
  std::merge(s.ranks.data(), s.ranks.data() + above, ties, ties + found, s.positions.data());
  return topk;
}

// Puts the candidates in descending order, those of equal value by position.
void rank(int64_t found, Scratch& s) {
  const float* values = s.values.data();
  int* ranks = s.ranks.data();
  for (int64_t i = 0; i < found; i += WIDTH) {
    const Floats own = at(values + i);
    Ints before{};
    for (int64_t j = 0; j < i; j++) before -= values[j] >= own;
    for (int64_t j = i + WIDTH; j < found; j++) before -= values[j] > own;
    Ints lane;
    for (int l = 0; l < WIDTH; l++) lane[l] = l;
    for (int l = 0; l < std::min<int64_t>(WIDTH, found - i); l++) {
      before -= (values[i + l] > own) | ((values[i + l] == own) & (l < lane));
    }
    at(ranks + i) = before;
  }
  for (int64_t i = 0; i < found; i++) s.order[ranks[i]] = s.positions[i];
}

// As torch.sum adds K <= 32 values per column on x86: results with and without this kernel are equal bit for bit.
float sum(const float* votes, const int* order, int64_t topk, bool whole) {
  if (whole) {
    float blocks = 0, rest = 0;
    for (int64_t k = 0; k < topk; k++) {
      rest += votes[order[k]];
      if (k % 16 == 15) blocks += rest, rest = 0;
    }
    return rest + blocks;
  }
  float parts[4] = {};
  for (int64_t k = 0; k < topk; k++) parts[k < topk / 4 * 4 ? k % 4 : 0] += votes[order[k]];
  return parts[0] + parts[1] + parts[2] + parts[3];
}

// The K largest votes of one (b, c): positions in s.order, votes in s.votes. Returns false if they have to be positive
// and may not be.
bool choose(const float* x, const float* w, int64_t n, int64_t topk, bool positive, Scratch& s) {
  const int64_t groups = topk == 1 ? 4 * WIDTH : topk * 5 / 2;
  const float threshold = groups <= 2 * WIDTH   ? compute_votes<2>(x, w, n, topk, s)
                          : groups <= 4 * WIDTH ? compute_votes<4>(x, w, n, topk, s)
                          : groups <= 8 * WIDTH ? compute_votes<8>(x, w, n, topk, s)
                          : groups <= 16 * WIDTH ? compute_votes<16>(x, w, n, topk, s)
                                                 : compute_all_votes(x, w, n, topk, s);
  if (positive && !(threshold > 0)) return false;
  const auto collect = n > SPARSE * topk ? positions_of<true> : positions_of<false>;
  int64_t found = collect(s.votes.data(), n, threshold, s.positions.data());
  if (topk == 1 || (topk > MAX_SORTED && found == topk)) {
    s.order.swap(s.positions);
    return true;
  }
  if (found > topk && (threshold == 0 || found > MAX_RANKED)) {  // ties: all zeros, where few votes are positive
    const int64_t above = collect(s.votes.data(), n, std::nextafter(threshold, INFINITY), s.positions.data());
    found = above < topk ? add_ties(above, topk, threshold, s) : above;
  }
  for (int64_t i = 0; i < found; i++) s.values[i] = s.votes[s.positions[i]];
  at(s.values.data() + found) = Floats{} - INFINITY;
  if (found > topk && (topk > MAX_SORTED || found > MAX_RANKED)) {
    reduce(found, topk, s);
    found = topk;
    at(s.values.data() + found) = Floats{} - INFINITY;
  }
  if (topk > MAX_SORTED) {
    s.order.swap(s.positions);
  } else {
    rank(found, s);
  }
  return true;
}

// The inputs of a row that are not zero. While K of their votes are positive, no zero is among the K largest.
struct Nonzero {
  Line<float> x, w;
  Line<int> positions;
  int64_t found = 0;

  explicit Nonzero(int64_t n) : x(n), w(n), positions(n) {}

  void pack(const float* row, int64_t n) {
    found = 0;
    for (int64_t i = 0; i < n; i++) {
      x[found] = row[i];
      positions[found] = int(i);
      found += row[i] != 0;
    }
  }

  bool choose(const float* weights, int64_t topk, Scratch& s) {
    float* own = w.data();
    const int* from = positions.data();
    for (int64_t i = 0; i < found; i++) own[i] = weights[from[i]];
    return ::choose(x.data(), own, found, topk, true, s);
  }
};

// The same where a vote can be NaN, which counts as the largest.
void choose_any(const float* x, const float* w, int64_t n, int64_t topk, Scratch& s) {
  for (int64_t i = 0; i < n; i++) s.votes[i] = x[i] * w[i];
  const float* votes = s.votes.data();
  std::iota(s.order.begin(), s.order.begin() + n, 0);
  std::partial_sort(s.order.begin(), s.order.begin() + topk, s.order.begin() + n, [votes](int i, int j) {
    if (std::isnan(votes[i]) != std::isnan(votes[j])) return bool(std::isnan(votes[i]));
    return votes[i] > votes[j] || (!(votes[i] < votes[j]) && i < j);
  });
}

std::vector<char> finite_rows(const float* values, int64_t rows, int64_t n) {
  std::vector<char> finite(rows);
  for (int64_t r = 0; r < rows; r++) {
    int exponents = 0;
    for (int64_t i = 0; i < n; i++) {
      int bits;
      std::memcpy(&bits, values + r * n + i, 4);
      exponents |= (bits & 0x7f800000) == 0x7f800000;
    }
    finite[r] = !exponents;
  }
  return finite;
}

struct Call {
  int64_t B, C, N, K, threads;
  Pool pool;
};

template <class Index>
void forward(const float* x, const float* w, float* out, Index* chosen, const Call& call) {
  const auto [B, C, N, K, threads, pool] = call;
  const auto x_finite = finite_rows(x, B, N), w_finite = finite_rows(w, C, N);
  const int64_t inner = std::clamp<int64_t>(CACHED / N, 1, 16), across = (C + CLASSES - 1) / CLASSES;
  auto task = [=, &x_finite, &w_finite](int64_t i) {
    Scratch s(N);
    std::vector<Nonzero> packed(inner, Nonzero(N));
    const int64_t last_row = std::min(B, (i / across + 1) * ROWS), last_class = std::min(C, (i % across + 1) * CLASSES);
    for (int64_t first = i / across * ROWS; first < last_row; first += inner) {
      const int64_t end = std::min(last_row, first + inner);
      for (int64_t b = first; b < end; b++) packed[b - first].pack(x + b * N, N);
      for (int64_t c = i % across * CLASSES; c < last_class; c++)
        for (int64_t b = first; b < end; b++) {
          Nonzero& few = packed[b - first];
          const bool finite = x_finite[b] && w_finite[c];
          const bool skip = finite && few.found >= K && few.found * FEW <= N && few.choose(w + c * N, K, s);
          if (!finite) choose_any(x + b * N, w + c * N, N, K, s);
          if (finite && !skip) choose(x + b * N, w + c * N, N, K, false, s);
          out[b * C + c] = sum(s.votes.data(), s.order.data(), K, c < C / 32 * 32);
          for (int64_t k = 0; k < K; k++) {
            chosen[(b * K + k) * C + c] = Index(skip ? few.positions[s.order[k]] : s.order[k]);
          }
        }
    }
  };
  parallel(pool, B * C * N < SERIAL ? 1 : threads, (B + ROWS - 1) / ROWS * across, task);
}

// In the order of autograd's scatter_add, for equal results: by k, then c.
template <class Index>
void backward_x(const float* grad, const Index* chosen, const float* w, float* grad_x, const Call& call) {
  const auto [B, C, N, K, threads, pool] = call;
  auto task = [=](int64_t b) {
    float* row = grad_x + b * N;
    std::fill_n(row, N, 0.0f);
    for (int64_t k = 0; k < K; k++)
      for (int64_t c = 0; c < C; c++) {
        const int64_t n = chosen[(b * K + k) * C + c];
        row[n] += grad[b * C + c] * w[c * N + n];
      }
  };
  parallel(pool, B * C * K < SERIAL ? 1 : threads, B, task);
}

// By b, then k.
template <class Index>
void backward_w(const float* grad, const Index* chosen, const float* x, float* grad_w, const Call& call) {
  const auto [B, C, N, K, threads, pool] = call;
  constexpr int64_t block = 32;
  auto task = [=](int64_t i) {
    const int64_t first = i * block, last = std::min(C, first + block);
    std::fill_n(grad_w + first * N, (last - first) * N, 0.0f);
    for (int64_t b = 0; b < B; b++)
      for (int64_t k = 0; k < K; k++)
        for (int64_t c = first; c < last; c++) {
          const int64_t n = chosen[(b * K + k) * C + c];
          grad_w[c * N + n] += grad[b * C + c] * x[b * N + n];
        }
  };
  parallel(pool, B * C * K < SERIAL ? 1 : threads, (C + block - 1) / block, task);
}

}  // namespace

// x (B, N), weight (C, N) -> out (B, C), chosen (B, K, C), of int16 or, where that is too narrow, int32.
extern "C" void dka_forward(const float* x, const float* w, float* out, void* chosen, int wide, const Call* call) {
  if (wide) return forward(x, w, out, static_cast<int32_t*>(chosen), *call);
  forward(x, w, out, static_cast<int16_t*>(chosen), *call);
}

// grad (B, C) -> grad_x (B, N), grad_w (C, N); either may be null.
extern "C" void dka_backward(const float* grad, const void* chosen, int wide, const float* x, const float* w,
                             float* grad_x, float* grad_w, const Call* call) {
  auto both = [&](auto* positions) {
    if (grad_x) backward_x(grad, positions, w, grad_x, *call);
    if (grad_w) backward_w(grad, positions, x, grad_w, *call);
  };
  if (wide) return both(static_cast<const int32_t*>(chosen));
  both(static_cast<const int16_t*>(chosen));
}
