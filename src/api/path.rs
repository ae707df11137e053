//! One path for every base URL that a client builds.

/// What the names of event streams begin with, among those of files. No file id holds a hyphen.
const STREAM: &str = "stream-";

/// Repeated and trailing slashes collapsed, then an optional `/replicate` and up to two `/v1` stripped. The result
/// begins with a slash.
///
/// The JavaScript client knows streams of files by an address like that of a file, `/v1/files/stream-…`; inside they
/// have a folder of their own, `/streams/stream-…`, since other rules hold there.
pub fn normalise(path: &str) -> String {
    let mut segments = path.split('/').filter(|segment| !segment.is_empty()).peekable();
    segments.next_if_eq(&"replicate");
    segments.next_if_eq(&"v1");
    segments.next_if_eq(&"v1");
    let mut rest: Vec<&str> = segments.collect();
    if let [folder @ "files", name] = &mut rest[..]
        && name.starts_with(STREAM)
    {
        *folder = "streams";
    }
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
        assert_eq!(normalise("/v1/files/stream-x"), "/streams/stream-x");
        assert_eq!(normalise("/replicate/v1/files/stream-x/"), "/streams/stream-x");
        assert_eq!(normalise("/v1/files/stream-x/download"), "/files/stream-x/download");
        assert_eq!(normalise("/v1/files/ZTc0"), "/files/ZTc0");
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
