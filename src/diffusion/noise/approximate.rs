//! The Cephes single-precision logarithm, sine and cosine, in the order of operations of torch's AVX2 kernels, so that
//! each result is the same to the last bit: where the compiler of torch's wheels fused a multiplication with the
//! addition after it, so is it here. Coefficients are Cephes' (Moshier, 1989).

/// Natural logarithm of a normal positive number.
pub(super) fn ln(x: f32) -> f32 {
    const P: [f32; 9] = [
        0.070376836,
        -0.1151461,
        0.116769984,
        -0.12420141,
        0.14249323,
        -0.16668057,
        0.20000714,
        -0.24999994,
        0.3333333,
    ];
    let bits = x.max(f32::MIN_POSITIVE).to_bits();
    let mut exponent = ((bits >> 23) as i32 - 126) as f32;
    let mantissa = f32::from_bits((bits & 0x007F_FFFF) | 0.5f32.to_bits());
    let mut m = mantissa - 1.0;
    if mantissa < std::f32::consts::FRAC_1_SQRT_2 {
        exponent -= 1.0;
        m += mantissa;
    }
    let z = m * m;
    let y = P[1..].iter().fold(P[0], |y, p| y.mul_add(m, *p)) * m;
    let y = y.mul_add(z, exponent * -2.121_944_4e-4);
    let y = z.mul_add(-0.5, y);
    exponent.mul_add(0.693_359_4, m + y)
}

/// (sine, cosine) of a number from 0 to 2π.
pub(super) fn sin_cos(x: f32) -> (f32, f32) {
    // The octant, rounded up to even, and what is left of the angle.
    let octant = ((x * 1.273_239_5) as u32 + 1) & !1;
    let turns = octant as f32;
    let x = turns.mul_add(-0.785_156_25, x);
    let x = turns.mul_add(-2.418_756_5e-4, x);
    let x = turns.mul_add(-3.774_895e-8, x);
    let z = x * x;

    let cos = 2.443_315_7e-5_f32.mul_add(z, -1.388_731_6e-3);
    let cos = cos.mul_add(z, 4.166_664_6e-2) * z;
    let cos = cos.mul_add(z, -0.5 * z) + 1.0;
    let sin = (-1.951_529_6e-4_f32).mul_add(z, 8.332_161e-3);
    let sin = sin.mul_add(z, -1.666_665_5e-1) * z;
    let sin = sin.mul_add(x, x);

    let (s, c) = if octant & 2 == 0 { (sin, cos) } else { (cos, sin) };
    let sign = |negative: bool, value: f32| if negative { -value } else { value };
    (sign(octant & 4 != 0, s), sign(octant.wrapping_sub(2) & 4 == 0, c))
}
