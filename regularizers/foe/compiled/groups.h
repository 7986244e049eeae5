// Potentials of GROUP responses together, as in regularizers/foe/groups.py; included by foe.cpp.
//
// P is the projection onto the unit ball of the dual norm, and P'(z) = diag(m) - c n n^T.

constexpr int D = GROUP;

struct Slope {
    vec m[D], n[D], c;
    void times(vec y[D]) const {  // y <- P'(z) y
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
    static void project(vec z[D]) {
        vec shrinkage = inverse_root(larger(squared(z), vec{} + 1));
#pragma GCC unroll 4
        for (int i = 0; i < D; i++) z[i] *= shrinkage;
    }
    static Slope slope(const vec z[D]) {
        Slope s;
        vec length = squared(z), shrinkage = inverse_root(larger(length, vec{} + 1));
        s.c = length > 1 ? shrinkage * shrinkage * shrinkage : vec{};
#pragma GCC unroll 4
        for (int i = 0; i < D; i++) s.m[i] = shrinkage, s.n[i] = z[i];
        return s;
    }
};

struct Linf {
    // tau, negative within the ball, and 1 / j for the j that attains it.
    static vec threshold(const vec z[D], vec& inverse) {
        vec a[D], tau;
#pragma GCC unroll 4
        for (int i = 0; i < D; i++) a[i] = absolute(z[i]);
        inverse = vec{} + 1;
        auto rises = [&](vec sum, real share) {
            vec next = sum * share - share;
            inverse = next > tau ? vec{} + share : inverse;
            tau = larger(next, tau);
        };
        if constexpr (D == 2) {
            tau = larger(a[0], a[1]) - 1;
            rises(a[0] + a[1], (real)0.5);
        } else {  // the largest two are the larger ones of both pairs, or one pair
            vec first = a[0] + a[1], second = a[2] + a[3], all = first + second;
            vec above = larger(a[0], a[1]), beside = larger(a[2], a[3]);
            vec least = smaller(smaller(a[0], a[1]), smaller(a[2], a[3]));
            tau = larger(above, beside) - 1;
            rises(larger(above + beside, larger(first, second)), (real)0.5);
            rises(all - least, (real)1 / 3);
            rises(all, (real)0.25);
        }
        return tau;
    }
    static void project(vec z[D]) {
        vec inverse, tau = larger(threshold(z, inverse), vec{});
#pragma GCC unroll 4
        for (int i = 0; i < D; i++) z[i] -= larger(smaller(z[i], tau), -tau);
    }
    static Slope slope(const vec z[D]) {
        Slope s;
        vec tau = threshold(z, s.c);
        s.c = tau > 0 ? s.c : vec{};
#pragma GCC unroll 4
        for (int i = 0; i < D; i++) {
            s.m[i] = absolute(z[i]) > tau ? vec{} + 1 : vec{};
            s.n[i] = z[i] < 0 ? -s.m[i] : s.m[i];
        }
        return s;
    }
};

// w M_s(u) - v M_v(Q u), or w M_s(u). Of a group, e.a is v and the rows of Q.
template <class Norm, bool CONCAVE>
struct Groups {
    static constexpr int SHAPE = CONCAVE ? 1 + D * D : 0;

    static void scaled(const vec u[D], real factor, vec z[D]) {
#pragma GCC unroll 4
        for (int i = 0; i < D; i++) z[i] = factor * u[i];
    }
    static void turned(const vec u[D], const Expert& e, vec z[D]) {  // z = Q u
#pragma GCC unroll 4
        for (int i = 0; i < D; i++) {
            z[i] = e.a[1 + i * D] * u[0];
#pragma GCC unroll 4
            for (int j = 1; j < D; j++) z[i] += e.a[1 + i * D + j] * u[j];
        }
    }
    static void subtract_turned_back(const vec z[D], real factor, const Expert& e, vec u[D]) {  // u -= factor Q^T z
#pragma GCC unroll 4
        for (int j = 0; j < D; j++) {
            vec sum = e.a[1 + j] * z[0];
#pragma GCC unroll 4
            for (int i = 1; i < D; i++) sum += e.a[1 + i * D + j] * z[i];
            u[j] -= factor * sum;
        }
    }
    static void concave(const vec u[D], const Expert& e, vec z[D]) {  // z = Q u / v
        turned(u, e, z);
        scaled(z, e.inverse_v, z);
    }

    static void influence(vec t[D], const Expert& e) {
        vec z[D], p[D];
        scaled(t, e.inverse_s, p);
        Norm::project(p);
        if (CONCAVE) concave(t, e, z), Norm::project(z);
        scaled(p, e.w, t);
        if (CONCAVE) subtract_turned_back(z, e.a[0], e, t);
    }
    static void local(vec*, const Expert&) {}  // the responses themselves are remembered
    static void times(const vec t[D], vec y[D], const Expert& e) {
        vec z[D], along[D];
        if (CONCAVE) {
            concave(t, e, z), turned(y, e, along);
            Norm::slope(z).times(along);
        }
        scaled(t, e.inverse_s, z);
        Norm::slope(z).times(y);
        scaled(y, e.w * e.inverse_s, y);
        if (CONCAVE) subtract_turned_back(along, 1, e, y);
    }
    static void curvature(vec t[D], const Expert& e) {  // the diagonal
        vec z[D];
        if (CONCAVE) concave(t, e, z);
        scaled(t, e.inverse_s, t);
        Slope s = Norm::slope(t);
        for (int i = 0; i < D; i++) t[i] = e.w * e.inverse_s * (s.m[i] - s.c * s.n[i] * s.n[i]);
        if (!CONCAVE) return;
        s = Norm::slope(z);
        for (int j = 0; j < D; j++) {
            vec along{};
            for (int i = 0; i < D; i++) {
                real q = e.a[1 + i * D + j];
                t[j] -= q * q * s.m[i], along += q * s.n[i];
            }
            t[j] += s.c * along * along;
        }
    }
    // sums += <d phi' / d parameter, y> for w, s, v and Q.
    static void add_by_parameters(const vec t[D], const vec y[D], const Expert& e, real* by_w, real* by_s, real* by_shape) {
        vec z[D], p[D], along[D], turn[D];
        scaled(t, e.inverse_s, z), scaled(z, 1, p), scaled(z, -e.w * e.inverse_s, along);
        Norm::project(p), Norm::slope(z).times(along);
        add(by_w, dot(p, y)), add(by_s, dot(along, y));
        if (!CONCAVE) return;
        concave(t, e, z), turned(y, e, turn), scaled(z, 1, p), scaled(turn, 1, along);
        Norm::project(p), Norm::slope(z).times(along);
        add(by_shape, dot(along, z) - dot(p, turn));
        for (int i = 0; i < D; i++)
            for (int j = 0; j < D; j++)
                add(by_shape + (1 + i * D + j) * LANES, -e.a[0] * p[i] * y[j] - along[i] * t[j]);
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
