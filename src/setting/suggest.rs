//! What a user may have meant by a name that there is not.

/// The entries of `names` nearest to `word`, best first, those that contain it before others, at most three and none too
/// far.
fn nearest<'a>(word: &str, names: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let reach = 1 + word.chars().count() / 3;
    let mut found: Vec<(usize, usize, &str)> = names
        .into_iter()
        .filter_map(|name| {
            let distance = edit_distance(word, name);
            let part = word.len() >= 3 && name.contains(word);
            (distance <= reach || part).then_some((if part { 0 } else { distance }, distance, name))
        })
        .collect();
    found.sort();
    found.into_iter().take(3).map(|(_, _, name)| name).collect()
}

/// `did you mean …? ` for the nearest names, or nothing.
pub fn did_you_mean<'a>(word: &str, names: impl IntoIterator<Item = &'a str>) -> String {
    match nearest(word, names).as_slice() {
        [] => String::new(),
        near => format!("did you mean `{}`? ", near.join("` or `")),
    }
}

/// Levenshtein distance.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, to) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_contains_the_word_and_little_else_comes_first() {
        let names = ["decay-epochs", "epochs", "classifier-epochs", "warmup-epochs", "depth"];
        assert_eq!(nearest("epoch", names), ["epochs", "decay-epochs", "warmup-epochs"]);
        assert_eq!(nearest("dpth", names), ["depth"]);
    }

    /// Oracle: distances counted by hand.
    #[test]
    fn edit_distances() {
        assert_eq!(edit_distance("kitten", "sitting"), 3);
        assert_eq!(edit_distance("", "abc"), 3);
        assert_eq!(edit_distance("mu", "mu"), 0);
    }
}
