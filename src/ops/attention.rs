//! Scaled dot-product attention over several heads.

use candle_core::{D, DType, Result, Tensor};

/// softmax(q·kᵀ / √d)·v for each head, in f32.
///
/// `q` is `[N, T, C]`, `k` and `v` are `[N, S, C]` with the heads side by side in C; gives `[N, T, C]`.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize) -> Result<Tensor> {
    let (n, t, c) = q.dims3()?;
    let split = |x: &Tensor| x.reshape((n, x.dim(1)?, heads, c / heads))?.transpose(1, 2)?.contiguous();
    let (q, k, v) = (split(q)?, split(k)?, split(v)?);
    let scale = 1.0 / ((c / heads) as f64).sqrt();
    let dtype = q.dtype();
    let scores = (q.matmul(&k.transpose(2, 3)?.contiguous()?)?.to_dtype(DType::F32)? * scale)?;
    let scores = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?)?.exp()?;
    let weights = scores.broadcast_div(&scores.sum_keepdim(D::Minus1)?)?.to_dtype(dtype)?;
    weights.matmul(&v)?.transpose(1, 2)?.reshape((n, t, c))
}
