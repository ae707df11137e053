//! Scaled dot-product attention over several heads.

use super::cpu::attention::{Tokens, attention as tiled};
use super::view::{View, is_ours};
use candle_core::{D, DType, Result, Tensor, bail};

/// softmax(q·kᵀ / √d)·v for each head, in f32.
///
/// `q` is `[N, T, C]`, `k` and `v` are `[N, S, C]` with the heads side by side in C; gives `[N, T, C]`. They may be
/// parts of a wider tensor, such as the three of one fused projection.
///
/// # Errors
/// Shapes that do not fit together.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize) -> Result<Tensor> {
    let (n, t, c) = q.dims3()?;
    let s = k.dim(1)?;
    if k.dims() != [n, s, c] || v.dims() != [n, s, c] || heads == 0 || c % heads != 0 || n * t * s * c == 0 {
        bail!("attention of {heads} heads: queries {:?}, keys {:?}, values {:?}", q.dims(), k.dims(), v.dims());
    }
    if !is_ours(q) {
        return attention_plain(q, k, v, heads);
    }
    let (q, k, v) = (in_rows(q)?, in_rows(k)?, in_rows(v)?);
    let views = (View::new(&q), View::new(&k), View::new(&v));
    let tokens = |view, x: &Tensor| -> Result<Tokens> {
        let view: &View = view;
        Ok(Tokens { values: view.values()?, tokens: x.dim(1)?, stride: x.stride()[1] })
    };
    let (queries, keys, values) = (tokens(&views.0, &q)?, tokens(&views.1, &k)?, tokens(&views.2, &v)?);
    Tensor::from_vec(tiled(queries, keys, values, n, heads, c / heads), (n, t, c), q.device())
}

/// The tensor itself where the kernel can step through it, else a copy.
fn in_rows(x: &Tensor) -> Result<Tensor> {
    let stride = x.stride();
    if stride[2] == 1 && stride[0] == x.dim(1)? * stride[1] { Ok(x.clone()) } else { x.contiguous() }
}

/// The same on plain candle operations: for other devices, and what tests compare with.
pub fn attention_plain(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize) -> Result<Tensor> {
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
