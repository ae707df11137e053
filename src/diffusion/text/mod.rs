//! CLIP: tokenizer and text encoder. Strings in, prompt embeddings out; what a pipeline does with them (guidance, which
//! hidden state) is not decided here.

mod encoder;
mod special_tokens;
mod tokenizer;

pub use encoder::{ClipTextConfig, ClipTextModel, TextOutput};
pub use tokenizer::{ClipTokenizer, TokenizerError};
