//! CLIP: tokenizer and text encoder. Strings in, prompt embeddings out; what a pipeline does with them (guidance, which
//! hidden state) is not decided here.

mod special_tokens;
mod tokenizer;

pub use tokenizer::{ClipTokenizer, TokenizerError};
