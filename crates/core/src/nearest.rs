//! Suggestions for misspelt names.

/// Returns the candidate that is nearest to `word`, if at most a third of its characters differ.
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
        // The distance is in characters, not bytes; a transposition counts once.
        assert_eq!(nearest("zähl", ["zahl"]), Some("zahl"));
        assert_eq!(nearest("tokne", ["token"]), Some("token"));
    }
}
