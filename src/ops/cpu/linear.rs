//! Linear layers: tokens `[N, T, C]` times weights, from tokens or planes, to tokens or planes.

use super::block::{Block, MR, NR, block, pack_panels};
use super::lanes::{Kernel, Lanes, run};
use super::math::gelu;
use super::norm::{Affine, Moments};
use super::{Shared, uninit};
use rayon::prelude::*;
use std::cell::RefCell;

/// Tokens of one task; their values stay in the cache while the weights pass by.
const TOKENS: usize = 64;

/// A weight as the kernel reads it.
#[derive(Debug)]
pub struct Packed {
    weight: Vec<f32>,
    bias: Vec<f32>,
    pub inputs: usize,
    pub outputs: usize,
}

impl Packed {
    /// `weight` is `[outputs, inputs]`, `bias` `[outputs]`.
    pub fn new(weight: &[f32], bias: Option<&[f32]>, inputs: usize, outputs: usize) -> Self {
        let mut padded = vec![0.0; outputs.div_ceil(NR) * NR];
        if let Some(bias) = bias {
            padded[..outputs].copy_from_slice(bias);
        }
        Packed { weight: pack_panels(weight, outputs, inputs), bias: padded, inputs, outputs }
    }

    fn panels(&self) -> usize {
        self.outputs.div_ceil(NR)
    }

    fn panel(&self, panel: usize) -> &[f32] {
        &self.weight[panel * NR * self.inputs..][..NR * self.inputs]
    }
}

/// Where the tokens come from.
#[derive(Clone, Copy)]
pub enum Source<'a> {
    /// `[N, T, C]`.
    Tokens(&'a [f32]),
    /// `[N, T, C]`, layer-normalised with weight, bias and epsilon.
    Normed(&'a [f32], &'a [f32], &'a [f32], f64),
    /// `[N, C, T]` with scale and shift.
    Planes(&'a [f32], &'a Affine),
}

/// What becomes of the products.
#[derive(Clone, Copy)]
pub enum Target<'a> {
    /// `[N, T, outputs]`, with a residual of that shape.
    Tokens(Option<&'a [f32]>),
    /// `[N, outputs, T]` plus a residual of that shape.
    Planes(&'a [f32]),
    /// `[N, T, outputs]`: the products times GELU of the products with these weights.
    Gated(&'a Packed),
}

thread_local! {
    static PACKED: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// The layer on `rows` rows of `tokens` tokens.
pub fn linear(packed: &Packed, source: Source, target: Target, rows: usize, tokens: usize) -> Vec<f32> {
    let mut out = uninit(rows * tokens * packed.outputs);
    let shared = Shared(out.as_mut_ptr());
    let chunks = tokens.div_ceil(TOKENS);
    let wanted = 2 * rayon::current_num_threads();
    let splits = wanted.div_ceil((rows * chunks).max(1)).clamp(1, packed.panels().max(1));
    let step = packed.panels().div_ceil(splits).max(1);
    (0..rows * chunks * splits).into_par_iter().for_each(|i| {
        let (row, chunk, split) = (i / splits / chunks, i / splits % chunks, i % splits);
        let panels = (split * step, ((split + 1) * step).min(packed.panels()));
        let span = (chunk * TOKENS, ((chunk + 1) * TOKENS).min(tokens));
        if panels.0 < panels.1 {
            PACKED.with_borrow_mut(|scratch| {
                run(Task { packed, source, target, row, tokens, span, panels, scratch, out: shared })
            });
        }
    });
    out
}

/// Some tokens of one row times some panels of the weight.
struct Task<'a> {
    packed: &'a Packed,
    source: Source<'a>,
    target: Target<'a>,
    row: usize,
    tokens: usize,
    span: (usize, usize),
    panels: (usize, usize),
    scratch: &'a mut Vec<f32>,
    out: Shared,
}

impl Kernel for Task<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(mut self) {
        let depth = self.packed.inputs;
        let groups = (self.span.1 - self.span.0).div_ceil(MR);
        let len = groups * MR * depth;
        if self.scratch.len() < len {
            self.scratch.resize(len, 0.0);
        }
        // SAFETY: the caller's promise; the scratch holds all groups, panels are packed in full.
        unsafe {
            for group in 0..groups {
                self.pack::<L>(group);
            }
            let (mut result, mut gate) = (Block::ZERO, Block::ZERO);
            for panel in self.panels.0..self.panels.1 {
                let columns = (self.packed.outputs - panel * NR).min(NR);
                for group in 0..groups {
                    let first = self.span.0 + group * MR;
                    let rows = (self.span.1 - first).min(MR);
                    let a = self.scratch.as_ptr().add(group * MR * depth);
                    let weight = self.packed.panel(panel).as_ptr();
                    block::<L>(depth, a, |k| weight.add(k * NR), rows, columns, result.0.as_mut_ptr());
                    if let Target::Gated(gates) = self.target {
                        let weight = gates.panel(panel).as_ptr();
                        block::<L>(depth, a, |k| weight.add(k * NR), rows, columns, gate.0.as_mut_ptr());
                        combine::<L>(&mut result, &mut gate, self.packed, gates, panel, rows);
                    }
                    self.write(&result, panel, columns, first, rows);
                }
            }
        }
    }
}

/// (products + bias) · GELU(gates + bias), in place of the products; their biases are then in.
///
/// # Safety
/// The processor has `L`.
#[inline(always)]
unsafe fn combine<L: Lanes>(
    result: &mut Block,
    gate: &mut Block,
    packed: &Packed,
    gates: &Packed,
    panel: usize,
    rows: usize,
) {
    let bias = &packed.bias[panel * NR..(panel + 1) * NR];
    let gate_bias = &gates.bias[panel * NR..(panel + 1) * NR];
    for row in 0..rows {
        for j in (0..NR).step_by(L::LANES) {
            // SAFETY: 48 is a multiple of every register's width.
            unsafe {
                let at = row * NR + j;
                let x = L::add(L::load(result.0.as_ptr().add(at)), L::load(bias.as_ptr().add(j)));
                let g = L::add(L::load(gate.0.as_ptr().add(at)), L::load(gate_bias.as_ptr().add(j)));
                L::store(result.0.as_mut_ptr().add(at), L::mul(x, gelu::<L>(g)));
            }
        }
    }
}

impl Task<'_> {
    /// Brings eight tokens into the order in which a block reads them.
    #[inline(always)]
    unsafe fn pack<L: Lanes>(&mut self, group: usize) {
        let depth = self.packed.inputs;
        let first = self.span.0 + group * MR;
        let count = (self.span.1 - first).min(MR);
        let out = &mut self.scratch[group * MR * depth..][..MR * depth];
        if count < MR {
            out.fill(0.0);
        }
        match self.source {
            Source::Planes(x, affine) => {
                let channels = self.row * depth;
                for (k, out) in out.chunks_exact_mut(MR).enumerate() {
                    let (scale, shift) = (affine.scale[channels + k], affine.shift[channels + k]);
                    let line = &x[(channels + k) * self.tokens + first..][..count];
                    out.iter_mut().zip(line).for_each(|(out, x)| *out = x * scale + shift);
                }
            }
            Source::Tokens(x) => {
                for i in 0..count {
                    let token = &x[(self.row * self.tokens + first + i) * depth..][..depth];
                    token.iter().enumerate().for_each(|(k, x)| out[k * MR + i] = *x);
                }
            }
            Source::Normed(x, weight, bias, eps) => {
                for i in 0..count {
                    let token = &x[(self.row * self.tokens + first + i) * depth..][..depth];
                    // SAFETY: the caller's promise.
                    let (mean, variance) = unsafe { Moments(token).run::<L>() };
                    let (mean, factor) = (mean as f32, (1.0 / (variance + eps).sqrt()) as f32);
                    for (k, ((x, weight), bias)) in token.iter().zip(weight).zip(bias).enumerate() {
                        out[k * MR + i] = (x - mean) * factor * weight + bias;
                    }
                }
            }
        }
    }

    /// Puts a block where it belongs.
    ///
    /// # Safety
    /// No other task writes these tokens and outputs.
    #[inline(always)]
    unsafe fn write(&self, block: &Block, panel: usize, columns: usize, first: usize, rows: usize) {
        let outputs = self.packed.outputs;
        let bias = &self.packed.bias[panel * NR..][..columns];
        match self.target {
            Target::Planes(residual) => {
                for (j, bias) in bias.iter().enumerate() {
                    let to = (self.row * outputs + panel * NR + j) * self.tokens + first;
                    // SAFETY: inside the output, and of this task alone.
                    let out = unsafe { self.out.slice(to, rows) };
                    for (i, (out, r)) in out.iter_mut().zip(&residual[to..to + rows]).enumerate() {
                        *out = block.0[i * NR + j] + bias + r;
                    }
                }
            }
            Target::Tokens(residual) => {
                for i in 0..rows {
                    let to = (self.row * self.tokens + first + i) * outputs + panel * NR;
                    // SAFETY: inside the output, and of this task alone.
                    let out = unsafe { self.out.slice(to, columns) };
                    let products = block.row(i).iter().zip(bias);
                    match residual {
                        Some(residual) => {
                            for ((out, (x, bias)), r) in out.iter_mut().zip(products).zip(&residual[to..to + columns]) {
                                *out = x + bias + r;
                            }
                        }
                        None => out.iter_mut().zip(products).for_each(|(out, (x, bias))| *out = x + bias),
                    }
                }
            }
            Target::Gated(_) => {
                for i in 0..rows {
                    let to = (self.row * self.tokens + first + i) * outputs + panel * NR;
                    // SAFETY: inside the output, and of this task alone.
                    unsafe { self.out.slice(to, columns) }.copy_from_slice(&block.row(i)[..columns]);
                }
            }
        }
    }
}
