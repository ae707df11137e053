//! Attention without a matrix of scores in memory.
//!
//! A task takes up to 48 queries of one head, one in each column of a block. Keys pass by in chunks: scores of a chunk
//! are blocks of packed keys times queries, the softmax keeps a running maximum and sum for each column, and the result
//! is packed values times weights. All of it stays in the cache.

use super::block::{Block, MR, NR, block};
use super::lanes::{Kernel, Lanes, run};
use super::math::exp;
use super::{Shared, uninit};
use rayon::prelude::*;

/// Keys of one chunk, a multiple of eight.
const CHUNK: usize = 256;

/// Tokens `[N, tokens, channels]` of which consecutive ones lie `stride` apart, and rows `tokens · stride`.
#[derive(Clone, Copy)]
pub struct Tokens<'a> {
    pub values: &'a [f32],
    pub tokens: usize,
    pub stride: usize,
}

impl<'a> Tokens<'a> {
    /// The values of one head of one token.
    fn head(&self, row: usize, token: usize, head: usize, dim: usize) -> &'a [f32] {
        &self.values[(row * self.tokens + token) * self.stride + head * dim..][..dim]
    }
}

/// Keys and values of one head: keys in groups of eight (`[group][dim][8]`), values in groups of eight dimensions
/// (`[group][token][8]`).
struct Head {
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl Head {
    fn pack(keys: Tokens, values: Tokens, row: usize, head: usize, dim: usize) -> Head {
        let count = keys.tokens;
        let mut packed =
            Head { keys: vec![0.0; count.div_ceil(MR) * MR * dim], values: vec![0.0; dim.div_ceil(MR) * MR * count] };
        for token in 0..count {
            let group = &mut packed.keys[token / MR * MR * dim..];
            for (i, x) in keys.head(row, token, head, dim).iter().enumerate() {
                group[i * MR + token % MR] = *x;
            }
            for (i, x) in values.head(row, token, head, dim).iter().enumerate() {
                packed.values[(i / MR * count + token) * MR + i % MR] = *x;
            }
        }
        packed
    }
}

/// softmax(q·kᵀ / √dim)·v for each of `heads` heads of `dim` channels: `[N, T, heads · dim]`.
pub fn attention(query: Tokens, keys: Tokens, values: Tokens, rows: usize, heads: usize, dim: usize) -> Vec<f32> {
    let packed: Vec<Head> =
        (0..rows * heads).into_par_iter().map(|i| Head::pack(keys, values, i / heads, i % heads, dim)).collect();
    let mut out = uninit(rows * query.tokens * heads * dim);
    let shared = Shared(out.as_mut_ptr());
    let tiles = query.tokens.div_ceil(NR);
    (0..rows * heads * tiles).into_par_iter().for_each(|i| {
        let (row, head, tile) = (i / tiles / heads, i / tiles % heads, i % tiles);
        let count = (query.tokens - tile * NR).min(NR);
        run(Task {
            query,
            packed: &packed[row * heads + head],
            keys: keys.tokens,
            row,
            head,
            heads,
            dim,
            tile,
            count,
            out: shared,
        });
    });
    out
}

/// Up to 48 queries of one head of one row.
struct Task<'a> {
    query: Tokens<'a>,
    packed: &'a Head,
    keys: usize,
    row: usize,
    head: usize,
    heads: usize,
    dim: usize,
    tile: usize,
    count: usize,
    out: Shared,
}

/// One value for each of the 48 columns.
#[repr(align(64))]
#[derive(Clone, Copy)]
struct Columns([f32; NR]);

impl Kernel for Task<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let dim = self.dim;
        let mut query = vec![0.0; dim * NR];
        let scale = 1.0 / (dim as f32).sqrt();
        for column in 0..self.count {
            let token = self.query.head(self.row, self.tile * NR + column, self.head, dim);
            token.iter().enumerate().for_each(|(k, x)| query[k * NR + column] = x * scale);
        }
        let mut weights = vec![0.0; CHUNK.min(self.keys.div_ceil(MR) * MR) * NR];
        let mut sums = vec![0.0; dim.div_ceil(MR) * MR * NR];
        let mut largest = Columns([f32::NEG_INFINITY; NR]);
        let mut total = Columns([0.0; NR]);
        for first in (0..self.keys).step_by(CHUNK) {
            let count = (self.keys - first).min(CHUNK);
            // SAFETY: the caller's promise; buffers are as large as the blocks.
            unsafe {
                self.score::<L>(&query, first, count, &mut weights);
                let factor = soften::<L>(&mut weights[..count * NR], &mut largest, &mut total);
                self.gather::<L>(&weights, first, count, &factor, &mut sums);
            }
        }
        for column in 0..self.count {
            let token = self.row * self.query.tokens + self.tile * NR + column;
            // SAFETY: this token of this head is written by no other task.
            let out = unsafe { self.out.slice((token * self.heads + self.head) * dim, dim) };
            let inverse = 1.0 / total.0[column];
            out.iter_mut().enumerate().for_each(|(k, out)| *out = sums[k * NR + column] * inverse);
        }
    }
}

/// Scores become weights exp(score − largest); gives the factor by which what was summed before must shrink.
///
/// # Safety
/// The processor has `L`.
#[inline(always)]
unsafe fn soften<L: Lanes>(scores: &mut [f32], largest: &mut Columns, total: &mut Columns) -> Columns {
    let mut factor = Columns([0.0; NR]);
    for j in (0..NR).step_by(L::LANES) {
        // SAFETY: 48 is a multiple of every register's width, and rows are 48 long.
        unsafe {
            let before = L::load(largest.0.as_ptr().add(j));
            let mut most = before;
            for row in scores.chunks_exact(NR) {
                most = L::max(most, L::load(row.as_ptr().add(j)));
            }
            let shrink = exp::<L>(L::sub(before, most));
            let mut sum = L::mul(L::load(total.0.as_ptr().add(j)), shrink);
            for row in scores.chunks_exact_mut(NR) {
                let at = row.as_mut_ptr().add(j);
                let weight = exp::<L>(L::sub(L::load(at), most));
                sum = L::add(sum, weight);
                L::store(at, weight);
            }
            L::store(largest.0.as_mut_ptr().add(j), most);
            L::store(total.0.as_mut_ptr().add(j), sum);
            L::store(factor.0.as_mut_ptr().add(j), shrink);
        }
    }
    factor
}

impl Task<'_> {
    /// Scores of `count` keys from `first`: a row of 48 for each.
    #[inline(always)]
    unsafe fn score<L: Lanes>(&self, query: &[f32], first: usize, count: usize, scores: &mut [f32]) {
        for group in (0..count).step_by(MR) {
            // SAFETY: keys are packed in eights, `scores` has room for whole groups.
            unsafe {
                let keys = self.packed.keys.as_ptr().add((first + group) * self.dim);
                let (query, out) = (query.as_ptr(), scores.as_mut_ptr().add(group * NR));
                block::<L>(self.dim, keys, |k| query.add(k * NR), (count - group).min(MR), self.count, out);
            }
        }
    }

    /// sums = sums · factor + values · weights.
    #[inline(always)]
    unsafe fn gather<L: Lanes>(&self, weights: &[f32], first: usize, count: usize, factor: &Columns, sums: &mut [f32]) {
        let mut result = Block::ZERO;
        for group in (0..self.dim).step_by(MR) {
            let rows = (self.dim - group).min(MR);
            // SAFETY: values are packed in eights, a group's sums are one block long.
            unsafe {
                let values = self.packed.values.as_ptr().add((group * self.keys) + first * MR);
                let weights = weights.as_ptr();
                block::<L>(count, values, |k| weights.add(k * NR), rows, self.count, result.0.as_mut_ptr());
                for i in 0..rows {
                    for j in (0..NR).step_by(L::LANES) {
                        let sum = sums.as_mut_ptr().add((group + i) * NR + j);
                        let old = L::mul(L::load(sum), L::load(factor.0.as_ptr().add(j)));
                        L::store(sum, L::add(old, L::load(result.0.as_ptr().add(i * NR + j))));
                    }
                }
            }
        }
    }
}
