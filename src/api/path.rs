//! One path for every base URL that a client builds.

/// Repeated and trailing slashes collapsed, then an optional `/replicate` and up to two `/v1` stripped. The result
/// begins with a slash.
pub fn normalise(path: &str) -> String {
    let mut segments = path.split('/').filter(|segment| !segment.is_empty()).peekable();
    segments.next_if_eq(&"replicate");
    segments.next_if_eq(&"v1");
    segments.next_if_eq(&"v1");
    let rest: Vec<&str> = segments.collect();
    format!("/{}", rest.join("/"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_base_leads_to_the_same_route() {
        for base in
            ["", "/v1", "/v1/v1", "/replicate", "/replicate/v1", "/replicate/v1/v1", "//", "/v1/", "/replicate//v1/"]
        {
            assert_eq!(normalise(&format!("{base}/predictions/x")), "/predictions/x", "{base}");
        }
        assert_eq!(normalise("/v1/v1/v1/predictions"), "/v1/predictions");
        assert_eq!(normalise("/v1/replicate/predictions"), "/replicate/predictions");
        assert_eq!(normalise("/models/replicate/v1/predictions"), "/models/replicate/v1/predictions");
        assert_eq!(normalise("/predictions/"), "/predictions");
        assert_eq!(normalise("*"), "/*");
        assert_eq!(normalise(""), "/");
    }

    proptest! {
        #[test]
        fn any_path_is_rooted_and_has_no_empty_segment(path in "\\PC*", pieces in "[/v1replicat.%]{0,40}") {
            for path in [path, pieces] {
                let normal = normalise(&path);
                prop_assert!(normal.starts_with('/'));
                prop_assert!(!normal.contains("//"));
                prop_assert!(normal == "/" || !normal.ends_with('/'));
            }
        }
    }
}
