//! Where the header of a tool names a secret of the operator's: `Bearer ${secret:SHOP_KEY}`.

/// How a reference begins.
const OPEN: &str = "${secret:";

/// A stretch of a header's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// As it is written.
    Plain(&'a str),
    /// The value of the secret of this name.
    Secret(&'a str),
}

/// Whether a secret may have this name: 1 to 64 of `[A-Za-z0-9_-]`.
pub fn is_name(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    (1..=64).contains(&name.len()) && name.bytes().all(is_plain)
}

/// A header's value in pieces; none where a reference has no end or no name.
pub fn pieces(value: &str) -> Option<Vec<Piece<'_>>> {
    let mut pieces = Vec::new();
    let mut rest = value;
    while let Some((before, behind)) = rest.split_once(OPEN) {
        let (name, after) = behind.split_once('}')?;
        if !is_name(name) {
            return None;
        }
        pieces.extend((!before.is_empty()).then_some(Piece::Plain(before)));
        pieces.push(Piece::Secret(name));
        rest = after;
    }
    pieces.extend((!rest.is_empty()).then_some(Piece::Plain(rest)));
    Some(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_cut_into_what_is_written_and_what_is_named() {
        let (plain, secret) = (Piece::Plain, Piece::Secret);
        assert_eq!(pieces("blue"), Some(vec![plain("blue")]));
        assert_eq!(pieces(""), Some(vec![]));
        assert_eq!(pieces("Bearer ${secret:A}"), Some(vec![plain("Bearer "), secret("A")]));
        let two = pieces("${secret:A}${secret:b_2-x}!");
        assert_eq!(two, Some(vec![secret("A"), secret("b_2-x"), plain("!")]));
        assert_eq!(pieces("$HOME ${secret A}"), Some(vec![plain("$HOME ${secret A}")]));
    }

    #[test]
    fn a_broken_reference_is_refused() {
        for broken in ["${secret:A", "${secret:}", "${secret:A b}", "x${secret:${secret:A}}"] {
            assert_eq!(pieces(broken), None, "{broken}");
        }
    }
}
