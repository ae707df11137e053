//! Kernels on slices of f32 for the processor: one inner loop (`block`) under convolution, linear layers and attention.
//!
//! Knows nothing of tensors. Work is cut into tasks for rayon's threads; no result depends on the cut.

pub mod attention;
mod block;
pub mod conv;
mod lanes;
pub mod linear;
pub mod math;
pub mod norm;

pub use lanes::run;

/// A buffer that many tasks write, each its own part.
#[derive(Clone, Copy)]
struct Shared(*mut f32);

// SAFETY: tasks write disjoint parts, as `slice` demands.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    /// # Safety
    /// The range lies inside the buffer and no other task uses it.
    #[allow(clippy::mut_from_ref)]
    unsafe fn slice(&self, at: usize, len: usize) -> &mut [f32] {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(at), len) }
    }
}

/// A buffer that will be written in full: zeroing large ones costs as much as a pass over memory.
fn uninit(len: usize) -> Vec<f32> {
    let mut buffer: Vec<f32> = Vec::with_capacity(len);
    // SAFETY: the capacity is there, and every f32 bit pattern is a value; kernels write each place before it is read.
    #[allow(clippy::uninit_vec)]
    unsafe {
        buffer.set_len(len)
    };
    buffer
}
