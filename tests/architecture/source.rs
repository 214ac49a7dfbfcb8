//! Rust source as tokens, paths and functions: as much as the rules need, and no more.
//!
//! It is textual: it doesn't see paths that a macro makes.

/// A word or a sign. Comments are left out, and literals are empty: nothing in them is code.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Token<'a> {
    pub(crate) text: &'a str,
    pub(crate) line: usize,
    /// It belongs to an item under `#[cfg(test)]`.
    pub(crate) is_test: bool,
}

/// A path as code names it, groups of a `use` resolved: `["crate", "run", "Seq"]`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Path<'a> {
    pub(crate) segments: Vec<&'a str>,
    pub(crate) line: usize,
    pub(crate) is_test: bool,
}

/// A function with a body.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Function<'a> {
    pub(crate) name: &'a str,
    pub(crate) line: usize,
    /// From `fn` to the last brace.
    pub(crate) lines: usize,
}

/// Takes source apart.
pub(crate) fn tokens(text: &str) -> Vec<Token<'_>> {
    let mut found = Vec::new();
    let mut at = 0;
    let mut line = 1;
    while at < text.len() {
        let rest = &text[at..];
        let (length, is_code) = first(rest);
        let token = &rest[..length];
        if is_code {
            found.push(Token { text: token, line, is_test: false });
        } else if !token.trim().is_empty() && !token.starts_with('/') {
            found.push(Token { text: "", line, is_test: false });
        }
        line += token.matches('\n').count();
        at += length;
    }
    mark_tests(&mut found);
    found
}

/// The length of what stands first, and whether it is code: no space, comment or literal.
fn first(rest: &str) -> (usize, bool) {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let words = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
    let next = rest.chars().next().map_or(0, char::len_utf8);
    if rest.starts_with(char::is_whitespace) {
        return (rest.find(|c: char| !c.is_whitespace()).unwrap_or(rest.len()), false);
    }
    if rest.starts_with("//") {
        return (rest.find('\n').unwrap_or(rest.len()), false);
    }
    if rest.starts_with("/*") {
        return (block_comment(rest), false);
    }
    if let Some(length) = string(rest) {
        return (length, false);
    }
    if let Some(quoted) = rest.strip_prefix('\'') {
        return match character(quoted) {
            Some(length) => (1 + length, false),
            // A lifetime: its name is no word of the code's.
            None => (1 + quoted.find(|c| !is_word(c)).unwrap_or(quoted.len()), false),
        };
    }
    if words > 0 {
        return (words, !rest.starts_with(|c: char| c.is_ascii_digit()));
    }
    (if rest.starts_with("::") { 2 } else { next }, true)
}

fn block_comment(rest: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < rest.len() {
        let here = &rest.as_bytes()[at..];
        if here.starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if here.starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

/// The length of a string literal, raw or not, with its prefix.
fn string(rest: &str) -> Option<usize> {
    let prefix = ["br", "cr", "b", "c", "r", ""].into_iter().find(|prefix| {
        let behind = rest.strip_prefix(prefix).unwrap_or_default();
        let hashes = if prefix.ends_with('r') { behind.trim_start_matches('#') } else { behind };
        hashes.starts_with('"')
    })?;
    let behind = &rest[prefix.len()..];
    if prefix.ends_with('r') {
        let hashes = behind.len() - behind.trim_start_matches('#').len();
        let end = format!("\"{}", "#".repeat(hashes));
        let start = prefix.len() + hashes + 1;
        return Some(rest[start..].find(&end).map_or(rest.len(), |at| start + at + end.len()));
    }
    let mut is_escaped = false;
    for (at, c) in behind.char_indices().skip(1) {
        if c == '"' && !is_escaped {
            return Some(prefix.len() + at + 1);
        }
        is_escaped = c == '\\' && !is_escaped;
    }
    Some(rest.len())
}

/// The length of a character literal behind its first quote; none where it is a lifetime.
fn character(quoted: &str) -> Option<usize> {
    let mut chars = quoted.char_indices();
    let (_, c) = chars.next()?;
    if c == '\\' {
        chars.next()?;
        return chars.find(|(_, c)| *c == '\'').map(|(at, _)| at + 1);
    }
    chars.next().filter(|(_, c)| *c == '\'').map(|(at, _)| at + 1)
}

fn mark_tests(tokens: &mut [Token<'_>]) {
    let mark = ["#", "[", "cfg", "(", "test", ")", "]"];
    for at in 0..tokens.len() {
        let words: Vec<&str> = tokens[at..].iter().take(mark.len()).map(|t| t.text).collect();
        if words == mark {
            let end = item_end(tokens, at + mark.len());
            for token in &mut tokens[at..end] {
                token.is_test = true;
            }
        }
    }
}

/// Behind the item that begins here: its `;`, or the end of its block.
fn item_end(tokens: &[Token<'_>], from: usize) -> usize {
    let mut depth = 0;
    for (at, token) in tokens.iter().enumerate().skip(from) {
        match token.text {
            "(" | "[" => depth += 1,
            ")" | "]" => depth -= 1,
            ";" if depth == 0 => return at + 1,
            "{" if depth == 0 => return block_end(tokens, at),
            _ => {}
        }
    }
    tokens.len()
}

/// Behind the brace that closes the block that opens here.
fn block_end(tokens: &[Token<'_>], open: usize) -> usize {
    let mut depth = 0;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token.text {
            "{" => depth += 1,
            "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at + 1;
        }
    }
    tokens.len()
}

/// Every path of two segments or more, and every path that is imported.
pub(crate) fn paths<'a>(tokens: &[Token<'a>]) -> Vec<Path<'a>> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let token = tokens[at];
        let follows = |offset: usize| tokens.get(at + offset).map_or("", |token| token.text);
        if (token.text == "use" && follows(1) != "<") || token.text == "extern" {
            let start = if follows(1) == "crate" && token.text == "extern" { 2 } else { 1 };
            at = tree(tokens, at + start, &[], &mut found).max(at + 1);
        } else if is_word(token.text) && follows(1) == "::" && is_start(tokens, at) {
            let mut segments = vec![token.text];
            while follows(2 * segments.len() - 1) == "::" && is_word(follows(2 * segments.len())) {
                segments.push(follows(2 * segments.len()));
            }
            at += 2 * segments.len() - 1;
            found.push(Path { segments, line: token.line, is_test: token.is_test });
        } else {
            at += 1;
        }
    }
    found
}

fn is_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Whether a path begins here: not behind `x::` or `<T>::`, but behind a leading `::`.
fn is_start(tokens: &[Token<'_>], at: usize) -> bool {
    let before = |by: usize| at.checked_sub(by).map_or("", |at| tokens[at].text);
    before(1) != "::" || !(is_word(before(2)) || before(2) == ">")
}

/// Resolves one branch of a `use`; gives the place behind it.
fn tree<'a>(
    tokens: &[Token<'a>],
    from: usize,
    prefix: &[&'a str],
    found: &mut Vec<Path<'a>>,
) -> usize {
    let mut segments = prefix.to_vec();
    let mut at = from;
    while let Some(token) = tokens.get(at) {
        match token.text {
            "::" => at += 1,
            "{" => {
                at += 1;
                while tokens.get(at).is_some_and(|token| token.text != "}") {
                    at = tree(tokens, at, &segments, found);
                    at += usize::from(tokens.get(at).is_some_and(|token| token.text == ","));
                }
                return at + 1;
            }
            "as" => at += 2,
            "self" if !segments.is_empty() => at += 1,
            word if is_word(word) || word == "*" => {
                segments.push(word);
                at += 1;
            }
            _ => break,
        }
    }
    if let Some(token) = tokens.get(from).filter(|_| at > from) {
        found.push(Path { segments, line: token.line, is_test: token.is_test });
    }
    at.max(from + usize::from(at == from))
}

/// Every function with a body.
pub(crate) fn functions<'a>(tokens: &[Token<'a>]) -> Vec<Function<'a>> {
    let mut found = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        let Some(name) = tokens.get(at + 1).filter(|name| is_word(name.text)) else { continue };
        if token.text != "fn" {
            continue;
        }
        let last = tokens[item_end(tokens, at) - 1];
        if last.text == "}" {
            let lines = last.line - token.line + 1;
            found.push(Function { name: name.text, line: token.line, lines });
        }
    }
    found
}

/// Whether these tokens stand somewhere outside of tests, and where.
pub(crate) fn find(tokens: &[Token<'_>], sequence: &[&str]) -> Option<usize> {
    tokens
        .windows(sequence.len())
        .find(|window| {
            !window[0].is_test && window.iter().map(|token| token.text).eq(sequence.iter().copied())
        })
        .map(|window| window[0].line)
}
