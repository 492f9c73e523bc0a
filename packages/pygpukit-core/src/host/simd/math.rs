//! Elementary functions on vectors, to about one unit in the last place of float32.

use super::Simd;

/// e to the power of `x`; 0 below -86.9 (where the result nears float32's least normal number).
///
/// The reduction and polynomial of Cephes' `expf` (S. L. Moshier).
#[inline(always)]
pub(crate) fn exp<S: Simd>(simd: S, x: S::Vector) -> S::Vector {
    const LEAST: f32 = -86.9;
    const GREATEST: f32 = 89.0;
    let zero = simd.splat(0.0);
    // Comparisons written so that NaN passes through.
    let clamped = simd.select_less(simd.splat(GREATEST), x, simd.splat(GREATEST), x);
    let clamped = simd.select_less(clamped, simd.splat(LEAST), simd.splat(LEAST), clamped);
    let n = simd.round(simd.mul(clamped, simd.splat(std::f32::consts::LOG2_E)));
    let r = simd.mul_add(n, simd.splat(-0.693_359_4), clamped);
    let r = simd.mul_add(n, simd.splat(2.121_944_4e-4), r);
    let series = polynomial(
        simd,
        r,
        [1.987_569_2e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5],
    );
    let series = simd.add(simd.mul_add(series, simd.mul(r, r), r), simd.splat(1.0));
    // In two steps, because 2^128 isn't a float32 but e^88.7 is.
    let half_power = simd.pow2(simd.sub(n, simd.splat(1.0)));
    let result = simd.mul(simd.mul(series, simd.splat(2.0)), half_power);
    simd.select_less(x, simd.splat(LEAST), zero, result)
}

/// The hyperbolic tangent.
///
/// The rational approximation of Eigen's `generic_fast_tanh_float`.
#[inline(always)]
pub(crate) fn tanh<S: Simd>(simd: S, x: S::Vector) -> S::Vector {
    let x = clamp(simd, x, 7.905_311);
    let square = simd.mul(x, x);
    let numerator = polynomial(
        simd,
        square,
        [
            -2.760_768_5e-16,
            2.000_188e-13,
            -8.604_672e-11,
            5.122_297e-8,
            1.485_722_4e-5,
            6.372_619e-4,
            4.893_524_6e-3,
        ],
    );
    let denominator =
        polynomial(simd, square, [1.198_258_4e-6, 1.185_347e-4, 2.268_434_6e-3, 4.893_525e-3]);
    simd.div(simd.mul(x, numerator), denominator)
}

/// Φ(-x), the mass of the standard normal distribution beyond `x >= 0`, to 1e-6 relative to itself
/// for x < 4 (beyond, the rounding of x²/2 adds x² · 6e-8).
///
/// t · exp(p(t) - x²/2) with t = 1 / (1 + 0.4 x), where p is the Chebyshev fit of
/// ln(Φ(-x) / t) + x²/2 over 0 <= x <= 15, within 9e-8.
#[inline(always)]
pub(crate) fn normal_tail<S: Simd>(simd: S, x: S::Vector) -> S::Vector {
    let one = simd.splat(1.0);
    let t = simd.div(one, simd.mul_add(x, simd.splat(0.4), one));
    let fit = polynomial(
        simd,
        t,
        [
            0.190_469_61,
            -0.975_287,
            1.947_742_2,
            -1.750_423_1,
            0.541_494_4,
            -0.181_183_84,
            0.372_058_15,
            0.997_101_8,
            -1.835_119_4,
        ],
    );
    let exponent = simd.mul_add(simd.mul(x, simd.splat(-0.5)), x, fit);
    simd.mul(t, exp(simd, exponent))
}

/// 1 / (1 + e^-x).
#[inline(always)]
pub(crate) fn sigmoid<S: Simd>(simd: S, x: S::Vector) -> S::Vector {
    let one = simd.splat(1.0);
    simd.div(one, simd.add(one, exp(simd, simd.sub(simd.splat(0.0), x))))
}

/// `x` between `-limit` and `limit`; NaN stays NaN.
#[inline(always)]
fn clamp<S: Simd>(simd: S, x: S::Vector, limit: f32) -> S::Vector {
    let (low, high) = (simd.splat(-limit), simd.splat(limit));
    simd.select_less(high, x, high, simd.select_less(x, low, low, x))
}

/// The polynomial with the coefficients given, that of the highest power first.
#[inline(always)]
fn polynomial<S: Simd, const N: usize>(simd: S, x: S::Vector, coefficients: [f32; N]) -> S::Vector {
    let mut value = simd.splat(coefficients[0]);
    for &coefficient in &coefficients[1..] {
        value = simd.mul_add(value, x, simd.splat(coefficient));
    }
    value
}
