//! Group norm over `[N, C, H, W]`, its statistics shared between tiles where asked for, and layer norm over the last
//! dimension.

use super::cpu::norm::{Affine, group_moments};
use super::view::{View, is_ours};
use candle_core::{D, DType, Result, Tensor, bail};
use candle_nn::VarBuilder;
use std::cell::{Cell, RefCell};

/// torch's `GroupNorm` with affine parameters.
#[derive(Debug, Clone)]
pub struct GroupNorm {
    weight: Tensor,
    bias: Tensor,
    groups: usize,
    eps: f64,
}

impl GroupNorm {
    /// Reads `weight` and `bias`, both `[channels]`.
    ///
    /// # Errors
    /// A tensor is missing or has another shape, or `groups` does not divide `channels`.
    pub fn load(vb: VarBuilder, groups: usize, channels: usize, eps: f64) -> Result<Self> {
        if groups == 0 || !channels.is_multiple_of(groups) {
            bail!("{}: {groups} groups do not divide {channels} channels", vb.prefix());
        }
        Ok(GroupNorm { weight: vb.get(channels, "weight")?, bias: vb.get(channels, "bias")?, groups, eps })
    }

    /// The norm of `x` `[N, C, H, W]`, contiguous in f32 on the CPU, as scale and shift for each channel.
    pub(super) fn affine(&self, x: &Tensor, tape: Option<&Tape>) -> Result<Affine> {
        let (_, c, _, _) = x.dims4()?;
        if self.weight.dims() != [c] {
            bail!("a norm of {:?} channels on a picture of {:?}", self.weight.dims(), x.dims());
        }
        let moments = Tape::moments(tape, || self.moments(x))?;
        let (weight, bias) = (View::new(&self.weight), View::new(&self.bias));
        Ok(Affine::new(&moments, self.groups, weight.slice()?, bias.slice()?, self.eps))
    }

    /// Mean and variance of each group of each row.
    fn moments(&self, x: &Tensor) -> Result<Vec<(f64, f64)>> {
        let (n, c, h, w) = x.dims4()?;
        if is_ours(x) {
            let x = x.contiguous()?;
            return Ok(group_moments(View::new(&x).slice()?, h * w, c, self.groups));
        }
        let x = x.to_dtype(DType::F32)?.reshape((n * self.groups, c / self.groups * h * w))?;
        let mean = x.mean_keepdim(1)?;
        let variance = x.broadcast_sub(&mean)?.sqr()?.mean_keepdim(1)?;
        let pairs = Tensor::cat(&[mean, variance], 1)?.to_vec2::<f32>()?;
        Ok(pairs.into_iter().map(|pair| (f64::from(pair[0]), f64::from(pair[1]))).collect())
    }

    /// `[N, C, H, W]` to the same shape.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (n, c, h, w) = x.dims4()?;
        let x = x.reshape((n, self.groups, c / self.groups * h * w))?;
        let x = x.broadcast_sub(&x.mean_keepdim(2)?)?;
        let variance = x.sqr()?.mean_keepdim(2)?;
        let x = x.broadcast_div(&(variance + self.eps)?.sqrt()?)?.reshape((n, c, h, w))?;
        x.broadcast_mul(&self.weight.reshape((1, c, 1, 1))?)?.broadcast_add(&self.bias.reshape((1, c, 1, 1))?)
    }

    /// The same with the moments of a tape.
    pub(super) fn forward_with(&self, x: &Tensor, tape: Option<&Tape>) -> Result<Tensor> {
        let Some(tape) = tape else { return self.forward(x) };
        let (n, c, _, _) = x.dims4()?;
        let moments = Tape::moments(Some(tape), || self.moments(x))?;
        let parameter = |t: &Tensor| t.to_dtype(DType::F32)?.to_vec1::<f32>();
        let affine = Affine::new(&moments, self.groups, &parameter(&self.weight)?, &parameter(&self.bias)?, self.eps);
        let tensor = |v: Vec<f32>| Tensor::from_vec(v, (n, c, 1, 1), x.device())?.to_dtype(x.dtype());
        x.broadcast_mul(&tensor(affine.scale)?)?.broadcast_add(&tensor(affine.shift)?)
    }
}

/// torch's `LayerNorm` over the last dimension with affine parameters.
#[derive(Debug, Clone)]
pub struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

impl LayerNorm {
    /// Reads `weight` and `bias`, both `[channels]`.
    pub fn load(vb: VarBuilder, channels: usize, eps: f64) -> Result<Self> {
        Ok(LayerNorm { weight: vb.get(channels, "weight")?, bias: vb.get(channels, "bias")?, eps })
    }

    /// Weight, bias and epsilon.
    pub(super) fn parameters(&self) -> (&Tensor, &Tensor, f64) {
        (&self.weight, &self.bias, self.eps)
    }

    /// `[.., C]` to the same shape.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let variance = x.sqr()?.mean_keepdim(D::Minus1)?;
        let x = x.broadcast_div(&(variance + self.eps)?.sqrt()?)?;
        x.broadcast_mul(&self.weight)?.broadcast_add(&self.bias)
    }
}

/// Mean and variance of each group of one norm.
type Groups = Vec<(f64, f64)>;

/// The moments of every group norm that a picture meets, in order: noted from one picture, then used for others.
///
/// Tiles that are each normalised by their own moments differ in brightness and contrast where they meet.
#[derive(Debug, Default)]
pub struct Tape {
    norms: RefCell<Vec<Groups>>,
    /// Which norm is next; none while recording.
    at: Option<Cell<usize>>,
}

impl Tape {
    /// An empty tape that notes the moments of what it accompanies.
    pub fn recording() -> Self {
        Tape::default()
    }

    /// The tape from its beginning, to be used instead of a picture's own moments.
    pub fn replaying(self) -> Self {
        Tape { norms: self.norms, at: Some(Cell::new(0)) }
    }

    /// A norm's own moments, noted on the tape if it records, or those that the tape says.
    fn moments(tape: Option<&Tape>, own: impl FnOnce() -> Result<Groups>) -> Result<Groups> {
        let Some(tape) = tape else { return own() };
        match &tape.at {
            None => {
                let moments = own()?;
                tape.norms.borrow_mut().push(moments.clone());
                Ok(moments)
            }
            Some(at) => {
                let norms = tape.norms.borrow();
                let Some(moments) = norms.get(at.get()) else { bail!("more norms than were recorded") };
                at.set(at.get() + 1);
                Ok(moments.clone())
            }
        }
    }
}
