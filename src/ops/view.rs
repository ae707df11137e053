//! Tensors as slices for the kernels in `cpu/`.

use candle_core::{CpuStorage, DType, Layout, Result, Storage, Tensor, bail};
use std::ops::Deref;

/// Whether our kernels take this tensor.
pub(super) fn is_ours(x: &Tensor) -> bool {
    x.device().is_cpu() && x.dtype() == DType::F32
}

/// A tensor in f32 on the CPU whose values can be read in place.
pub(super) struct View<'a> {
    storage: Box<dyn Deref<Target = Storage> + 'a>,
    layout: &'a Layout,
}

impl<'a> View<'a> {
    pub fn new(x: &'a Tensor) -> Self {
        let (storage, layout) = x.storage_and_layout();
        View { storage: Box::new(storage), layout }
    }

    /// Values from the tensor's first on, whatever its strides.
    pub fn values(&self) -> Result<&[f32]> {
        match &**self.storage {
            Storage::Cpu(CpuStorage::F32(values)) => Ok(&values[self.layout.start_offset()..]),
            _ => bail!("not f32 on the CPU"),
        }
    }

    /// Exactly the tensor's values; it must be contiguous.
    pub fn slice(&self) -> Result<&[f32]> {
        if !self.layout.is_contiguous() {
            bail!("not contiguous");
        }
        Ok(&self.values()?[..self.layout.shape().elem_count()])
    }
}
