// Field of experts R(x) = scale sum_k sum_i phi((c_k * x)_i; w_k, s_k) on a CPU: gradient, Hessian-vector product and
// parameter derivatives, each in one pass over the image; with contrasts g_ki and masks m_ki, m phi(g u) / g^2 instead of
// phi(u). See regularizers/foe/functional.py for the formulas. phi may be a potential of GROUP responses that follow each
// other, with w, s, shape, g and m for each group; EXPERTS is a multiple of GROUP.
//
// Responses live in a tile of ROWS x COLUMNS that stays in the cache; nothing of size K x H x W is written to memory.
// Vectors run along image rows. Filtering keeps a block of experts in registers while one tap after the other is
// broadcast; its adjoint keeps the SIZE rows that one row of responses touches, or PART of them where registers are few.
//
// Compiled for one scalar type, filter size and potential: -DREAL=float|double -DSIZE=s -DGROUP=1|2|4
// -DPOTENTIAL=Charbonnier|Huber|Mcp|Log|Spline, or of groups HuberL2|HuberLinf|McpL2|McpLinf
// -DKNOTS=tau_1,...,tau_J of a spline, or nothing.

#include <algorithm>
#include <cmath>
#include <type_traits>
#include <vector>

#define JOIN(a, b) a##b
#if defined(__AVX512F__)
#include <immintrin.h>
constexpr int VECTOR_BYTES = 64, REGISTERS = 24;  // accumulators; the rest of the 32 hold operands
typedef __m512 floats;
typedef __m512d doubles;
#define INTRINSIC(name) JOIN(_mm512_, name)
#define TABLE rsqrt14_ps  // 1 / sqrt to 14 bits
#elif defined(__AVX__)
#include <immintrin.h>
constexpr int VECTOR_BYTES = 32, REGISTERS = 12;  // of 16
typedef __m256 floats;
typedef __m256d doubles;
#define INTRINSIC(name) JOIN(_mm256_, name)
#define TABLE rsqrt_ps  // to 12 bits
#else
constexpr int VECTOR_BYTES = 16, REGISTERS = 12;
#endif

typedef REAL real;
typedef real vec __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(REAL)), may_alias));  // at any address

constexpr int LANES = VECTOR_BYTES / sizeof(real);
constexpr real TAU[] = {0, KNOTS};  // tau_0 ... tau_J
constexpr int TAUS = sizeof(TAU) / sizeof(real) - 1;
constexpr int HALO = SIZE - 1;
constexpr int up(int n, int multiple) { return (n + multiple - 1) / multiple * multiple; }

constexpr int SPAN = std::max(192, 4 * up(HALO, LANES));  // image columns of a tile
constexpr int COLUMNS = SPAN - HALO;                      // responses across a tile
constexpr int ROWS = std::max(16, HALO);                  // responses down a tile; HALO at least: see over_bands
constexpr int TILE_ROWS = ROWS + HALO;
constexpr int STRIDE = up(SPAN + HALO + LANES, LANES);  // of an image row in the tile, with room for the last vector
constexpr int MARGIN = up(HALO, LANES);                 // zeros before a row of responses
constexpr int RESPONSES = MARGIN + SPAN;                // stride of a row of responses
constexpr int EXPERTS = REGISTERS / 3;  // experts filtered together, three vectors each
constexpr int PARTS = (2 * SIZE + REGISTERS - 1) / REGISTERS;  // of a filter's column, in the adjoint: two vectors fit
constexpr int PART = (SIZE + PARTS - 1) / PARTS;               // taps
constexpr int WIDTH = REGISTERS / PART;                        // vectors of each row
constexpr int TOGETHER = std::max(1, REGISTERS / SIZE);        // experts per filter derivative

inline vec load(const real* p) { return *reinterpret_cast<const vec*>(p); }
inline void store(real* p, vec v) { *reinterpret_cast<vec*>(p) = v; }
inline void add(real* p, vec v) { store(p, load(p) + v); }
// Loads, and keeps the vector in a register: GCC reads it from memory again wherever it is used, which is slower.
inline vec held(const real* p) {
    vec v = load(p);
#ifdef INTRINSIC
    asm("" : "+v"(v));
#endif
    return v;
}
inline vec absolute(vec t) { return t < 0 ? -t : t; }

inline vec smaller(vec t, vec bound) {  // the minimum, for which GCC compares and blends
#ifdef INTRINSIC
    if constexpr (sizeof(real) == 4) return (vec)INTRINSIC(min_ps)((floats)t, (floats)bound);
    else return (vec)INTRINSIC(min_pd)((doubles)t, (doubles)bound);
#endif
    return t < bound ? t : bound;
}

inline vec larger(vec t, vec bound) {
#ifdef INTRINSIC
    if constexpr (sizeof(real) == 4) return (vec)INTRINSIC(max_ps)((floats)t, (floats)bound);
    else return (vec)INTRINSIC(max_pd)((doubles)t, (doubles)bound);
#endif
    return t > bound ? t : bound;
}

inline double sum_of(vec v) {  // by fours, which the compiler adds at once
    double sum[4] = {};
    for (int i = 0; i < LANES; i++) sum[i % 4] += v[i];
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

inline vec clip(vec t) { return larger(smaller(t, vec{} + 1), vec{} - 1); }

inline vec inverse_root(vec t) {
#ifdef INTRINSIC
    if constexpr (sizeof(real) == 4) {  // a Newton step has twice as many bits
        vec r = (vec)INTRINSIC(TABLE)((floats)t);
        return r * ((real)1.5 - (real)0.5 * t * r * r);
    } else return 1 / (vec)INTRINSIC(sqrt_pd)((doubles)t);
#endif
    vec r;
    for (int i = 0; i < LANES; i++) r[i] = 1 / std::sqrt(t[i]);
    return r;
}

// Potentials, as in regularizers/foe/potentials.py.
struct Expert { real w, s, inverse_w, inverse_s; const real *a, *b; };  // a, b: of a shape with J numbers

struct Charbonnier {
    static vec influence(vec t, const Expert& e) { return e.w * t * inverse_root(t * t + e.s * e.s); }
    static vec curvature(vec t, const Expert& e) {
        vec r = inverse_root(t * t + e.s * e.s);
        return (e.w * e.s * e.s) * (r * r * r);
    }
    static vec by_weight(vec t, const Expert& e) { return t * inverse_root(t * t + e.s * e.s); }
    static vec by_smoothing(vec t, const Expert& e) {
        vec r = inverse_root(t * t + e.s * e.s);
        return (-e.w * e.s) * t * (r * r * r);
    }
};

struct Huber {
    static vec influence(vec t, const Expert& e) { return e.w * clip(t * e.inverse_s); }
    static vec curvature(vec t, const Expert& e) { return absolute(t) < e.s ? vec{} + e.w * e.inverse_s : vec{}; }
    static vec by_weight(vec t, const Expert& e) { return clip(t * e.inverse_s); }
    static vec by_smoothing(vec t, const Expert& e) {
        return absolute(t) < e.s ? (-e.w * e.inverse_s * e.inverse_s) * t : vec{};
    }
};

struct Mcp {
    static vec influence(vec t, const Expert& e) { return e.w * (clip(t * e.inverse_s) - clip(t * e.inverse_w)); }
    static vec curvature(vec t, const Expert& e) {
        return Huber::curvature(t, e) - (absolute(t) < e.w ? vec{} + 1 : vec{});
    }
    static vec by_weight(vec t, const Expert& e) {
        vec sign = t < 0 ? vec{} - 1 : vec{} + 1;
        return clip(t * e.inverse_s) - (absolute(t) < e.w ? vec{} : sign);
    }
    static vec by_smoothing(vec t, const Expert& e) { return Huber::by_smoothing(t, e); }
};

struct Log {
    static vec inverse(vec t, const Expert& e) { return 1 / (t * t + e.s * e.s); }
    static vec influence(vec t, const Expert& e) { return e.w * e.s * t * inverse(t, e); }
    static vec curvature(vec t, const Expert& e) {
        vec r = inverse(t, e);
        return e.w * e.s * (e.s * e.s - t * t) * (r * r);
    }
    static vec by_weight(vec t, const Expert& e) { return e.s * t * inverse(t, e); }
    static vec by_smoothing(vec t, const Expert& e) {
        vec r = inverse(t, e);
        return e.w * t * (t * t - e.s * e.s) * (r * r);
    }
};

struct Spline {  // regularizers/foe/spline.py
    static vec sign(vec t) { return t < 0 ? vec{} - 1 : vec{} + 1; }
    static vec by_weight(vec t, const Expert& e) {
        vec z = absolute(t) * e.inverse_s, sum{};
#pragma GCC unroll 32
        for (int j = 1; j <= TAUS; j++) sum += e.b[j - 1] * smaller(z, vec{} + TAU[j]);
        return sign(t) * sum;
    }
    static vec influence(vec t, const Expert& e) { return e.w * by_weight(t, e); }
    static vec curvature(vec t, const Expert& e) {
        vec z = absolute(t) * e.inverse_s, d{};
#pragma GCC unroll 32
        for (int j = TAUS; j >= 1; j--) d = z < TAU[j] ? vec{} + e.a[j - 1] : d;
        return e.w * e.inverse_s * d;
    }
    static vec by_smoothing(vec t, const Expert& e) { return -e.inverse_s * t * curvature(t, e); }
};

// A potential of GROUP responses: what each function does with the responses t of a group.
template <class P>
struct Single {
    static constexpr int SHAPE = TAUS;
    static void influence(vec t[1], const Expert& e) { t[0] = P::influence(t[0], e); }  // t <- phi'(t)
    static void curvature(vec t[1], const Expert& e) { t[0] = P::curvature(t[0], e); }  // t <- the diagonal of phi''(t)
    static void local(vec t[1], const Expert& e) { curvature(t, e); }  // t <- what REMEMBER keeps for `times`
    static void times(const vec local[1], vec y[1], const Expert&) { y[0] = local[0] * y[0]; }  // y <- phi''(t) y
    static void add_by_parameters(const vec t[1], const vec y[1], const Expert& e, real* by_w, real* by_s, real*) {
        add(by_w, P::by_weight(t[0], e) * y[0]);
        add(by_s, P::by_smoothing(t[0], e) * y[0]);
    }
};

#if GROUP == 1
typedef Single<POTENTIAL> Phi;
#else
#include "groups.h"
typedef POTENTIAL Phi;
#endif
constexpr int J = Phi::SHAPE;

// The bank: filters (K, C, s, s) in the two orders in which taps are broadcast, K rounded up to a multiple of EXPERTS
// by experts that are zero. Parameters of potentials are those of groups.
struct Bank {
    int given, experts, groups, channels;  // K, K rounded up, and groups of these
    std::vector<real> analysis;   // [block of experts][c][p][q][expert in block]
    std::vector<real> synthesis;  // [k][c][q][p], times scale, or their squares
    std::vector<real> a, b;  // [group][j]
    std::vector<Expert> expert;  // [group]

    Bank(const real* filters, const real* weights, const real* smoothings, const real* shape, real scale, int k_,
         int channels_, bool squared)
        : given(k_), experts(up(k_, EXPERTS)), groups(experts / GROUP), channels(channels_),
          analysis(experts * channels * SIZE * SIZE), synthesis(analysis.size()), a(groups * J, (real)1), b(groups * J) {
        for (int k = 0; k < groups; k++)
            expert.push_back({1, (real)0.5, 1, 2, a.data() + k * J, b.data() + k * J});
        for (int k = 0; k < given / GROUP; k++) {
            expert[k].w = weights[k], expert[k].inverse_w = 1 / weights[k];
            expert[k].s = smoothings[k], expert[k].inverse_s = 1 / smoothings[k];
            for (int j = 0; j < J; j++) {
                a[k * J + j] = shape[k * J + j];
                b[k * J + j] = shape[k * J + j] - (j + 1 < J ? shape[k * J + j + 1] : 0);
            }
        }
        for (int k = 0; k < given; k++) {
            for (int c = 0; c < channels; c++)
                for (int p = 0; p < SIZE; p++)
                    for (int q = 0; q < SIZE; q++) {
                        real tap = filters[((k * channels + c) * SIZE + p) * SIZE + q];
                        int position = (((k / EXPERTS) * channels + c) * SIZE + p) * SIZE + q;
                        analysis[position * EXPERTS + k % EXPERTS] = tap;
                        synthesis[((k * channels + c) * SIZE + q) * SIZE + p] = scale * (squared ? tap * tap : tap);
                    }
        }
    }
};

struct Shape {
    int batch, channels, height, width;
    long size() const { return (long)channels * height * width; }
    int bands() const { return (height - HALO + ROWS - 1) / ROWS; }
    int tiles() const { return (width - HALO + COLUMNS - 1) / COLUMNS; }
    int span() const { return std::min(SPAN, up(width - HALO, LANES)); }  // of a remembered row of responses
};

// A part of an image (C, TILE_ROWS, STRIDE), zero beyond its border.
struct Tile {
    std::vector<real> data;
    explicit Tile(int channels) : data(channels * TILE_ROWS * STRIDE) {}
    real* row(int c, int i) { return data.data() + (c * TILE_ROWS + i) * STRIDE; }

    void read(const real* image, const Shape& n, int i0, int rows, int j0, int columns) {
        std::fill(data.begin(), data.end(), (real)0);
        for (int c = 0; c < n.channels; c++)
            for (int i = 0; i < rows + HALO; i++) {
                const real* from = image + ((long)c * n.height + i0 + i) * n.width + j0;
                std::copy(from, from + columns + HALO, row(c, i));
            }
    }
    void clear() { std::fill(data.begin(), data.end(), (real)0); }
    void add_to(real* image, const Shape& n, int i0, int rows, int j0, int columns) {
        for (int c = 0; c < n.channels; c++)
            for (int i = 0; i < rows + HALO; i++) {
                real* to = image + ((long)c * n.height + i0 + i) * n.width + j0;
                const real* from = row(c, i);
                for (int j = 0; j < columns + HALO; j++) to[j] += from[j];
            }
    }
};

// u[e][m] = responses of a block of experts to M vectors of row i from column j on.
template <int M>
inline void respond(Tile& x, const Bank& bank, int block, int i, int j, vec u[EXPERTS][M]) {
    const real* taps = bank.analysis.data() + (long)block * bank.channels * SIZE * SIZE * EXPERTS;
    vec sum[EXPERTS][M] = {};
    for (int c = 0; c < bank.channels; c++)
        for (int p = 0; p < SIZE; p++) {
            const real* row = x.row(c, i + p) + j;
#pragma GCC unroll 1
            for (int q = 0; q < SIZE; q++, taps += EXPERTS) {
                vec shifted[M];
#pragma GCC unroll 8
                for (int m = 0; m < M; m++) shifted[m] = held(row + q + m * LANES);
#pragma GCC unroll 8
                for (int e = 0; e < EXPERTS; e++)
#pragma GCC unroll 8
                    for (int m = 0; m < M; m++) sum[e][m] += taps[e] * shifted[m];
            }
        }
    for (int e = 0; e < EXPERTS; e++)
        for (int m = 0; m < M; m++) u[e][m] = sum[e][m];
}

// Calls f(block, first column, integral_constant M) so that the vectors of a row are taken by threes.
template <class F>
inline void over_row(int blocks, int columns, F f) {
    int vectors = up(columns, LANES) / LANES;
    for (int block = 0; block < blocks; block++)
        for (int v = 0; v < vectors;) {
            if (vectors - v >= 3) { f(block, v * LANES, std::integral_constant<int, 3>()); v += 3; }
            else if (vectors - v == 2) { f(block, v * LANES, std::integral_constant<int, 2>()); v += 2; }
            else { f(block, v * LANES, std::integral_constant<int, 1>()); v += 1; }
        }
}

// Rows of responses of all experts, zero outside the columns they are trimmed to.
struct Responses {
    int rows;
    std::vector<real> data;
    explicit Responses(int experts, int rows = 1) : rows(rows), data((long)experts * rows * RESPONSES) {}
    real* row(int k, int i = 0) { return data.data() + ((long)k * rows + i) * RESPONSES + MARGIN; }
    void trim(int k, int i, int columns) { std::fill(row(k, i) + columns, row(k, i) + SPAN, (real)0); }
    double sum(int k, int columns) {  // of a row that is trimmed
        vec total = {};
        for (int j = 0; j < columns; j += LANES) total += load(row(k) + j);
        return sum_of(total);
    }
};

// g_ki or m_ki of every group of responses, (B, K / GROUP, height - HALO, width - HALO); none: 1.
struct Plane {
    const real* data;
    explicit operator bool() const { return data != nullptr; }
    Responses row_of_ones(const Bank& bank) const {
        Responses row(data ? bank.groups : 0);
        std::fill(row.data.begin(), row.data.end(), (real)1);
        return row;
    }
    void read(Responses& to, const Shape& n, const Bank& bank, int image, int i, int j, int columns) const {
        int given = bank.given / GROUP;
        for (int k = 0; data && k < given; k++) {
            const real* from =
                data + (((long)image * given + k) * (n.height - HALO) + i) * (n.width - HALO) + j;
            std::copy(from, from + columns, to.row(k));
        }
    }
};

// M vectors from column v on of g[i + p] += sum_k sum_q z[k][. - q] c_k[p, q], for one row i of responses, p >= FIRST.
template <int M, int FIRST = 0>
inline void synthesize(Tile& g, const Bank& bank, Responses& z, int c, int i, int v) {
    constexpr int TAPS = std::min(PART, SIZE - FIRST);
    vec sum[TAPS][M] = {};
    for (int k = 0; k < bank.experts; k++) {
        const real* taps = bank.synthesis.data() + (long)(k * bank.channels + c) * SIZE * SIZE + FIRST;
        const real* row = z.row(k) + v;
#pragma GCC unroll 1
        for (int q = 0; q < SIZE; q++, taps += SIZE) {
            vec shifted[M];
#pragma GCC unroll 8
            for (int m = 0; m < M; m++) shifted[m] = held(row - q + m * LANES);
#pragma GCC unroll 32
            for (int p = 0; p < TAPS; p++)
#pragma GCC unroll 8
                for (int m = 0; m < M; m++) sum[p][m] += taps[p] * shifted[m];
        }
    }
    for (int p = 0; p < TAPS; p++)
        for (int m = 0; m < M; m++) add(g.row(c, i + FIRST + p) + v + m * LANES, sum[p][m]);
    if constexpr (FIRST + TAPS < SIZE) synthesize<M, FIRST + TAPS>(g, bank, z, c, i, v);
}

inline void synthesize(Tile& g, const Bank& bank, Responses& z, int i, int columns) {
    int end = up(columns + HALO, LANES), v;
    for (int c = 0; c < bank.channels; c++) {
        for (v = 0; v + WIDTH * LANES <= end; v += WIDTH * LANES) synthesize<WIDTH>(g, bank, z, c, i, v);
        for (; v < end; v += LANES) synthesize<1>(g, bank, z, c, i, v);
    }
}

// f(image, band, first row, rows) for every band of ROWS rows of responses. Bands of one parity run in parallel: a band
// reaches SIZE - 1 rows into the next one only, so no two threads meet and every sum has one order.
template <class F>
void over_bands(const Shape& n, F f) {
    int bands = n.bands();
    for (int parity = 0; parity < 2; parity++) {
        int half = (bands + 1 - parity) / 2;
#pragma omp parallel for schedule(dynamic)
        for (int task = 0; task < n.batch * half; task++) {
            int band = 2 * (task % half) + parity;
            f(task / half, band, band * ROWS, std::min(ROWS, n.height - HALO - band * ROWS));
        }
    }
}

struct Modulation { Plane contrast, mask; };

// What `apply` does with the responses u = C x of a tile, g the contrasts and m the masks.
enum Mode {
    GRADIENT,     // g += scale C^T m phi'(g u) / g
    REMEMBER,     // curvature = phi''(g u), or g u of groups, in the order of the tiles
    SUMMARY,      // g += scale (C o C)^T m |phi''(g u)|, of groups the diagonal; curvature[image, band, k] = sums of it
    PRODUCT,      // g += scale C^T m curvature C v, with the curvature of REMEMBER
    PRODUCT_AT_X  // g += scale C^T m phi''(g C x) C v, for images whose curvature would fill the memory
};

// Where REMEMBER keeps the curvature of one row of a tile.
long place(const Shape& n, int experts, int image, int row, int column) {
    return (((long)image * n.bands() * ROWS + row) * n.tiles() + column / COLUMNS) * experts * n.span();
}

template <Mode mode>
void apply(const real* x, const real* v, real* g, real* curvature, const Shape& n, const Bank& bank, Modulation by) {
    auto [contrast, mask] = by;
    over_bands(n, [&](int b, int band, int first, int rows) {
        real* sums = curvature + ((long)b * n.bands() + band) * bank.experts;
        Tile at(n.channels), along(n.channels), sum(n.channels);
        Responses z(bank.experts), factor = contrast.row_of_ones(bank), share = mask.row_of_ones(bank);
        for (int j0 = 0; j0 < n.width - HALO; j0 += COLUMNS) {
            int columns = std::min(COLUMNS, n.width - HALO - j0);
            if (mode != PRODUCT) at.read(x + b * n.size(), n, first, rows, j0, columns);
            if (mode >= PRODUCT) along.read(v + b * n.size(), n, first, rows, j0, columns);
            sum.clear();
            for (int i = 0; i < rows; i++) {
                constexpr bool remembers = mode == REMEMBER || mode == PRODUCT;
                if (mode != PRODUCT) contrast.read(factor, n, bank, b, first + i, j0, columns);
                if (mode != REMEMBER) mask.read(share, n, bank, b, first + i, j0, columns);
                real* remembered = remembers ? curvature + place(n, bank.experts, b, first + i, j0) : nullptr;
                over_row(bank.experts / EXPERTS, columns, [&](int block, int j, auto vectors) {
                    constexpr int M = vectors;
                    vec u[EXPERTS][M], w[EXPERTS][M];
                    for (int e = 0; mode == PRODUCT && e < EXPERTS; e++)  // from memory, while the filters compute
                        for (int m = 0; m < M; m++)
                            __builtin_prefetch(remembered + (long)(block * EXPERTS + e) * n.span() + j + m * LANES);
                    if (mode != PRODUCT) respond<M>(at, bank, block, i, j, u);
                    if (mode >= PRODUCT) respond<M>(along, bank, block, i, j, w);
                    for (int e = 0; e < EXPERTS; e += GROUP) {
                        int k = block * EXPERTS + e;
                        const Expert& expert = bank.expert[k / GROUP];
                        for (int m = 0; m < M; m++) {
                            int column = j + m * LANES;
                            bool stretched = contrast && mode != PRODUCT;
                            vec local = stretched ? load(factor.row(k / GROUP) + column) : vec{} + 1;
                            vec part = mask && mode != REMEMBER ? load(share.row(k / GROUP) + column) : vec{} + 1;
                            vec t[GROUP], y[GROUP];
#pragma GCC unroll 4
                            for (int i = 0; i < GROUP; i++) {
                                t[i] = mode == PRODUCT ? load(remembered + (long)(k + i) * n.span() + column) : u[e + i][m];
                                if (stretched) t[i] *= local;
                                if (mode >= PRODUCT) y[i] = w[e + i][m];
                            }
                            if (mode == GRADIENT) Phi::influence(t, expert);
                            if (mode == SUMMARY) Phi::curvature(t, expert);
                            if (mode == REMEMBER || mode == PRODUCT_AT_X) Phi::local(t, expert);
                            if (mode >= PRODUCT) Phi::times(t, y, expert);
#pragma GCC unroll 4
                            for (int i = 0; i < GROUP; i++) {
                                real* to = z.row(k + i) + column;
                                if (mode == GRADIENT && contrast) t[i] /= local;
                                if (mode == SUMMARY) t[i] = absolute(t[i]);
                                if (mode == REMEMBER) store(remembered + (long)(k + i) * n.span() + column, t[i]);
                                else if (mode >= PRODUCT) store(to, mask ? part * y[i] : y[i]);
                                else store(to, mask ? part * t[i] : t[i]);
                            }
                        }
                    }
                });
                if (mode == REMEMBER) continue;
                for (int k = 0; k < bank.experts; k++) {
                    z.trim(k, 0, columns);
                    if (mode == SUMMARY) sums[k] += z.sum(k, columns);
                }
                synthesize(sum, bank, z, i, columns);
            }
            if (mode != REMEMBER) sum.add_to(g + b * n.size(), n, first, rows, j0, columns);
        }
    });
}

// total[k][c][p][q] += sum over rows and columns of z[k] x[. + p, . + q].
inline void correlate(Tile& x, Responses& z, const Bank& bank, int rows, int columns, double* total) {
    int vectors = up(columns, LANES) / LANES;
    for (int k = 0; k < bank.experts; k += TOGETHER)
        for (int c = 0; c < bank.channels; c++)
            for (int p = 0; p < SIZE; p++) {
                vec sum[TOGETHER][SIZE] = {};
                for (int i = 0; i < rows; i++)
                    for (int v = 0; v < vectors; v++) {
                        const real* row = x.row(c, i + p) + v * LANES;
#pragma GCC unroll 8
                        for (int e = 0; e < TOGETHER; e++) {
                            vec response = held(z.row(std::min(k + e, bank.experts - 1), i) + v * LANES);
#pragma GCC unroll 32
                            for (int q = 0; q < SIZE; q++) sum[e][q] += response * load(row + q);
                        }
                    }
                for (int e = 0; e < std::min(TOGETHER, bank.experts - k); e++)
                    for (int q = 0; q < SIZE; q++)
                        total[(((long)(k + e) * bank.channels + c) * SIZE + p) * SIZE + q] += sum_of(sum[e][q]);
            }
}

// sums[j][LANES] += sign(t) min(|t| / s, tau_j) v, for j = 1 ... J: the derivatives of psi' by b.
template <int M>
inline void add_by_bends(const vec t[M], const vec v[M], const Expert& e, real* sums) {
    vec z[M], along[M];
    for (int m = 0; m < M; m++) z[m] = absolute(t[m]) * e.inverse_s, along[m] = t[m] < 0 ? -v[m] : v[m];
    for (int j = 1; j <= TAUS; j++) {
        vec sum{};
        for (int m = 0; m < M; m++) sum += smaller(z[m], vec{} + TAU[j]) * along[m];
        add(sums + (j - 1) * LANES, sum);
    }
}

// Per band: derivatives of scale^-1 <dR/dx, q> by the filters, then by weights, by smoothings and by the shape (K, J).
void mixed(const real* x, const real* q, double* totals, const Shape& n, const Bank& bank, Modulation by) {
    auto [contrast, mask] = by;
    long taps = (long)bank.experts * bank.channels * SIZE * SIZE, stride = taps + (2 + J) * bank.groups;
    over_bands(n, [&](int b, int band, int first, int rows) {
        double* total = totals + ((long)b * n.bands() + band) * stride;
        Tile at(n.channels), along(n.channels);
        Responses by_x(bank.experts, ROWS), by_q(bank.experts, ROWS);
        Responses factor = contrast.row_of_ones(bank), share = mask.row_of_ones(bank);
        std::vector<real> by_weight(bank.groups * LANES), by_smoothing(bank.groups * LANES);
        std::vector<real> by_shape(bank.groups * J * LANES);  // of a spline by b
        for (int j0 = 0; j0 < n.width - HALO; j0 += COLUMNS) {
            int columns = std::min(COLUMNS, n.width - HALO - j0);
            at.read(x + b * n.size(), n, first, rows, j0, columns);
            along.read(q + b * n.size(), n, first, rows, j0, columns);
            for (int i = 0; i < rows; i++) {
                contrast.read(factor, n, bank, b, first + i, j0, columns);
                mask.read(share, n, bank, b, first + i, j0, columns);
                over_row(bank.experts / EXPERTS, columns, [&](int block, int j, auto vectors) {
                    constexpr int M = vectors;
                    vec u[EXPERTS][M], w[EXPERTS][M];
                    respond<M>(at, bank, block, i, j, u);
                    respond<M>(along, bank, block, i, j, w);
                    for (int e = 0; e < EXPERTS; e += GROUP) {
                        int k = block * EXPERTS + e, group = k / GROUP;
                        const Expert& expert = bank.expert[group];
                        real* of_shape = by_shape.data() + group * J * LANES;
                        for (int m = 0; m < M; m++) {
                            int column = j + m * LANES;
                            vec part = vec{} + 1, t[GROUP], y[GROUP], slope[GROUP], local[GROUP];
                            if (mask) part = load(share.row(group) + column);
                            vec over_contrast = contrast ? part / load(factor.row(group) + column) : part;
                            for (int r = 0; r < GROUP; r++) {
                                if (contrast) u[e + r][m] *= load(factor.row(group) + column);
                                for (int l = columns - column; l < LANES; l++) w[e + r][m][l] = 0;
                                t[r] = slope[r] = local[r] = u[e + r][m], y[r] = w[e + r][m];
                            }
                            Phi::influence(slope, expert);
                            Phi::local(local, expert), Phi::times(local, y, expert);
                            for (int r = 0; r < GROUP; r++) {
                                store(by_x.row(k + r, i) + column, part * y[r]);
                                store(by_q.row(k + r, i) + column, slope[r] * over_contrast);
                                y[r] = w[e + r][m] *= over_contrast;
                            }
                            Phi::add_by_parameters(t, y, expert, &by_weight[group * LANES], &by_smoothing[group * LANES], of_shape);
                        }
                        if (TAUS > 0) add_by_bends<M>(u[e], w[e], expert, of_shape);
                    }
                });
                for (int k = 0; k < bank.experts; k++) by_q.trim(k, i, columns);
            }
            correlate(at, by_x, bank, rows, columns, total);
            correlate(along, by_q, bank, rows, columns, total);
        }
        for (int k = 0; k < bank.groups; k++) {
            total[taps + k] = sum_of(load(&by_weight[k * LANES]));
            total[taps + bank.groups + k] = sum_of(load(&by_smoothing[k * LANES]));
            double before = 0;
            for (int j = 0; j < J; j++) {
                double here = sum_of(load(&by_shape[(k * J + j) * LANES]));
                if (TAUS > 0) here *= bank.expert[k].w;
                total[taps + 2 * bank.groups + k * J + j] = here - before;
                if (TAUS > 0) before = here;  // a_j is in b_j and, with the other sign, in b_{j-1}
            }
        }
    });
}

// Length of `curvature` in mode REMEMBER, and (batch x bands x experts) in mode SUMMARY.
extern "C" long foe_memory(const Shape* n, int experts) { return place(*n, up(experts, EXPERTS), n->batch, 0, 0); }
extern "C" int foe_bands(const Shape* n) { return n->bands(); }
extern "C" int foe_experts(int experts) { return up(experts, EXPERTS); }

// filters (K, C, s, s), of groups weights (K / GROUP), smoothings, shape (K / GROUP, J), contrast and mask (B, K / GROUP,
// H - s + 1, W - s + 1) or null; x, v, g (B, C, H, W), v and g where the mode has them.
extern "C" void foe_apply(int mode, const Shape* n, const real* filters, const real* weights, const real* smoothings,
                          const real* shape, const real* contrast, const real* mask, double scale, int experts,
                          const real* x, const real* v, real* g, real* curvature) {
    Bank bank(filters, weights, smoothings, shape, (real)scale, experts, n->channels, mode == SUMMARY);
    Modulation by{{contrast}, {mask}};
    if (mode == GRADIENT) apply<GRADIENT>(x, v, g, curvature, *n, bank, by);
    if (mode == REMEMBER) apply<REMEMBER>(x, v, g, curvature, *n, bank, by);
    if (mode == SUMMARY) apply<SUMMARY>(x, v, g, curvature, *n, bank, by);
    if (mode == PRODUCT) apply<PRODUCT>(x, v, g, curvature, *n, bank, by);
    if (mode == PRODUCT_AT_X) apply<PRODUCT_AT_X>(x, v, g, curvature, *n, bank, by);
}

// derivatives (K C s s + (2 + J) K / GROUP): of <dR/dx, q>, summed over the batch, by filters, weights, smoothings, shape.
extern "C" void foe_mixed(const Shape* n, const real* filters, const real* weights, const real* smoothings,
                          const real* shape, const real* contrast, const real* mask, double scale, int experts,
                          const real* x, const real* q, double* derivatives) {
    Bank bank(filters, weights, smoothings, shape, (real)scale, experts, n->channels, false);
    long per_expert = (long)n->channels * SIZE * SIZE, stride = bank.experts * per_expert + bank.groups * (2 + J);
    long parts = (long)n->batch * n->bands();
    std::vector<double> totals(parts * stride);
    mixed(x, q, totals.data(), *n, bank, Modulation{{contrast}, {mask}});
    // A fixed order of summation: the result does not depend on the number of threads.
    for (long part = 0; part < parts; part++) {
        const double* total = totals.data() + part * stride;
        double* to = derivatives;
        for (long width : {per_expert * GROUP, 1L, 1L, (long)J}) {
            for (long i = 0; i < experts / GROUP * width; i++) to[i] += scale * total[i];
            to += experts / GROUP * width, total += bank.groups * width;
        }
    }
}
