//! CLIP's byte-level BPE: a prompt to the token ids of one row. Equal to transformers' `CLIPTokenizer` as diffusers'
//! pipelines call it (`padding="max_length", truncation=True`), which since transformers 5 is this same `tokenizers`
//! library with the normaliser and the pattern written out below.

use std::collections::HashMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::replace::ReplacePattern;
use tokenizers::normalizers::{Lowercase, NFC, Replace, Sequence};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence as Steps;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{NormalizerWrapper, PreTokenizerWrapper, SplitDelimiterBehavior, Tokenizer};

use super::special_tokens::{Config, Files, Numbered, SpecialTokens};
use crate::weights::{Checkpoint, WeightsError};

/// Words, digits one by one, runs of anything else, English contractions, and CLIP's own special tokens.
const PATTERN: &str = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

/// The length of CLIP's context, for tokenizers that do not say theirs.
const CONTEXT: usize = 77;

/// What is wrong with the files of a tokenizer, or, for damaged vocabularies, with a text.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    #[error(transparent)]
    Weights(#[from] WeightsError),
    #[error("{folder}/merges.txt: line {line} is not two symbols and a space between")]
    Merge { folder: String, line: usize },
    #[error("{folder}: the vocabulary has no token {token:?}")]
    MissingToken { folder: String, token: String },
    #[error("{folder}: {reason}")]
    Vocabulary { folder: String, reason: String },
    #[error("{folder}/tokenizer_config.json: model_max_length is {length}, which leaves no room for a prompt")]
    Length { folder: String, length: f64 },
    #[error("the prompt could not be tokenized: {0}")]
    Text(String),
}

/// A CLIP tokenizer of some checkpoint.
pub struct ClipTokenizer {
    tokenizer: Tokenizer,
    bos: u32,
    eos: u32,
    pad: u32,
    length: usize,
    /// So many runs of anything but spaces hold more tokens than a row.
    runs: usize,
}

/// The part of a `tokenizer.json` that a CLIP tokenizer differs in.
#[derive(Deserialize)]
struct TokenizerJson {
    model: Model,
    #[serde(default)]
    added_tokens: Vec<Numbered>,
}

#[derive(Deserialize)]
struct Model {
    vocab: HashMap<String, u32>,
    merges: Vec<Merge>,
}

/// `"a b"` in older files, `["a", "b"]` in newer ones.
#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Line(String),
    Pair(String, String),
}

impl ClipTokenizer {
    /// The tokenizer in a folder of a checkpoint: `tokenizer` or, for SDXL's second encoder, `tokenizer_2`.
    ///
    /// # Errors
    /// When there is neither a `tokenizer.json` (which comes first, as in transformers) nor `vocab.json` with
    /// `merges.txt`, or they make no CLIP tokenizer.
    pub fn load(checkpoint: &Checkpoint, folder: &str) -> Result<ClipTokenizer, TokenizerError> {
        let path = |name: &str| format!("{folder}/{name}");
        let mut files = Files {
            config: optional(checkpoint, &path("tokenizer_config.json"))?,
            special_tokens_map: optional(checkpoint, &path("special_tokens_map.json"))?,
            added_tokens: optional(checkpoint, &path("added_tokens.json"))?,
            tokenizer_json: Vec::new(),
        };
        let (vocabulary, merges) = if checkpoint.exists(&path("tokenizer.json")) {
            let json: TokenizerJson = checkpoint.json(&path("tokenizer.json"))?;
            files.tokenizer_json = json.added_tokens;
            (json.model.vocab, pairs(json.model.merges, folder)?)
        } else {
            let vocabulary = checkpoint.json(&path("vocab.json"))?;
            let merges = checkpoint.bytes(&path("merges.txt"))?;
            (vocabulary, parse_merges(&String::from_utf8_lossy(&merges), folder)?)
        };
        ClipTokenizer::new(vocabulary, merges, files, folder)
    }

    fn new(
        vocabulary: HashMap<String, u32>,
        merges: Vec<(String, String)>,
        files: Files,
        folder: &str,
    ) -> Result<ClipTokenizer, TokenizerError> {
        let length = length(&files.config, folder)?;
        let special = SpecialTokens::new(files);
        let broken =
            |e: tokenizers::Error| TokenizerError::Vocabulary { folder: folder.to_string(), reason: e.to_string() };
        let id = |tokenizer: &Tokenizer, token: &str| {
            let missing = || TokenizerError::MissingToken { folder: folder.to_string(), token: token.to_string() };
            tokenizer.token_to_id(token).ok_or_else(missing)
        };
        let words = special.added.iter().map(|token| token.content.split(' ').count()).max().unwrap_or(1);

        let bpe = BPE::builder()
            .vocab_and_merges(vocabulary.into_iter().collect::<Vocab>(), merges)
            .continuing_subword_prefix(String::new())
            .end_of_word_suffix("</w>".to_string())
            .unk_token(special.unk.clone())
            .build()
            .map_err(broken)?;
        let mut tokenizer = Tokenizer::new(bpe);
        // An unknown token outside the vocabulary would make every unknown symbol an error.
        id(&tokenizer, &special.unk)?;
        tokenizer.with_normalizer(Some(normalizer().map_err(broken)?)).map_err(broken)?;
        tokenizer.with_pre_tokenizer(Some(pre_tokenizer().map_err(broken)?));
        tokenizer.add_tokens(special.added).map_err(broken)?;
        let [bos, eos, pad] =
            [id(&tokenizer, &special.bos)?, id(&tokenizer, &special.eos)?, id(&tokenizer, &special.pad)?];
        Ok(ClipTokenizer { tokenizer, bos, eos, pad, length, runs: (length + 1) * words + 1 })
    }

    /// Ids in a row: CLIP's 77.
    pub fn length(&self) -> usize {
        self.length
    }

    /// The row of a text: start token, as many tokens of the text as there is room for, end token, padding. Of a text of
    /// any length only its beginning is worked on; a text without spaces costs about a second per megabyte.
    ///
    /// # Errors
    /// When the vocabulary is so damaged that a symbol of the text has no token.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let text = beginning(text, self.runs);
        let encoding = self.tokenizer.encode_fast(text, false).map_err(|e| TokenizerError::Text(e.to_string()))?;
        let mut ids = Vec::with_capacity(self.length);
        ids.push(self.bos);
        ids.extend(encoding.get_ids().iter().take(self.length - 2));
        ids.push(self.eos);
        ids.resize(self.length, self.pad);
        Ok(ids)
    }
}

/// The beginning of a text that decides its first ids, so that megabytes of words cost no more than a page. It is cut
/// at a space: nothing of what stands before one depends on what comes after, and every run of anything but spaces is
/// at least one token (of `words` runs, for special tokens with spaces in them).
fn beginning(text: &str, runs: usize) -> &str {
    let mut seen = 0;
    let mut in_run = false;
    for (at, c) in text.char_indices() {
        let space = c.is_whitespace();
        if in_run && space {
            seen += 1;
        }
        in_run = !space;
        if seen >= runs && c == ' ' {
            return &text[..at];
        }
    }
    text
}

fn normalizer() -> tokenizers::Result<NormalizerWrapper> {
    let spaces = Replace::new(ReplacePattern::Regex(r"\s+".to_string()), " ")?;
    Ok(Sequence::new(vec![NFC.into(), spaces.into(), Lowercase.into()]).into())
}

fn pre_tokenizer() -> tokenizers::Result<PreTokenizerWrapper> {
    let split = Split::new(SplitPattern::Regex(PATTERN.to_string()), SplitDelimiterBehavior::Removed, true)?;
    let bytes = ByteLevel::default().add_prefix_space(false);
    Ok(Steps::new(vec![split.into(), bytes.into()]).into())
}

fn optional<T: DeserializeOwned + Default>(checkpoint: &Checkpoint, path: &str) -> Result<T, WeightsError> {
    if checkpoint.exists(path) { checkpoint.json(path) } else { Ok(T::default()) }
}

/// `model_max_length`; absent, or the huge number that stands for "none", it is CLIP's.
fn length(config: &Config, folder: &str) -> Result<usize, TokenizerError> {
    match config.model_max_length {
        None => Ok(CONTEXT),
        Some(length) if length >= 1e6 => Ok(CONTEXT),
        Some(length) if length >= 3.0 => Ok(length as usize),
        Some(length) => Err(TokenizerError::Length { folder: folder.to_string(), length }),
    }
}

fn parse_merges(text: &str, folder: &str) -> Result<Vec<(String, String)>, TokenizerError> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.starts_with("#version"));
    lines.map(|(i, line)| pair(line, i + 1, folder)).collect()
}

fn pairs(merges: Vec<Merge>, folder: &str) -> Result<Vec<(String, String)>, TokenizerError> {
    let merges = merges.into_iter().enumerate();
    let pairs = merges.map(|(i, merge)| match merge {
        Merge::Pair(left, right) => Ok((left, right)),
        Merge::Line(line) => pair(&line, i + 1, folder),
    });
    pairs.collect()
}

fn pair(line: &str, number: usize, folder: &str) -> Result<(String, String), TokenizerError> {
    match line.split_once(' ') {
        Some((left, right)) if !right.contains(' ') => Ok((left.to_string(), right.to_string())),
        _ => Err(TokenizerError::Merge { folder: folder.to_string(), line: number }),
    }
}
