//! The names that one tensor has had over the years. The model code asks by today's name; here, and only here, are the
//! others it may be stored under.

/// Today's names of an attention's linear layers in diffusers and those of the `AttentionBlock` of 2022, which many
/// published VAEs still carry.
const ATTENTION: [(&str, &str); 4] =
    [(".to_q.", ".query."), (".to_k.", ".key."), (".to_v.", ".value."), (".to_out.0.", ".proj_attn.")];

/// Published CLIP text encoders carry this prefix; transformers 5 writes them without.
const TEXT_PREFIX: &str = "text_model.";

/// The other names under which the tensor of this name may be stored, best first.
pub(super) fn alternatives(name: &str) -> impl Iterator<Item = String> + '_ {
    let attention = ATTENTION.iter().flat_map(move |&(new, old)| {
        let renamed = |from: &str, to: &str| name.contains(from).then(|| name.replacen(from, to, 1));
        [renamed(new, old), renamed(old, new)].into_iter().flatten()
    });
    let prefix = match name.strip_prefix(TEXT_PREFIX) {
        Some(bare) => bare.to_string(),
        None => format!("{TEXT_PREFIX}{name}"),
    };
    attention.chain([prefix])
}

#[cfg(test)]
mod tests {
    use super::alternatives;

    fn all(name: &str) -> Vec<String> {
        alternatives(name).collect()
    }

    #[test]
    fn attention_of_2022() {
        let old = "decoder.mid_block.attentions.0.proj_attn.bias";
        let new = "decoder.mid_block.attentions.0.to_out.0.bias";
        assert!(all(new).contains(&old.to_string()));
        assert!(all(old).contains(&new.to_string()));
        assert!(all("a.to_k.weight").contains(&"a.key.weight".to_string()));
    }

    #[test]
    fn text_prefix_comes_and_goes() {
        assert_eq!(all("text_model.final_layer_norm.bias"), ["final_layer_norm.bias"]);
        assert_eq!(all("final_layer_norm.bias"), ["text_model.final_layer_norm.bias"]);
    }
}
