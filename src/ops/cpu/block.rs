//! The one inner loop: an 8×48 block of a matrix product.
//!
//! Convolutions, linear layers and attention are all sums over k of a column of eight `a` values times a row of up to
//! 48 `b` values. `a` is packed (`a[8·k + i]`); each row of `b` may lie anywhere, which makes a convolution a matrix
//! product without gathering its input. Every value is one chain of multiply-adds over k in order, so it does not
//! depend on how the work is cut into blocks.

use super::lanes::Lanes;

/// Rows of a block.
pub const MR: usize = 8;
/// Columns of a block.
pub const NR: usize = 48;

/// A block's values, row by row.
#[repr(align(64))]
pub struct Block(pub [f32; MR * NR]);

impl Block {
    pub const ZERO: Block = Block([0.0; MR * NR]);

    pub fn row(&self, i: usize) -> &[f32] {
        &self.0[i * NR..(i + 1) * NR]
    }
}

/// out[i·48 + j] = Σ_k a[8·k + i] · b(k)[j] for the first `rows` of 8 and `columns` of 48; others are left undefined.
///
/// # Safety
/// The processor has `L`; `a` holds 8·`depth` values; `b(k)` can be read for `columns` rounded up to a full register;
/// `out` can be written for 8·48 values.
#[inline(always)]
pub unsafe fn block<L: Lanes>(
    depth: usize,
    a: *const f32,
    b: impl Fn(usize) -> *const f32 + Copy,
    rows: usize,
    columns: usize,
    out: *mut f32,
) {
    let vectors = columns.div_ceil(L::LANES);
    let mut first = 0;
    while first < vectors {
        let left = (vectors - first).min(3);
        let at = first * L::LANES;
        let mut row = 0;
        while row < rows {
            // SAFETY: rows < 8 and columns < 48 stay inside what the caller promised.
            unsafe {
                let (a, out) = (a.add(row), out.add(row * NR + at));
                let b = |k: usize| b(k).add(at);
                if rows - row <= 4 || L::ROWS == 4 {
                    match left {
                        1 => part::<L, 4, 1>(depth, a, b, out),
                        2 => part::<L, 4, 2>(depth, a, b, out),
                        _ => part::<L, 4, 3>(depth, a, b, out),
                    }
                    row += 4;
                } else {
                    match left {
                        1 => part::<L, 8, 1>(depth, a, b, out),
                        2 => part::<L, 8, 2>(depth, a, b, out),
                        _ => part::<L, 8, 3>(depth, a, b, out),
                    }
                    row += 8;
                }
            }
        }
        first += left;
    }
}

/// R rows by V registers of a block.
///
/// # Safety
/// As [`block`].
#[inline(always)]
unsafe fn part<L: Lanes, const R: usize, const V: usize>(
    depth: usize,
    a: *const f32,
    b: impl Fn(usize) -> *const f32,
    out: *mut f32,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut sums = [[L::splat(0.0); V]; R];
        for k in 0..depth {
            let b = b(k);
            let mut row = [L::splat(0.0); V];
            for (v, value) in row.iter_mut().enumerate() {
                *value = L::load(b.add(v * L::LANES));
            }
            for (i, sums) in sums.iter_mut().enumerate() {
                let a = L::splat(*a.add(MR * k + i));
                for (sum, value) in sums.iter_mut().zip(row) {
                    *sum = L::fma(a, value, *sum);
                }
            }
        }
        for (i, sums) in sums.iter().enumerate() {
            for (v, sum) in sums.iter().enumerate() {
                L::store(out.add(i * NR + v * L::LANES), *sum);
            }
        }
    }
}

/// Rows of a `[rows, depth]` matrix in groups of eight, as [`block`] reads `a`; missing rows of the last are zero.
pub fn pack_rows(matrix: &[f32], rows: usize, depth: usize) -> Vec<f32> {
    let mut packed = vec![0.0; rows.div_ceil(MR) * MR * depth];
    for (r, row) in matrix.chunks_exact(depth.max(1)).take(rows).enumerate() {
        let group = &mut packed[r / MR * MR * depth..];
        for (k, value) in row.iter().enumerate() {
            group[k * MR + r % MR] = *value;
        }
    }
    packed
}

/// The transpose of a `[rows, depth]` matrix in panels of 48 rows: panel p holds, for each k, its 48 values.
pub fn pack_panels(matrix: &[f32], rows: usize, depth: usize) -> Vec<f32> {
    let mut packed = vec![0.0; rows.div_ceil(NR) * NR * depth];
    for (r, row) in matrix.chunks_exact(depth.max(1)).take(rows).enumerate() {
        let panel = &mut packed[r / NR * NR * depth..];
        for (k, value) in row.iter().enumerate() {
            panel[k * NR + r % NR] = *value;
        }
    }
    packed
}

#[cfg(test)]
#[cfg(target_arch = "x86_64")]
mod tests {
    use super::super::lanes::{Kernel, Lanes, tests::run_each};
    use super::*;

    #[derive(Clone)]
    struct Product<'a> {
        a: &'a [f32],
        b: &'a [f32],
        depth: usize,
        rows: usize,
        columns: usize,
    }

    impl Kernel for Product<'_> {
        type Output = Vec<f32>;
        #[inline(always)]
        unsafe fn run<L: Lanes>(self) -> Vec<f32> {
            let mut out = Block::ZERO;
            let b = self.b.as_ptr();
            // SAFETY: `a` and `b` are packed to full blocks.
            unsafe {
                let b = |k: usize| b.add(k * NR);
                block::<L>(self.depth, self.a.as_ptr(), b, self.rows, self.columns, out.0.as_mut_ptr());
            }
            out.0.to_vec()
        }
    }

    #[test]
    fn a_block_is_the_product_at_every_size() {
        let depth = 7;
        let value = |i: usize| ((i * 37 % 101) as f32 - 50.0) / 16.0;
        let a: Vec<f32> = (0..MR * depth).map(value).collect();
        let b: Vec<f32> = (0..NR * depth).map(|i| value(i + 5)).collect();
        for (rows, columns) in [(8, 48), (8, 1), (3, 17), (4, 33), (1, 48), (5, 9)] {
            let kernel = Product { a: &a, b: &b, depth, rows, columns };
            for out in run_each(&kernel) {
                for i in 0..rows {
                    for j in 0..columns {
                        let exact: f32 = (0..depth).map(|k| a[k * MR + i] * b[k * NR + j]).sum();
                        assert!((out[i * NR + j] - exact).abs() < 1e-4, "{rows}x{columns} at {i},{j}");
                    }
                }
            }
        }
    }
}
