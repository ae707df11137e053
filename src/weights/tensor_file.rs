//! One safetensors file, memory-mapped or embedded: its header checked once, its tensors read on demand and converted
//! in the same pass. Holds bytes; knows nothing of names of layers.

use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors, tensor::SafeTensorError};

use super::WeightsError;

/// Bytes of the length field that a safetensors file starts with.
const LENGTH_FIELD: usize = 8;

enum Bytes {
    Mapped(Mmap),
    Embedded(&'static [u8]),
}

impl Bytes {
    fn as_slice(&self) -> &[u8] {
        match self {
            Bytes::Mapped(map) => map,
            Bytes::Embedded(bytes) => bytes,
        }
    }
}

struct Entry {
    stored: Dtype,
    shape: Vec<usize>,
    range: Range<usize>,
}

/// A safetensors file whose header has been checked against its length.
pub(super) struct TensorFile {
    path: String,
    bytes: Bytes,
    entries: HashMap<String, Entry>,
}

impl TensorFile {
    /// Maps the file. Costs the header only; the data are paged in as tensors are read.
    pub fn map(path: &Path) -> Result<TensorFile, WeightsError> {
        let shown = path.display().to_string();
        let read = |source| WeightsError::Read { path: shown.clone(), source };
        let file = File::open(path).map_err(read)?;
        // SAFETY: the map is read-only and is only ever looked at as plain bytes. As with every mapped file, the
        // system ends the process if somebody truncates the file while it is being read.
        let map = unsafe { Mmap::map(&file) }.map_err(read)?;
        TensorFile::new(shown, Bytes::Mapped(map))
    }

    /// A file that is part of the binary.
    pub fn embedded(path: String, bytes: &'static [u8]) -> Result<TensorFile, WeightsError> {
        TensorFile::new(path, Bytes::Embedded(bytes))
    }

    fn new(path: String, bytes: Bytes) -> Result<TensorFile, WeightsError> {
        let (header, metadata) =
            SafeTensors::read_metadata(bytes.as_slice()).map_err(|e| unsound(&path, bytes.as_slice(), e))?;
        let start = LENGTH_FIELD + header;
        let entries = metadata.tensors().into_iter().map(|(name, info)| {
            let (from, to) = info.data_offsets;
            (name, Entry { stored: info.dtype, shape: info.shape.clone(), range: start + from..start + to })
        });
        let entries = entries.collect();
        Ok(TensorFile { path, bytes, entries })
    }

    pub fn path(&self) -> &str {
        &self.path
    }

    pub fn contains(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.entries.get(name).map(|e| e.shape.as_slice())
    }

    /// The tensor of this name in `dtype` on `device`.
    pub fn read(&self, name: &str, dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
        let Some(entry) = self.entries.get(name) else {
            return Err(WeightsError::MissingTensor { path: self.path.clone(), tensor: name.to_string() }.into());
        };
        let data = &self.bytes.as_slice()[entry.range.clone()];
        let shape = entry.shape.as_slice();
        let tensor = match (entry.stored, dtype, device) {
            (Dtype::F32, ..) => Tensor::from_slice(&typed::<f32>(data), shape, device)?,
            (Dtype::F16, DType::F32, Device::Cpu) => Tensor::from_vec(widened::<f16>(data), shape, device)?,
            (Dtype::BF16, DType::F32, Device::Cpu) => Tensor::from_vec(widened::<bf16>(data), shape, device)?,
            (Dtype::F16, ..) => Tensor::from_slice(&typed::<f16>(data), shape, device)?,
            (Dtype::BF16, ..) => Tensor::from_slice(&typed::<bf16>(data), shape, device)?,
            (stored, ..) => {
                let (path, tensor, stored) = (self.path.clone(), name.to_string(), format!("{stored:?}"));
                return Err(WeightsError::Dtype { path, tensor, stored }.into());
            }
        };
        self.release(entry);
        tensor.to_dtype(dtype)
    }

    /// Gives the pages of a tensor that has been copied back to the system, so that loading a model does not count
    /// twice against the machine's memory. They are read again if the tensor is.
    fn release(&self, entry: &Entry) {
        #[cfg(unix)]
        if let Bytes::Mapped(map) = &self.bytes {
            let (offset, len) = (entry.range.start, entry.range.len());
            // SAFETY: a read-only map of a file has no changes to lose: dropped pages come back with the same bytes.
            // Failure is harmless: the advice is only about memory use.
            let _ = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, offset, len) };
        }
        #[cfg(not(unix))]
        let _ = entry;
    }
}

/// Numbers that any pattern of bits is a valid value of.
trait Plain: Copy {
    const SIZE: usize = size_of::<Self>();
    fn from_le(bytes: &[u8]) -> Self;
}

impl Plain for f32 {
    fn from_le(b: &[u8]) -> f32 {
        f32::from_le_bytes([b[0], b[1], b[2], b[3]])
    }
}

impl Plain for f16 {
    fn from_le(b: &[u8]) -> f16 {
        f16::from_le_bytes([b[0], b[1]])
    }
}

impl Plain for bf16 {
    fn from_le(b: &[u8]) -> bf16 {
        bf16::from_le_bytes([b[0], b[1]])
    }
}

/// The bytes as numbers: in place where they are aligned, as written files are; copied where they are not.
fn typed<T: Plain>(data: &[u8]) -> std::borrow::Cow<'_, [T]> {
    if cfg!(target_endian = "little") {
        // SAFETY: `Plain` is implemented only for f32, f16 and bf16, of which every bit pattern is a value.
        let (before, numbers, after) = unsafe { data.align_to::<T>() };
        if before.is_empty() && after.is_empty() {
            return numbers.into();
        }
    }
    data.chunks_exact(T::SIZE).map(T::from_le).collect::<Vec<T>>().into()
}

fn widened<T: Plain>(data: &[u8]) -> Vec<f32>
where
    [T]: HalfFloatSliceExt,
{
    let numbers = typed::<T>(data);
    let mut wide = vec![0f32; numbers.len()];
    numbers.convert_to_f32_slice(&mut wide);
    wide
}

/// What is wrong with a file that safetensors does not accept: above all, whether it ends too early and in which tensor.
fn unsound(path: &str, bytes: &[u8], error: SafeTensorError) -> WeightsError {
    let path = path.to_string();
    if let SafeTensorError::MetadataIncompleteBuffer = error {
        if let Some((tensor, missing)) = first_cut_tensor(bytes) {
            return WeightsError::Truncated { path, tensor, missing };
        }
        let reason = "it holds more bytes than its header describes".to_string();
        return WeightsError::Damaged { path, reason };
    }
    let reason = match error {
        SafeTensorError::HeaderTooSmall => format!("it holds only {} bytes", bytes.len()),
        SafeTensorError::InvalidHeaderLength => "it ends inside its header (was its download cut short?)".to_string(),
        other => other.to_string(),
    };
    WeightsError::Damaged { path, reason }
}

/// The first tensor of the header whose data go beyond the end of the file, and how many bytes the file is short of.
fn first_cut_tensor(bytes: &[u8]) -> Option<(String, u64)> {
    let length = u64::from_le_bytes(bytes.get(..LENGTH_FIELD)?.try_into().ok()?);
    let end = usize::try_from(length).ok()?.checked_add(LENGTH_FIELD)?;
    let header: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(bytes.get(LENGTH_FIELD..end)?).ok()?;
    let held = (bytes.len() - end) as u64;
    let ends = |info: &serde_json::Value| info.get("data_offsets")?.get(1)?.as_u64();
    let mut ends: Vec<(u64, &String)> = header.iter().filter_map(|(name, info)| Some((ends(info)?, name))).collect();
    ends.sort();
    let total = ends.last()?.0;
    let (_, tensor) = ends.into_iter().find(|(end, _)| *end > held)?;
    Some((tensor.clone(), total - held))
}
