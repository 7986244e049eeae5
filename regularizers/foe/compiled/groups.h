// Potentials of GROUP responses together, as in regularizers/foe/groups.py; included by foe.cpp.
//
// With P the projection onto the unit ball of the dual norm, a P(z / a) is that onto the ball of radius a, and P'(z / a)
// = diag(m) - c n n^T. So nothing is divided by a.

constexpr int D = GROUP;
static_assert(EXPERTS % D == 0, "a block holds whole groups");

struct Slope {
    vec m[D], n[D], c;
    void times(vec y[D]) const {  // y <- (diag(m) - c n n^T) y
        vec along{};
#pragma GCC unroll 4
        for (int i = 0; i < D; i++) along += n[i] * y[i];
        along *= c;
#pragma GCC unroll 4
        for (int i = 0; i < D; i++) y[i] = m[i] * y[i] - along * n[i];
    }
};

struct L2 {
    static vec squared(const vec z[D]) {
        vec sum{};
#pragma GCC unroll 4
        for (int i = 0; i < D; i++) sum += z[i] * z[i];
        return sum;
    }
    static void project(vec z[D], real a) {  // z <- a P(z / a)
        vec shrinkage = a * inverse_root(larger(squared(z), vec{} + a * a));
#pragma GCC unroll 4
        for (int i = 0; i < D; i++) z[i] *= shrinkage;
    }
    static Slope slope(const vec z[D], real a, real factor) {  // factor P'(z / a)
        Slope s;
        vec length = squared(z), r = inverse_root(larger(length, vec{} + a * a)), m = factor * a * r;
        s.c = length > a * a ? m * r * r : vec{};
#pragma GCC unroll 4
        for (int i = 0; i < D; i++) s.m[i] = m, s.n[i] = z[i];
        return s;
    }
};

struct Linf {
    // tau for the ball of radius a, negative within the ball.
    static vec threshold(const vec z[D], real a) {
        vec size[D], tau;
#pragma GCC unroll 4
        for (int i = 0; i < D; i++) size[i] = larger(z[i], -z[i]);
        auto rises = [&](vec sum, real share) { tau = larger(sum * share - a * share, tau); };
        if constexpr (D == 2) {
            tau = larger(size[0], size[1]) - a;
            rises(size[0] + size[1], (real)0.5);
        } else {  // the largest two are the larger ones of both pairs, or one pair
            vec first = size[0] + size[1], second = size[2] + size[3], all = first + second;
            vec above = larger(size[0], size[1]), beside = larger(size[2], size[3]);
            vec least = smaller(smaller(size[0], size[1]), smaller(size[2], size[3]));
            tau = larger(above, beside) - a;
            rises(larger(above + beside, larger(first, second)), (real)0.5);
            rises(all - least, (real)1 / 3);
            rises(all, (real)0.25);
        }
        return tau;
    }
    static void project(vec z[D], real a) {
        vec tau = larger(threshold(z, a), vec{});
#pragma GCC unroll 4
        for (int i = 0; i < D; i++) z[i] -= larger(smaller(z[i], tau), -tau);
    }
    static Slope slope(const vec z[D], real a, real factor) {
        Slope s;
        vec tau = threshold(z, a), kept{};
#pragma GCC unroll 4
        for (int i = 0; i < D; i++) {
            s.n[i] = z[i] < -tau ? vec{} - 1 : vec{};
            s.n[i] = z[i] > tau ? vec{} + 1 : s.n[i];
            s.m[i] = s.n[i] * s.n[i];
            kept += s.m[i];
            s.m[i] *= factor;
        }
        // 1 / kept, of those that rounding kept, too: m - c n n^T is never negative.
        s.c = vec{} + factor;
#pragma GCC unroll 4
        for (int j = 2; j <= D; j++) s.c = kept >= (real)j ? vec{} + factor / j : s.c;
        s.c = tau > 0 ? s.c : vec{};
        return s;
    }
};

// w M_s(u) - v M_v(Q u), or w M_s(u). Of a group, e.a is v and the rows of Q.
template <class Norm, bool CONCAVE>
struct Groups {
    static constexpr int SHAPE = CONCAVE ? 1 + D * D : 0;

    static void turned(const vec u[D], const Expert& e, vec z[D]) {  // z = Q u
#pragma GCC unroll 4
        for (int i = 0; i < D; i++) {
            z[i] = e.a[1 + i * D] * u[0];
#pragma GCC unroll 4
            for (int j = 1; j < D; j++) z[i] += e.a[1 + i * D + j] * u[j];
        }
    }
    static void subtract_turned_back(const vec z[D], const Expert& e, vec u[D]) {  // u -= Q^T z
#pragma GCC unroll 4
        for (int j = 0; j < D; j++)
#pragma GCC unroll 4
            for (int i = 0; i < D; i++) u[j] -= e.a[1 + i * D + j] * z[i];
    }

    static void influence(vec t[D], const Expert& e) {
        vec z[D];
        if (CONCAVE) turned(t, e, z), Norm::project(z, e.a[0]);
        Norm::project(t, e.s);
#pragma GCC unroll 4
        for (int i = 0; i < D; i++) t[i] *= e.w * e.inverse_s;
        if (CONCAVE) subtract_turned_back(z, e, t);
    }
    static void local(vec*, const Expert&) {}  // the responses themselves are remembered
    __attribute__((always_inline)) static void times(const vec t[D], vec y[D], const Expert& e) {
        vec z[D], along[D];
        if (CONCAVE) {
            turned(t, e, z), turned(y, e, along);
            Norm::slope(z, e.a[0], 1).times(along);
        }
        Norm::slope(t, e.s, e.w * e.inverse_s).times(y);
        if (CONCAVE) subtract_turned_back(along, e, y);
    }
    static void curvature(vec t[D], const Expert& e) {  // the diagonal
        vec z[D];
        if (CONCAVE) turned(t, e, z);
        Slope s = Norm::slope(t, e.s, e.w * e.inverse_s);
        for (int i = 0; i < D; i++) t[i] = s.m[i] - s.c * s.n[i] * s.n[i];
        if (!CONCAVE) return;
        s = Norm::slope(z, e.a[0], 1);
        for (int j = 0; j < D; j++) {
            vec along{};
            for (int i = 0; i < D; i++) {
                real q = e.a[1 + i * D + j];
                t[j] -= q * q * s.m[i], along += q * s.n[i];
            }
            t[j] += s.c * along * along;
        }
    }
    // Adds <d phi' / d parameter, y> for w, s, v and Q.
    static void add_by_parameters(const vec t[D], const vec y[D], const Expert& e, real* by_w, real* by_s,
                                  real* by_shape) {
        vec p[D], along[D];
        for (int i = 0; i < D; i++) p[i] = along[i] = t[i];
        Norm::project(p, e.s), Norm::slope(t, e.s, -e.w * e.inverse_s * e.inverse_s).times(along);
        add(by_w, e.inverse_s * dot(p, y)), add(by_s, dot(along, y));
        if (!CONCAVE) return;
        vec z[D], turn[D];
        turned(t, e, z), turned(y, e, turn);
        for (int i = 0; i < D; i++) p[i] = z[i], along[i] = turn[i];
        Norm::project(p, e.a[0]), Norm::slope(z, e.a[0], 1).times(along);
        add(by_shape, (1 / e.a[0]) * (dot(along, z) - dot(p, turn)));
        for (int i = 0; i < D; i++)
            for (int j = 0; j < D; j++) add(by_shape + (1 + i * D + j) * LANES, -p[i] * y[j] - along[i] * t[j]);
    }
    static vec dot(const vec a[D], const vec b[D]) {
        vec sum = a[0] * b[0];
        for (int i = 1; i < D; i++) sum += a[i] * b[i];
        return sum;
    }
};

typedef Groups<L2, false> HuberL2;
typedef Groups<L2, true> McpL2;
typedef Groups<Linf, false> HuberLinf;
typedef Groups<Linf, true> McpLinf;
