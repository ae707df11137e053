//! Which tokens of a CLIP tokenizer are special and how they are matched in a prompt, from the files that describe them:
//! the rules by which transformers 5's `from_pretrained` merges `tokenizer_config.json`, `special_tokens_map.json`,
//! `added_tokens.json` and the `added_tokens` of a `tokenizer.json`.

use std::collections::BTreeMap;

use serde::Deserialize;
use tokenizers::AddedToken;

/// A special token as the files write it.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum Written {
    Plain(String),
    Described(Described),
}

/// transformers' `AddedToken`, with the fields that a file leaves out.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Described {
    content: String,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    #[serde(default)]
    single_word: bool,
    normalized: Option<bool>,
    special: Option<bool>,
}

impl Described {
    fn token(&self, special: bool) -> AddedToken {
        AddedToken::from(self.content.clone(), special)
            .lstrip(self.lstrip)
            .rstrip(self.rstrip)
            .single_word(self.single_word)
            .normalized(self.normalized.unwrap_or(!special))
    }
}

impl Written {
    fn content(&self) -> &str {
        match self {
            Written::Plain(content) => content,
            Written::Described(described) => &described.content,
        }
    }

    /// A string becomes a special token that is matched as it is written, before the text is normalised.
    fn token(&self) -> AddedToken {
        match self {
            Written::Plain(content) => AddedToken::from(content.clone(), true),
            Written::Described(described) => described.token(true),
        }
    }
}

/// The special tokens' keys, in the order in which transformers adds them. The same in both files.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Names {
    bos_token: Option<Written>,
    eos_token: Option<Written>,
    unk_token: Option<Written>,
    sep_token: Option<Written>,
    pad_token: Option<Written>,
    cls_token: Option<Written>,
    mask_token: Option<Written>,
    #[serde(alias = "additional_special_tokens", default)]
    extra_special_tokens: Option<Vec<Written>>,
}

/// What is read of `tokenizer_config.json`.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Config {
    #[serde(flatten)]
    names: Names,
    added_tokens_decoder: Option<BTreeMap<u32, Described>>,
    pub model_max_length: Option<f64>,
}

/// A member of `added_tokens` in a `tokenizer.json`.
#[derive(Debug, Deserialize)]
pub(super) struct Numbered {
    id: u32,
    #[serde(flatten)]
    token: Described,
}

/// The files beside the vocabulary; those that a checkpoint does not have are empty.
#[derive(Default)]
pub(super) struct Files {
    pub config: Config,
    pub special_tokens_map: Names,
    pub added_tokens: BTreeMap<String, u32>,
    pub tokenizer_json: Vec<Numbered>,
}

/// The special tokens of a tokenizer.
pub(super) struct SpecialTokens {
    pub bos: String,
    pub eos: String,
    pub unk: String,
    pub pad: String,
    /// What is matched whole in a prompt, in the order in which it is added: of two with one content the last counts.
    pub added: Vec<AddedToken>,
}

impl SpecialTokens {
    pub fn new(files: Files) -> SpecialTokens {
        let Files { config, special_tokens_map, added_tokens, tokenizer_json } = files;
        let (names, decoder) = match config.added_tokens_decoder {
            Some(decoder) => (config.names, in_order(decoder)),
            None => {
                let names = config.names.overridden_by(special_tokens_map);
                let decoder = legacy_decoder(&names, added_tokens, tokenizer_json);
                (names, decoder)
            }
        };
        let named = |name: &Option<Written>, default: &str| -> Written {
            name.clone().unwrap_or_else(|| Written::Plain(default.to_string()))
        };
        let bos = named(&names.bos_token, "<|startoftext|>");
        let [eos, unk, pad] =
            [&names.eos_token, &names.unk_token, &names.pad_token].map(|name| named(name, "<|endoftext|>"));
        let mut added: Vec<AddedToken> = decoder;
        let fixed = [Some(&bos), Some(&eos), Some(&unk), names.sep_token.as_ref(), Some(&pad)];
        let named = fixed.into_iter().chain([names.cls_token.as_ref(), names.mask_token.as_ref()]).flatten();
        let described: Vec<String> = added.iter().map(|t| t.content.clone()).collect();
        for written in named.chain(names.extra_special_tokens.iter().flatten()) {
            let token = written.token();
            if !described.contains(&token.content) && !added.contains(&token) {
                added.push(token);
            }
        }
        let [bos, eos, unk, pad] = [bos, eos, unk, pad].map(|written| written.content().to_string());
        SpecialTokens { bos, eos, unk, pad, added }
    }
}

impl Names {
    fn overridden_by(self, other: Names) -> Names {
        Names {
            bos_token: other.bos_token.or(self.bos_token),
            eos_token: other.eos_token.or(self.eos_token),
            unk_token: other.unk_token.or(self.unk_token),
            sep_token: other.sep_token.or(self.sep_token),
            pad_token: other.pad_token.or(self.pad_token),
            cls_token: other.cls_token.or(self.cls_token),
            mask_token: other.mask_token.or(self.mask_token),
            extra_special_tokens: other.extra_special_tokens.or(self.extra_special_tokens),
        }
    }

    fn contents(&self) -> impl Iterator<Item = &str> {
        let named = [&self.bos_token, &self.eos_token, &self.unk_token, &self.sep_token];
        let named = named.into_iter().chain([&self.pad_token, &self.cls_token, &self.mask_token]).flatten();
        named.chain(self.extra_special_tokens.iter().flatten()).map(Written::content)
    }
}

fn in_order(decoder: BTreeMap<u32, Described>) -> Vec<AddedToken> {
    decoder.into_values().map(|described| described.token(described.special.unwrap_or(false))).collect()
}

/// The added tokens of checkpoints from before `added_tokens_decoder`.
fn legacy_decoder(names: &Names, added: BTreeMap<String, u32>, json: Vec<Numbered>) -> Vec<AddedToken> {
    let mut decoder = BTreeMap::new();
    for (content, id) in added {
        let special = names.contents().any(|name| name == content);
        decoder.insert(id, Described { special: Some(special), ..Described::plain(content) });
    }
    decoder.extend(json.into_iter().map(|numbered| (numbered.id, numbered.token)));
    in_order(decoder)
}

impl Described {
    fn plain(content: String) -> Described {
        Described { content, lstrip: false, rstrip: false, single_word: false, normalized: None, special: None }
    }
}
