//! Vector registers: AVX-512, AVX2 with FMA, and plain arrays that compile to whatever the target has.
//!
//! Kernels are written once over [`Lanes`]; [`run`] picks the widest that the processor has. Only `run` may choose,
//! because each implementation is valid only where its instructions exist.

use std::sync::OnceLock;

/// One vector register of f32 and what kernels do with it.
///
/// # Safety
/// Methods may only be called where the processor has the instructions, and pointers must be valid for `LANES` values.
pub unsafe trait Lanes: Copy {
    type V: Copy;
    const LANES: usize;
    /// Rows of a block that are computed together: as many as the register file holds with three vectors each.
    const ROWS: usize;
    unsafe fn splat(x: f32) -> Self::V;
    unsafe fn load(from: *const f32) -> Self::V;
    unsafe fn store(to: *mut f32, x: Self::V);
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V;
    /// The second operand where either is NaN.
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    /// The second operand where either is NaN.
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V;
    /// a·b + c.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    unsafe fn round(x: Self::V) -> Self::V;
    /// 2^x for whole x in −126..=127.
    unsafe fn exp2(x: Self::V) -> Self::V;
}

/// Work that is compiled once for each kind of register; `run` must be `#[inline(always)]`.
pub trait Kernel {
    type Output;
    /// # Safety
    /// The processor has the instructions of `L`.
    unsafe fn run<L: Lanes>(self) -> Self::Output;
}

/// Runs the kernel with the widest registers that this processor has.
pub fn run<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: each branch is taken only where `level` found its instructions.
    unsafe {
        match level() {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => x86::run_avx512(kernel),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => x86::run_avx2(kernel),
            Level::Portable => kernel.run::<Portable>(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Level {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    Portable,
}

fn level() -> Level {
    static LEVEL: OnceLock<Level> = OnceLock::new();
    *LEVEL.get_or_init(|| {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") {
                return Level::Avx512;
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                return Level::Avx2;
            }
        }
        Level::Portable
    })
}

/// Four values in an array: NEON's width, and SSE's.
#[derive(Clone, Copy)]
pub struct Portable;

macro_rules! each {
    ($($name:ident($($x:ident),+) = $body:expr;)+) => {$(
        #[inline(always)]
        unsafe fn $name($($x: [f32; 4]),+) -> [f32; 4] {
            std::array::from_fn(|i| { $(let $x = $x[i];)+ $body })
        }
    )+};
}

// SAFETY: plain Rust; pointers are the caller's promise.
unsafe impl Lanes for Portable {
    type V = [f32; 4];
    const LANES: usize = 4;
    const ROWS: usize = 8;
    #[inline(always)]
    unsafe fn splat(x: f32) -> [f32; 4] {
        [x; 4]
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> [f32; 4] {
        // SAFETY: valid for four values, as the trait demands.
        unsafe { from.cast::<[f32; 4]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, x: [f32; 4]) {
        // SAFETY: valid for four values, as the trait demands.
        unsafe { to.cast::<[f32; 4]>().write_unaligned(x) }
    }
    each! {
        add(a, b) = a + b;
        sub(a, b) = a - b;
        mul(a, b) = a * b;
        div(a, b) = a / b;
        max(a, b) = if a > b { a } else { b };
        min(a, b) = if a < b { a } else { b };
        fma(a, b, c) = a * b + c;
        round(x) = x.round_ties_even();
        exp2(x) = f32::from_bits(((x as i32 + 127) << 23) as u32);
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Kernel, Lanes};
    use std::arch::x86_64::*;

    /// # Safety
    /// The processor has AVX-512F.
    #[target_feature(enable = "avx512f,avx2,fma")]
    pub unsafe fn run_avx512<K: Kernel>(kernel: K) -> K::Output {
        // SAFETY: the caller's promise.
        unsafe { kernel.run::<Avx512>() }
    }

    /// # Safety
    /// The processor has AVX2 and FMA.
    #[target_feature(enable = "avx2,fma")]
    pub unsafe fn run_avx2<K: Kernel>(kernel: K) -> K::Output {
        // SAFETY: the caller's promise.
        unsafe { kernel.run::<Avx2>() }
    }

    macro_rules! lanes {
        ($name:ident, $v:ty, $lanes:expr, $rows:expr, $($method:ident($($x:ident: $t:ty),*) -> $r:ty = $body:expr;)+) => {
            #[derive(Clone, Copy)]
            pub struct $name;
            // SAFETY: intrinsics of the register's own instruction set; presence and pointers are the caller's promise.
            unsafe impl Lanes for $name {
                type V = $v;
                const LANES: usize = $lanes;
                const ROWS: usize = $rows;
                $(
                    #[inline(always)]
                    unsafe fn $method($($x: $t),*) -> $r {
                        // SAFETY: as the trait demands.
                        unsafe { $body }
                    }
                )+
            }
        };
    }

    lanes! { Avx512, __m512, 16, 8,
        splat(x: f32) -> __m512 = _mm512_set1_ps(x);
        load(from: *const f32) -> __m512 = _mm512_loadu_ps(from);
        store(to: *mut f32, x: __m512) -> () = _mm512_storeu_ps(to, x);
        add(a: __m512, b: __m512) -> __m512 = _mm512_add_ps(a, b);
        sub(a: __m512, b: __m512) -> __m512 = _mm512_sub_ps(a, b);
        mul(a: __m512, b: __m512) -> __m512 = _mm512_mul_ps(a, b);
        div(a: __m512, b: __m512) -> __m512 = _mm512_div_ps(a, b);
        max(a: __m512, b: __m512) -> __m512 = _mm512_max_ps(a, b);
        min(a: __m512, b: __m512) -> __m512 = _mm512_min_ps(a, b);
        fma(a: __m512, b: __m512, c: __m512) -> __m512 = _mm512_fmadd_ps(a, b, c);
        round(x: __m512) -> __m512 = _mm512_roundscale_ps::<8>(x);
        exp2(x: __m512) -> __m512 = {
            let exponent = _mm512_add_epi32(_mm512_cvtps_epi32(x), _mm512_set1_epi32(127));
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(exponent))
        };
    }

    lanes! { Avx2, __m256, 8, 4,
        splat(x: f32) -> __m256 = _mm256_set1_ps(x);
        load(from: *const f32) -> __m256 = _mm256_loadu_ps(from);
        store(to: *mut f32, x: __m256) -> () = _mm256_storeu_ps(to, x);
        add(a: __m256, b: __m256) -> __m256 = _mm256_add_ps(a, b);
        sub(a: __m256, b: __m256) -> __m256 = _mm256_sub_ps(a, b);
        mul(a: __m256, b: __m256) -> __m256 = _mm256_mul_ps(a, b);
        div(a: __m256, b: __m256) -> __m256 = _mm256_div_ps(a, b);
        max(a: __m256, b: __m256) -> __m256 = _mm256_max_ps(a, b);
        min(a: __m256, b: __m256) -> __m256 = _mm256_min_ps(a, b);
        fma(a: __m256, b: __m256, c: __m256) -> __m256 = _mm256_fmadd_ps(a, b, c);
        round(x: __m256) -> __m256 = _mm256_round_ps::<8>(x);
        exp2(x: __m256) -> __m256 = {
            let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(x), _mm256_set1_epi32(127));
            _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent))
        };
    }
}

#[cfg(test)]
#[cfg(target_arch = "x86_64")]
pub mod tests {
    use super::*;

    /// Runs a kernel with every kind of register that this processor has.
    pub fn run_each<K: Kernel + Clone>(kernel: &K) -> Vec<K::Output> {
        // SAFETY: guarded by the detection of each instruction set.
        unsafe {
            let mut outputs = vec![kernel.clone().run::<Portable>()];
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                outputs.push(x86::run_avx2(kernel.clone()));
            }
            if is_x86_feature_detected!("avx512f") {
                outputs.push(x86::run_avx512(kernel.clone()));
            }
            outputs
        }
    }
}
