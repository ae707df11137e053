//! Convolution of planes `[N, C, H, W]` without gathering its input.
//!
//! A task copies its part of the input, normalised and activated, into a padded scratch that stays in the cache. There
//! the pixels that meet one weight form a shifted view: output pixel p of the flattened, padded part reads
//! `scratch[offset(k) + p]` for each k = (channel, row, column) of the kernel. So the rows of `b` of a matrix product
//! are just pointers, and what the padding columns yield is thrown away. Strides become views of interleaved planes.

use super::block::{Block, MR, NR, block, pack_rows};
use super::lanes::{Kernel, Lanes, run};
use super::math::{Scale, Silu, Then, map};
use super::norm::Affine;
use super::{Shared, uninit};
use crate::ops::ConvShape;
use rayon::prelude::*;
use std::cell::RefCell;

/// Values of scratch a task aims at: half of a usual second-level cache.
const SCRATCH: usize = 192 * 1024;

/// A weight as the kernel reads it.
#[derive(Debug)]
pub struct Packed {
    weight: Vec<f32>,
    bias: Vec<f32>,
    shape: ConvShape,
}

impl Packed {
    /// `weight` is `[Cout, Cin, k, k]`, `bias` `[Cout]`.
    pub fn new(weight: &[f32], bias: &[f32], shape: ConvShape) -> Self {
        let depth = shape.inputs * shape.kernel * shape.kernel;
        Packed { weight: pack_rows(weight, shape.outputs, depth), bias: bias.to_vec(), shape }
    }
}

/// What goes into one convolution.
pub struct Input<'a> {
    /// `[N, Cin, height, width]`.
    pub x: &'a [f32],
    pub height: usize,
    pub width: usize,
    /// `[N, Cin]`, applied first.
    pub affine: Option<&'a Affine>,
    /// Applied after it.
    pub silu: bool,
    /// Source row of each row and source column of each column, if the input is resampled.
    pub resample: Option<(Vec<usize>, Vec<usize>)>,
    /// `[N, Cout]`.
    pub row_bias: Option<&'a [f32]>,
    /// Of the output's shape.
    pub residual: Option<&'a [f32]>,
}

impl Input<'_> {
    /// Height and width after resampling.
    fn size(&self) -> (usize, usize) {
        self.resample.as_ref().map_or((self.height, self.width), |(rows, columns)| (rows.len(), columns.len()))
    }
}

/// One task: a rectangle of output pixels and a range of output channels of one row of the batch.
#[derive(Debug, Clone, Copy)]
struct Task {
    row: usize,
    y: (usize, usize),
    x: (usize, usize),
    outputs: (usize, usize),
}

/// Cuts the work so that scratch fits the cache and every thread has something to do. Results do not depend on it.
fn tasks(shape: &ConvShape, rows: usize, height: usize, width: usize) -> Vec<Task> {
    let halo = shape.kernel.saturating_sub(shape.stride);
    let columns_fit = |lines: usize| SCRATCH / (shape.inputs * shape.stride * (lines + halo)).max(1) / shape.stride;
    let tile_width = columns_fit(4).clamp(NR - halo, width.max(NR - halo)).min(width);
    let lines_fit = columns_fit(1) * (1 + halo) / (tile_width + halo);
    let wanted = 3 * rayon::current_num_threads();
    let across = width.div_ceil(tile_width);
    let for_threads = (height * rows * across).div_ceil(wanted).max(8);
    let tile_height = lines_fit.saturating_sub(halo).clamp(1, height).min(for_threads);
    let areas = rows * across * height.div_ceil(tile_height);
    let groups = shape.outputs.div_ceil(MR);
    let splits = if areas >= wanted { 1 } else { wanted.div_ceil(areas).min(groups.div_ceil(4)) };
    let group_step = groups.div_ceil(splits);
    let mut tasks = Vec::new();
    for row in 0..rows {
        for y in (0..height).step_by(tile_height) {
            for x in (0..width).step_by(tile_width) {
                for first in (0..groups).step_by(group_step) {
                    let outputs = (first * MR, ((first + group_step) * MR).min(shape.outputs));
                    let (y, x) = ((y, (y + tile_height).min(height)), (x, (x + tile_width).min(width)));
                    tasks.push(Task { row, y, x, outputs });
                }
            }
        }
    }
    tasks
}

thread_local! {
    static PADDED: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// `[N, Cout, H', W']`.
pub fn conv2d(packed: &Packed, input: &Input) -> Vec<f32> {
    let shape = &packed.shape;
    let rows = input.x.len() / (shape.inputs * input.height * input.width);
    let size = input.size();
    let (height, width) = (shape.output_len(size.0), shape.output_len(size.1));
    let mut out = uninit(rows * shape.outputs * height * width);
    let target = Shared(out.as_mut_ptr());
    tasks(shape, rows, height, width).into_par_iter().for_each(|task| {
        PADDED.with_borrow_mut(|scratch| run(Convolve { packed, input, task, scratch, out: target, height, width }));
    });
    out
}

/// One task's work.
struct Convolve<'a> {
    packed: &'a Packed,
    input: &'a Input<'a>,
    task: Task,
    scratch: &'a mut Vec<f32>,
    out: Shared,
    height: usize,
    width: usize,
}

/// Layout of the scratch: for each channel, stride² interleaved planes of `lines` × `columns`.
struct Scratch {
    stride: usize,
    lines: usize,
    columns: usize,
}

impl Scratch {
    fn new(shape: &ConvShape, task: &Task) -> Self {
        let lines = (task.y.1 - task.y.0 - 1) + shape.kernel.div_ceil(shape.stride);
        let columns = (task.x.1 - task.x.0 - 1) + shape.kernel.div_ceil(shape.stride);
        Scratch { stride: shape.stride, lines, columns }
    }

    fn plane(&self) -> usize {
        self.lines * self.columns
    }

    /// Values, with room for a block to read past the end.
    fn len(&self, channels: usize) -> usize {
        channels * self.stride * self.stride * self.plane() + 2 * NR
    }

    /// Where the input that meets each weight begins.
    fn offsets(&self, shape: &ConvShape) -> Vec<usize> {
        let s = self.stride;
        let mut offsets = Vec::with_capacity(shape.inputs * shape.kernel * shape.kernel);
        for channel in 0..shape.inputs {
            for y in 0..shape.kernel {
                for x in 0..shape.kernel {
                    let plane = channel * s * s + y % s * s + x % s;
                    offsets.push(plane * self.plane() + y / s * self.columns + x / s);
                }
            }
        }
        offsets
    }
}

impl Kernel for Convolve<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(mut self) {
        let layout = Scratch::new(&self.packed.shape, &self.task);
        let len = layout.len(self.packed.shape.inputs);
        if self.scratch.len() < len {
            self.scratch.resize(len, 0.0);
        }
        // SAFETY: the caller's promise.
        unsafe {
            self.fill::<L>(&layout);
            self.multiply::<L>(&layout);
        }
    }
}

impl Convolve<'_> {
    /// Copies the task's part of the input into the scratch, padded, normalised and activated.
    #[inline(always)]
    unsafe fn fill<L: Lanes>(&mut self, layout: &Scratch) {
        let shape = &self.packed.shape;
        let (input, task, s) = (self.input, self.task, layout.stride);
        let (height, width) = input.size();
        let mut to = 0;
        for channel in 0..shape.inputs {
            let plane = (task.row * shape.inputs + channel) * input.height * input.width;
            let plane = &input.x[plane..plane + input.height * input.width];
            let affine = input.affine.map(|a| {
                let at = task.row * shape.inputs + channel;
                (a.scale[at], a.shift[at])
            });
            for (phase_y, phase_x) in (0..s * s).map(|i| (i / s, i % s)) {
                for line in 0..layout.lines {
                    let out = &mut self.scratch[to..to + layout.columns];
                    to += layout.columns;
                    let y = ((task.y.0 + line) * s + phase_y).checked_sub(shape.pad_before).filter(|y| *y < height);
                    let Some(y) = y else {
                        out.fill(0.0);
                        continue;
                    };
                    // Columns of the scratch line that lie inside the picture.
                    let first = task.x.0 * s + phase_x;
                    let begin = shape.pad_before.saturating_sub(first).div_ceil(s).min(out.len());
                    let end = (width + shape.pad_before).saturating_sub(first).div_ceil(s).clamp(begin, out.len());
                    out[..begin].fill(0.0);
                    out[end..].fill(0.0);
                    let inside = &mut out[begin..end];
                    if inside.is_empty() {
                        continue;
                    }
                    let x = first + begin * s - shape.pad_before;
                    match &input.resample {
                        Some((rows, columns)) => {
                            let line = &plane[rows[y] * input.width..][..input.width];
                            let sources = columns[x..].iter().step_by(s);
                            inside.iter_mut().zip(sources).for_each(|(out, from)| *out = line[*from]);
                        }
                        None if s == 1 => inside.copy_from_slice(&plane[y * width + x..][..inside.len()]),
                        None => {
                            let sources = plane[y * width + x..].iter().step_by(s);
                            inside.iter_mut().zip(sources).for_each(|(out, from)| *out = *from);
                        }
                    }
                    // SAFETY: the caller's promise.
                    unsafe { activate::<L>(inside, affine, input.silu) };
                }
            }
        }
    }

    /// All blocks of the task.
    #[inline(always)]
    unsafe fn multiply<L: Lanes>(&self, layout: &Scratch) {
        let shape = &self.packed.shape;
        let offsets = layout.offsets(shape);
        let depth = offsets.len();
        let (task, scratch) = (self.task, self.scratch.as_ptr());
        let pixels = (task.y.1 - task.y.0 - 1) * layout.columns + task.x.1 - task.x.0;
        let mut result = Block::ZERO;
        for group in (task.outputs.0..task.outputs.1).step_by(MR) {
            let rows = (task.outputs.1 - group).min(MR);
            let weight = self.packed.weight[group * depth..].as_ptr();
            for first in (0..pixels).step_by(NR) {
                let columns = (pixels - first).min(NR);
                // SAFETY: scratch has room for a whole block behind the last pixel; weights are packed in eights.
                unsafe {
                    let b = |k: usize| scratch.add(*offsets.get_unchecked(k) + first);
                    block::<L>(depth, weight, b, rows, columns, result.0.as_mut_ptr());
                    self.write(layout, &result, group, rows, first, columns);
                }
            }
        }
    }

    /// Adds biases and residual to a block and puts the pixels that are none of the padding where they belong.
    ///
    /// # Safety
    /// No other task writes these channels and pixels.
    #[inline(always)]
    unsafe fn write(&self, layout: &Scratch, block: &Block, group: usize, rows: usize, first: usize, columns: usize) {
        let (task, outputs) = (self.task, self.packed.shape.outputs);
        let tile_width = task.x.1 - task.x.0;
        let mut at = first;
        while at < first + columns {
            let (line, column) = (at / layout.columns, at % layout.columns);
            let run = tile_width.saturating_sub(column).min(first + columns - at);
            if run > 0 {
                for i in 0..rows {
                    let channel = task.row * outputs + group + i;
                    let mut bias = self.packed.bias[group + i];
                    if let Some(row_bias) = self.input.row_bias {
                        bias += row_bias[channel];
                    }
                    let to = (channel * self.height + task.y.0 + line) * self.width + task.x.0 + column;
                    let from = &block.row(i)[at - first..][..run];
                    // SAFETY: inside the output, and of this task alone.
                    let out = unsafe { self.out.slice(to, run) };
                    match self.input.residual {
                        Some(residual) => {
                            for ((out, x), r) in out.iter_mut().zip(from).zip(&residual[to..to + run]) {
                                *out = x + bias + r;
                            }
                        }
                        None => out.iter_mut().zip(from).for_each(|(out, x)| *out = x + bias),
                    }
                }
            }
            at += layout.columns - column;
        }
    }
}

/// Norm and activation of a line in place.
///
/// # Safety
/// The processor has `L`.
#[inline(always)]
unsafe fn activate<L: Lanes>(line: &mut [f32], affine: Option<(f32, f32)>, with_silu: bool) {
    // SAFETY: the caller's promise.
    unsafe {
        match (affine, with_silu) {
            (None, false) => {}
            (None, true) => map::<L>(line, Silu),
            (Some((scale, shift)), false) => map::<L>(line, Scale(scale, shift)),
            (Some((scale, shift)), true) => map::<L>(line, Then(Scale(scale, shift), Silu)),
        }
    }
}
