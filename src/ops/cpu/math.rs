//! exp, SiLU and GELU on registers, to a few units in the last place of their scale.

use super::lanes::{Kernel, Lanes};

/// e^x for x clamped to −87..88: Cody and Waite's reduction and the polynomial of Cephes' `expf`.
///
/// # Safety
/// The processor has `L`.
#[inline(always)]
pub unsafe fn exp<L: Lanes>(x: L::V) -> L::V {
    // SAFETY: the caller's promise.
    unsafe {
        let x = L::min(L::splat(88.0), L::max(L::splat(-87.0), x));
        let n = L::round(L::mul(x, L::splat(std::f32::consts::LOG2_E)));
        let r = L::fma(n, L::splat(-0.693_359_4), x);
        let r = L::fma(n, L::splat(2.121_944_4e-4), r);
        let mut p = L::splat(1.987_569_1e-4);
        for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
            p = L::fma(p, r, L::splat(c));
        }
        let e = L::add(L::fma(L::mul(p, r), r, r), L::splat(1.0));
        L::mul(e, L::exp2(n))
    }
}

/// x · sigmoid(x).
///
/// # Safety
/// The processor has `L`.
#[inline(always)]
pub unsafe fn silu<L: Lanes>(x: L::V) -> L::V {
    // SAFETY: the caller's promise.
    unsafe { L::div(x, L::add(L::splat(1.0), exp::<L>(L::sub(L::splat(0.0), x)))) }
}

/// x · Φ(x), by Abramowitz and Stegun 7.1.26 for the error function (1.5e-7).
///
/// # Safety
/// The processor has `L`.
#[inline(always)]
pub unsafe fn gelu<L: Lanes>(x: L::V) -> L::V {
    // SAFETY: the caller's promise.
    unsafe {
        let zero = L::splat(0.0);
        let size = L::max(L::sub(zero, x), x);
        let z = L::mul(size, L::splat(std::f32::consts::FRAC_1_SQRT_2));
        let t = L::div(L::splat(1.0), L::fma(z, L::splat(0.327_591_1), L::splat(1.0)));
        let mut p = L::splat(1.061_405_4);
        for c in [-1.453_152, 1.421_413_7, -0.284_496_74, 0.254_829_6] {
            p = L::fma(p, t, L::splat(c));
        }
        let tail = L::mul(L::mul(p, t), exp::<L>(L::sub(zero, L::mul(z, z))));
        // x·Φ(x) = max(x, 0) − |x|/2 · erfc(|x|/√2)
        L::sub(L::max(zero, x), L::mul(L::mul(L::splat(0.5), size), tail))
    }
}

/// A pointwise function; `apply` must be `#[inline(always)]`, which a closure cannot be.
pub trait Pointwise: Copy {
    /// # Safety
    /// The processor has `L`.
    unsafe fn apply<L: Lanes>(self, x: L::V) -> L::V;
}

#[derive(Clone, Copy)]
pub struct Silu;
#[derive(Clone, Copy)]
pub struct Gelu;
/// x · scale + shift.
#[derive(Clone, Copy)]
pub struct Scale(pub f32, pub f32);
/// One after the other.
#[derive(Clone, Copy)]
pub struct Then<A, B>(pub A, pub B);

impl Pointwise for Silu {
    #[inline(always)]
    unsafe fn apply<L: Lanes>(self, x: L::V) -> L::V {
        // SAFETY: the caller's promise.
        unsafe { silu::<L>(x) }
    }
}

impl Pointwise for Gelu {
    #[inline(always)]
    unsafe fn apply<L: Lanes>(self, x: L::V) -> L::V {
        // SAFETY: the caller's promise.
        unsafe { gelu::<L>(x) }
    }
}

impl Pointwise for Scale {
    #[inline(always)]
    unsafe fn apply<L: Lanes>(self, x: L::V) -> L::V {
        // SAFETY: the caller's promise.
        unsafe { L::fma(x, L::splat(self.0), L::splat(self.1)) }
    }
}

impl<A: Pointwise, B: Pointwise> Pointwise for Then<A, B> {
    #[inline(always)]
    unsafe fn apply<L: Lanes>(self, x: L::V) -> L::V {
        // SAFETY: the caller's promise.
        unsafe { self.1.apply::<L>(self.0.apply::<L>(x)) }
    }
}

/// Applies a function in place.
pub struct Map<'a, F>(pub F, pub &'a mut [f32]);

impl<F: Pointwise> Kernel for Map<'_, F> {
    type Output = ();
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        // SAFETY: the caller's promise.
        unsafe { map::<L>(self.1, self.0) }
    }
}

/// Applies a function to each register's worth of values; the last ones pass through a padded register.
///
/// # Safety
/// The processor has `L`.
#[inline(always)]
pub unsafe fn map<L: Lanes>(values: &mut [f32], f: impl Pointwise) {
    let mut chunks = values.chunks_exact_mut(L::LANES);
    for chunk in &mut chunks {
        // SAFETY: a chunk is one register long.
        unsafe { L::store(chunk.as_mut_ptr(), f.apply::<L>(L::load(chunk.as_ptr()))) };
    }
    let rest = chunks.into_remainder();
    if !rest.is_empty() {
        let mut padded = [0.0; 16];
        padded[..rest.len()].copy_from_slice(rest);
        // SAFETY: 16 values are at least one register.
        unsafe { L::store(padded.as_mut_ptr(), f.apply::<L>(L::load(padded.as_ptr()))) };
        rest.copy_from_slice(&padded[..rest.len()]);
    }
}

#[cfg(test)]
#[cfg(target_arch = "x86_64")]
mod tests {
    use super::super::lanes::tests::run_each;
    use super::*;

    #[derive(Clone, Copy)]
    struct Exp;

    impl Pointwise for Exp {
        #[inline(always)]
        unsafe fn apply<L: Lanes>(self, x: L::V) -> L::V {
            // SAFETY: the caller's promise.
            unsafe { exp::<L>(x) }
        }
    }

    #[derive(Clone)]
    struct Mapped<F>(F, Vec<f32>);

    impl<F: Pointwise> Kernel for Mapped<F> {
        type Output = Vec<f32>;
        #[inline(always)]
        unsafe fn run<L: Lanes>(mut self) -> Vec<f32> {
            // SAFETY: the caller's promise.
            unsafe { Map(self.0, &mut self.1).run::<L>() };
            self.1
        }
    }

    /// The error function by its series, in f64.
    fn erf(x: f64) -> f64 {
        let mut term = x;
        let mut sum = x;
        for n in 1..200 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        sum * 2.0 / std::f64::consts::PI.sqrt()
    }

    fn check(function: impl Pointwise, exact: impl Fn(f64) -> f64, xs: &[f32], tolerance: f64) {
        for ys in run_each(&Mapped(function, xs.to_vec())) {
            for (x, y) in xs.iter().zip(ys) {
                let exact = exact(f64::from(*x));
                let scale = exact.abs().max(f64::from(x.abs()).min(1.0));
                assert!((f64::from(y) - exact).abs() <= tolerance * scale, "{x}: {y} {exact}");
            }
        }
    }

    #[test]
    fn functions_are_accurate_everywhere() {
        let xs: Vec<f32> = (-4001..4003).map(|i| i as f32 / 1000.0 * 1.01).collect();
        let far: Vec<f32> = vec![-1e9, -200.0, -90.0, -30.0, 30.0, 87.0];
        let silu = |x: f64| x / (1.0 + (-x).exp());
        check(Exp, f64::exp, &xs, 3e-7);
        check(Silu, silu, &xs, 3e-7);
        check(Silu, silu, &far, 3e-7);
        check(Gelu, |x| 0.5 * x * (1.0 + erf(x / 2f64.sqrt())), &xs, 4e-7);
        check(Then(Scale(2.0, -1.0), Silu), |x| silu(2.0 * x - 1.0), &xs, 1e-6);
    }

    #[test]
    fn nan_stays_nan() {
        let values = vec![f32::NAN, 1.0];
        let mut outputs = run_each(&Mapped(Silu, values.clone()));
        outputs.extend(run_each(&Mapped(Gelu, values.clone())));
        outputs.extend(run_each(&Mapped(Exp, values)));
        assert!(outputs.iter().all(|ys| ys[0].is_nan() && !ys[1].is_nan()));
    }
}
