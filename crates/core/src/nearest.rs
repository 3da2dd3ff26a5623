//! What somebody who made a slip in writing meant.

/// The candidate that `word` was most likely meant to be, if any is near: a third of its characters
/// may differ.
#[must_use]
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= candidate.chars().count().max(3) / 3)
        .min()
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_found_and_a_far_one_is_not() {
        assert_eq!(nearest("timout", ["timeout", "token"]), Some("timeout"));
        assert_eq!(
            nearest("opnmeter", ["stdout", "openmeter"]),
            Some("openmeter")
        );
        assert_eq!(nearest("zzz", ["timeout", "token"]), None);
        // Characters count, and not bytes; two that are swapped are one slip.
        assert_eq!(nearest("zähl", ["zahl"]), Some("zahl"));
        assert_eq!(nearest("tokne", ["token"]), Some("token"));
    }
}
